import assert from "node:assert/strict";
import { symbol } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { type Collective, type Graph, isCall, outputOf, valueOf } from "../graph/graph.ts";
import { balanced } from "../graph/layout.ts";
import { verify } from "../graph/verify.ts";
import { emulate } from "./emulate.ts";

const CONSTANT = inlineData("f32", [1], new Float32Array([2]));

/** x · 2, combined over the ranks, reshaped to [batch, 3]. */
function rank(collective: Partial<Collective> = {}): Graph<"local"> {
  const builder = new GraphBuilder("local", "g", new Map([["", 17]]));
  const type = { dtype: "f32", shape: [symbol("batch"), 3] } as const;
  builder.placeholder({ name: "x", type });
  builder.getAttr("two", CONSTANT);
  builder.call({ kind: "call_function", domain: "", op: "Mul", inputs: ["x", "two"], outputs: ["h"], attributes: {} }, [
    { name: "h", type },
  ]);
  builder.collective({ collective: "all_reduce", reduction: "sum", inputs: ["h"], outputs: ["y"], ...collective }, {
    name: "y",
    type,
  });
  const ints = { dims: [2], elements: [symbol("batch"), 3] };
  builder.call(
    { kind: "call_function", domain: "shardwise", op: "Sizes", inputs: [], outputs: ["s"], attributes: {} },
    [
      { name: "s", type: { dtype: "i64", shape: [2] }, ints },
    ],
  );
  builder.call(
    { kind: "call_function", domain: "", op: "Reshape", inputs: ["y", "s"], outputs: ["z"], attributes: {} },
    [
      { name: "z", type },
    ],
  );
  return builder.finish({ inputs: ["z"], names: ["out"] });
}

const opsOf = (graph: Graph) => graph.nodes.filter(isCall).map((n) => `${n.op}(${n.inputs.join(", ")})`);

Deno.test("emulate() puts ranks side by side and sums all their values where they meet", () => {
  const graph = emulate([rank(), rank()]);
  verify(graph);
  assert.deepEqual(opsOf(graph), [
    "Mul(rank0/x, rank0/two)",
    "Mul(rank1/x, rank0/two)",
    "Sum(rank0/h, rank1/h)",
    "Sum(rank0/h, rank1/h)",
    "Reshape(rank0/y, sizes2:batch,3)",
    "Reshape(rank1/y, sizes2:batch,3)",
  ]);
  assert.deepEqual(outputOf(graph).names, ["rank0/out", "rank1/out"]);
});

Deno.test("emulate() leaves sizes to be fed, or makes them constants where bindings say what they are", () => {
  const inputs = (graph: Graph) => graph.nodes.filter((n) => n.kind === "placeholder").map((n) => n.outputs[0]);
  const open = emulate([rank(), rank()]);
  assert.deepEqual(inputs(open).sort(), ["rank0/x", "rank1/x", "sizes2:batch,3"]);
  assert.deepEqual(valueOf(open, "sizes2:batch,3").ints?.dims, [2]);
  assert.deepEqual(inputs(emulate([rank(), rank()], new Map([["batch", 5]]))), ["rank0/x", "rank1/x"]);
});

Deno.test("emulate() rejects ranks that meet in different collectives", () => {
  const layout = balanced(6, 2);
  assert.throws(
    () => emulate([rank(), rank({ reduction: "max" })]),
    new GraphError(
      'Cannot emulate 2 ranks of "g": collective 0 is all_reduce(sum) on rank 0 but all_reduce(max) on rank 1',
    ),
  );
  assert.throws(
    () => emulate([rank(), rank({ collective: "all_gather", shard: { dim: 1, layout } })]),
    /all_gather\(sum\) of dim 1 cut 6:0-3\|3-6 on rank 1/,
  );
});
