import assert from "node:assert/strict";
import { parseGraph } from "../graph/text_parser.ts";
import { printGraph } from "../graph/text.ts";
import { verify } from "../graph/verify.ts";
import { inferTypes } from "./infer_types.ts";
import { lastLogits } from "./last_logits.ts";

const HEAD = `graph g : global {opset=17, shardwise=1}
%x = placeholder : f32[batch,sequence,4]
%i = placeholder : i64[]
%w = get_attr : f32[4,4]
%v = get_attr : f32[4,9]
`;

/** The calls after the pass, with the types of what they give. */
function calls(text: string): string[] {
  const graph = lastLogits(inferTypes(parseGraph(HEAD + text, { stage: "global" })));
  verify(graph);
  assert.deepEqual(inferTypes(graph).values, graph.values, "inference finds the types that the pass gave");
  return printGraph(graph, { nodeNames: false }).split("\n").filter((line) => /^%.*\(/.test(line));
}

Deno.test("lastLogits() cuts where positions meet, and lets every op after that do one", () => {
  assert.deepEqual(
    calls(`
%a = ReduceMean(%x) {axes=[1], keepdims=1} : f32[batch,1,4]
%m = Sub(%x, %a) : f32[batch,sequence,4]
%c = CumSum(%m, %i) : f32[batch,sequence,4]
%p = call_module shardwise.Linear(%c, %w) : f32[batch,sequence,4]
%h = Add(%m, %p) : f32[batch,sequence,4]
%logits = call_module shardwise.Linear(%h, %v) : f32[batch,sequence,9]
output %logits as "logits"`),
    [
      "%a = ReduceMean(%x) {axes=[1], keepdims=1} : f32[batch,1,4]",
      "%m = Sub(%x, %a) : f32[batch,sequence,4]",
      "%c = CumSum(%m, %i) : f32[batch,sequence,4]",
      "%c.last = Gather(%c, %last_position) {axis=1} : f32[batch,1,4]",
      "%p = call_module shardwise.Linear(%c.last, %w) : f32[batch,1,4]",
      "%m.last = Gather(%m, %last_position) {axis=1} : f32[batch,1,4]",
      "%h = Add(%m.last, %p) : f32[batch,1,4]",
      "%logits = call_module shardwise.Linear(%h, %v) : f32[batch,1,9]",
    ],
  );
});

Deno.test("lastLogits() follows positions into another dim, and leaves ops that are told their sizes", () => {
  assert.deepEqual(
    calls(`
%shape = Shape(%x) : i64[3]
%r = Reshape(%x, %shape) : f32[batch,sequence,4]
%t = Transpose(%r) {perm=[0,2,1]} : f32[batch,4,sequence]
%e = Tanh(%t) : f32[batch,4,sequence]
%u = Transpose(%e) {perm=[0,2,1]} : f32[batch,sequence,4]
%logits = call_module shardwise.Linear(%u, %v) : f32[batch,sequence,9]
output %logits as "logits"`).slice(1),
    [
      "%r = Reshape(%x, %shape) : f32[batch,sequence,4]",
      "%r.last = Gather(%r, %last_position) {axis=1} : f32[batch,1,4]",
      "%t = Transpose(%r.last) {perm=[0,2,1]} : f32[batch,4,1]",
      "%e = Tanh(%t) : f32[batch,4,1]",
      "%u = Transpose(%e) {perm=[0,2,1]} : f32[batch,1,4]",
      "%logits = call_module shardwise.Linear(%u, %v) : f32[batch,1,9]",
    ],
  );
});

Deno.test("lastLogits() leaves whole what is read for more than the logits, and draws of random numbers", () => {
  assert.deepEqual(
    calls(`
%h = Tanh(%x) : f32[batch,sequence,4]
%d = Bernoulli(%h) {seed=1.0} : f32[batch,sequence,4]
%s = Add(%d, %h) : f32[batch,sequence,4]
%logits = call_module shardwise.Linear(%s, %v) : f32[batch,sequence,9]
output %logits as "logits", %h as "hidden"`).slice(0, 4),
    [
      "%h = Tanh(%x) : f32[batch,sequence,4]",
      "%d = Bernoulli(%h) {seed=1.0} : f32[batch,sequence,4]",
      "%d.last = Gather(%d, %last_position) {axis=1} : f32[batch,1,4]",
      "%h.last = Gather(%h, %last_position) {axis=1} : f32[batch,1,4]",
    ],
  );
  const twice = `%logits = call_module shardwise.Linear(%x, %v) : f32[batch,sequence,9]
output %logits as "logits", %logits as "again"`;
  assert.deepEqual(calls(twice), ["%logits = call_module shardwise.Linear(%x, %v) : f32[batch,sequence,9]"]);
});
