import assert from "node:assert/strict";
import { f16ArrayToF32 } from "../core/half.ts";
import { tensorOf } from "../graph/attributes.ts";
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

Deno.test("roundValues() rounds a model of 16 bits to the other dtype, and leaves it alone where it has that", () => {
  // 1 + 2^-10, which bf16 has not, and the largest number.
  const halves = Uint16Array.of(0x3c01, 0x7bff);
  const given = parseGraph(TEXT.replaceAll("f32", "f16"), {
    stage: "local",
    resolve: (_, { dtype, shape }) => inlineData(dtype, shape, halves),
  });
  assert.equal(mostFloats([given]), "f16");
  assert.equal(roundValues(given, "f16"), given);
  const rounded = roundValues(given, "bf16");
  verify(rounded);
  const text = printGraph(rounded);
  assert.match(text, /%h\.narrow = Cast\(%h\.exact\) \{to=16\} : bf16\[n,2\]/);
  assert.match(text, /%h = Cast\(%h\.narrow\) \{to=10\} : f16\[n,2\]/);
  const constant = rounded.nodes.find((n) => n.kind === "get_attr")!;
  assert.ok(constant.kind === "get_attr");
  assert.deepEqual([...f16ArrayToF32(new Uint16Array(constant.data.bytes().slice().buffer))], [1, 65504]);
});

Deno.test("roundValues() keeps a number to fill with finite", () => {
  const filled = parseGraph(
    `graph g : local {opset=17}
%n = placeholder : i64[1]
%w = get_attr : f32[2]
%y = ConstantOfShape(%n) {value=tensor(f32[1], "//9//w==")} : f32[n]
output %y, %w as "w"
`,
    { stage: "local", resolve: (_, { dtype, shape }) => inlineData(dtype, shape, VALUES) },
  );
  const call = roundValues(filled, "bf16").nodes.find((n) => n.kind === "call_function" && n.op === "ConstantOfShape");
  assert.ok(call?.kind === "call_function");
  const fill = tensorOf(call.attributes, "value")!;
  assert.deepEqual([...new Float32Array(fill.bytes().slice().buffer)], [-3.3895313892515355e38]);
});
