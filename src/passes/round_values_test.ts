import assert from "node:assert/strict";
import { inlineData } from "../graph/builder.ts";
import type { Graph } from "../graph/graph.ts";
import { printGraph } from "../graph/text.ts";
import { parseGraph } from "../graph/text_parser.ts";
import { verify } from "../graph/verify.ts";
import { mostFloats, roundValues } from "./round_values.ts";

const VALUES = Float32Array.of(1 + 2 ** -8 + 2 ** -12, -(1 + 2 ** -12));

function graph(text: string): Graph<"local"> {
  return parseGraph(text, {
    stage: "local",
    resolve: (_, { dtype, shape }) => inlineData(dtype, shape, dtype === "f32" ? VALUES : new BigInt64Array(1)),
  });
}

const TEXT = `graph g : local {opset=17}
%x = placeholder : f32[n,1]
%ids = placeholder : i64[n]
%w = get_attr : f32[1,2]
%h = MatMul(%x, %w) : f32[n,2]
%y = all_reduce(%h) {reduction=sum} : f32[n,2]
%z = Gather(%y, %ids) {axis=0} : f32[n,2]
output %z, %x as "again"
`;

Deno.test("roundValues() rounds constants and what calls give, and keeps names, results and collectives", () => {
  const rounded = roundValues(graph(TEXT), "bf16");
  verify(rounded);
  assert.equal(
    printGraph(rounded).replace(/ as \w+$/gm, ""),
    `graph g : local {opset=17}
%x = placeholder : f32[n,1]
%ids = placeholder : i64[n]
%w = get_attr : f32[1,2]
%h.exact = MatMul(%x, %w) : f32[n,2]
%h.narrow = Cast(%h.exact) {to=16} : bf16[n,2]
%h = Cast(%h.narrow) {to=1} : f32[n,2]
%y = all_reduce(%h) {reduction=sum} : f32[n,2]
%z.exact = Gather(%y, %ids) {axis=0} : f32[n,2]
%z.narrow = Cast(%z.exact) {to=16} : bf16[n,2]
%z = Cast(%z.narrow) {to=1} : f32[n,2]
output %z, %x as "again"
`,
  );
  const constant = rounded.nodes.find((n) => n.kind === "get_attr")!;
  assert.ok(constant.kind === "get_attr");
  // Half way between two numbers of bf16 and a little more; and less than that.
  assert.deepEqual([...new Float32Array(constant.data.bytes().slice().buffer)], [1 + 2 ** -7, -1]);
});

Deno.test("roundValues() leaves a model alone whose floats have 16 bits", () => {
  const half = TEXT.replaceAll("f32", "f16");
  const given = parseGraph(half, {
    stage: "local",
    resolve: (_, { dtype, shape }) => inlineData(dtype, shape, new Uint16Array(2)),
  });
  assert.equal(mostFloats([given]), "f16");
  assert.equal(roundValues(given, "bf16"), given);
});
