import assert from "node:assert/strict";
import { type Graph, isCall, outputOf } from "../../graph/graph.ts";
import { parseGraph } from "../../graph/text_parser.ts";
import { withoutCopies } from "./copies.ts";
import { Lowerer } from "./lower.ts";

const graphOf = (text: string) => parseGraph(text, { stage: "local" }) as Graph<"local">;

Deno.test("withoutCopies() reads what a copy reads, and keeps the copy by which one value is two results", () => {
  const graph = withoutCopies(graphOf(`graph g : local {opset=18}
%x = placeholder : f32[4]
%a = Identity(%x) : f32[4]
%b = Cast(%a) {to=1} : f32[4]
%c = Cast(%a) {to=10} : f16[4]
%y = Exp(%b) : f32[4]
%z = Identity(%y) : f32[4]
%again = Identity(%y) : f32[4]
output %z, %again, %c
`));
  const calls = graph.nodes.filter(isCall).map((n) => `${n.outputs} = ${n.op}(${n.inputs})`);
  assert.deepEqual(calls, ["c = Cast(x)", "y = Exp(x)", "again = Identity(y)"]);
  assert.deepEqual(outputOf(graph).inputs, ["y", "again", "c"]);
});

Deno.test("a cache that Concat extends grows in place if all that reads it can step over gaps", () => {
  const grows = (reader: string) => {
    const graph = graphOf(`graph g : local {opset=18}
%x = placeholder : f32[b,2,s,4]
%past = placeholder : f32[b,2,p,4]
%present = Concat(%past, %x) {axis=-2} : f32[b,2,p+s,4]
%held = Identity(%present) : f32[b,2,p+s,4]
${reader}
output %y, %held
`);
    const lowerer = new Lowerer({ ...graph, carried: [{ input: "past", output: 1 }] }, { rank: 0, ranks: 1 });
    return [lowerer.statesInPlace.has("past"), lowerer.readsGaps];
  };
  assert.deepEqual(grows("%y = Transpose(%present) {perm=[0,1,3,2]} : f32[b,2,4,p+s]"), [true, true]);
  assert.deepEqual(grows("%y = MatMul(%x, %present) : f32[b,2,s,4]"), [true, true]);
  assert.deepEqual(grows("%y = Exp(%x) : f32[b,2,s,4]"), [true, false]);
  assert.deepEqual(grows("%y = Softmax(%present) {axis=-1} : f32[b,2,p+s,4]"), [false, false]);
  assert.deepEqual(grows("%y = Add(%past, %past) : f32[b,2,p,4]"), [false, false]);
});
