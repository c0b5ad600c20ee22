import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import { parseDim } from "../core/dim.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { int, ints } from "../graph/attributes.ts";
import type { Attributes, Graph } from "../graph/graph.ts";
import { opDef } from "../ops/table.ts";
import { batchDims } from "./batch.ts";
import { parseMesh, printMesh } from "./mesh.ts";

type Row = readonly [
  op: string,
  inputs: readonly string[],
  shape: readonly (number | string)[],
  attributes?: Attributes,
];

/** A graph of one input `x[b,3,8]`, a matrix `w[8,12]`, and calls `v0`, `v1`, … that are typed by hand. */
function graphOf(rows: readonly Row[], shape: readonly (number | string)[] = ["b", 3, 8]): Graph<"global"> {
  const g = new GraphBuilder("global", "net", new Map([["", 17]]));
  const type = (dims: readonly (number | string)[]) =>
    ({ dtype: "f32", shape: dims.map((d) => (typeof d === "string" ? parseDim(d) : d)) }) as const;
  g.placeholder({ name: "x", type: type(shape) });
  g.getAttr("w", inlineData("f32", [8, 12], new Float32Array(96)));
  rows.forEach(([op, inputs, dims, attributes = {}], i) => {
    g.call({ kind: "call_function", domain: "", op, inputs, outputs: [`v${i}`], attributes }, [
      { name: `v${i}`, type: type(dims) },
    ]);
  });
  return g.finish({ inputs: [`v${rows.length - 1}`], names: ["y"] });
}

Deno.test("batchDims() follows the batch through products, transposes and elementwise ops", () => {
  const { symbol, inputs, outputs } = batchDims(
    graphOf([
      ["MatMul", ["x", "w"], ["b", 3, 12]],
      ["Transpose", ["v0"], [3, "b", 12], { perm: ints([1, 0, 2]) }],
      ["Relu", ["v1"], [3, "b", 12]],
    ]),
    opDef,
  );
  assert.equal(symbol, "b");
  assert.deepEqual([...inputs, ...outputs].map(([name, { dim, inner }]) => [name, dim, inner]), [["x", 0, 1], [
    "y",
    1,
    1,
  ]]);
});

Deno.test("batchDims() refuses what mixes rows, and names it", () => {
  const cases: readonly (readonly [RegExp, readonly Row[]])[] = [
    [/ReduceMax is not known to keep its rows apart at "ReduceMax_?\d*"/, [["ReduceMax", ["x"], [1, 3, 8], {
      axes: ints([0]),
    }]]],
    [/Softmax is not known to keep its rows apart/, [["Softmax", ["x"], ["b", 3, 8], { axis: int(0) }]]],
    [/NobodyKnows is not known to keep its rows apart/, [["NobodyKnows", ["x"], ["b", 3, 8]]]],
  ];
  for (const [message, rows] of cases) {
    assert.throws(() => batchDims(graphOf(rows), opDef), (e) => e instanceof PlanError && message.test(e.message));
  }
  assert.throws(
    () => batchDims(graphOf([["Relu", ["x"], [2, 3, 8]]], [2, 3, 8]), opDef),
    /no input begins with a symbolic dim/,
  );
  const assumed = batchDims(graphOf([["NobodyKnows", ["x"], [3, "4*b"]]]), opDef, true);
  assert.deepEqual(assumed.outputs.get("y"), { dim: 1, inner: 4 });
});

Deno.test("parseMesh() reads axes in any order, and refuses others", () => {
  assert.deepEqual(parseMesh("tp=4, dp=2"), { dp: 2, tp: 4 });
  assert.deepEqual(parseMesh("dp=3"), { dp: 3, tp: 1 });
  assert.deepEqual(parseMesh("dp=2,tp=2,assume"), { dp: 2, tp: 2, assume: true });
  assert.equal(printMesh(parseMesh("tp=4")), "dp=1,tp=4");
  for (const text of ["", "pp=2", "dp=0", "dp=2,dp=2", "dp", "tp=-1"]) {
    assert.throws(() => parseMesh(text), PlanError, text);
  }
});
