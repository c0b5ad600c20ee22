import assert from "node:assert/strict";
import { parseGraph } from "../graph/text_parser.ts";
import { printGraph } from "../graph/text.ts";
import { verify } from "../graph/verify.ts";
import type { Graph } from "../graph/graph.ts";
import { specializeBranches } from "./specialize_branches.ts";

const MERGED = `graph g : global {opset=18}
%x = placeholder : f32[batch,seq,4]
%past = placeholder : f32[batch,past,4]
%kept = placeholder : f32[batch,enc,4]
%use_cache = placeholder : bool[1]
%w = get_attr : f32[4,4]
%y, %present, %also = If(%use_cache | %x, %w, %past, %kept) {else_branch=graph b {
  %h = MatMul(%x, %w) : ?[?]
  %y = Identity(%h) : ?[?]
  output %y, %h, %x
}, then_branch=graph b {
  %h = MatMul(%x, %w) : ?[?]
  %present = Concat(%past, %h) {axis=1} : ?[?]
  %sum = ReduceSum(%kept) : ?[?]
  %y = Add(%h, %sum) : ?[?]
  %dummy = get_attr : f32[0,4]
  output %y, %present, %dummy
}} : f32[batch,seq,4], f32[batch,total,4], f32[batch,enc,4]
%z = Relu(%y) : f32[batch,seq,4]
output %z, %present, %also
carried %past -> 1
carried %kept -> 2
`;

Deno.test("specializeBranches gives a first step that begins the states, and later steps that carry them on", () => {
  const { steps, input } = specializeBranches(parseGraph(MERGED) as Graph<"global">)!;
  assert.equal(input, "use_cache");
  const { first, next } = steps!;
  verify(first);
  verify(next);
  assert.equal(
    printGraph(first),
    `graph g : global {opset=18}
%x = placeholder : f32[batch,seq,4]
%w = get_attr : f32[4,4]
%h = MatMul(%x, %w) : ?[?]
%y_2 = Identity(%h) : ?[?]
%z = Relu(%y_2) : f32[batch,seq,4]
output %z, %h as "present", %x as "also"
carried %past -> 1
carried %kept -> 2
`,
  );
  assert.deepEqual(next.carried, [{ input: "past", output: 1 }, { input: "kept" }]);
  assert.match(printGraph(next), /%sum = ReduceSum\(%kept\)/);
  assert.doesNotMatch(printGraph(next), /use_cache|If/);
});

Deno.test("specializeBranches leaves a graph alone whose condition is computed, or read by another op", () => {
  const computed = MERGED.replace("If(%use_cache |", "If(%c |").replace(
    "%w = get_attr",
    "%c = Not(%use_cache) : bool[1]\n%w = get_attr",
  );
  assert.equal(specializeBranches(parseGraph(computed) as Graph<"global">), undefined);
});
