import assert from "node:assert/strict";
import type { Graph } from "../graph/graph.ts";
import { candidateLayouts } from "./candidates.ts";
import { plannedCalls } from "./places.ts";
import { TestGraph, testOpDef } from "./test_support.ts";

function keys(graph: Graph, ranks: number, value: string, dim: number): string[] {
  return candidateLayouts(graph, plannedCalls(graph, testOpDef), ranks).of(value, dim).map((l) => l.key);
}

Deno.test("candidateLayouts() carries a cut of heads to the weight that makes them", () => {
  const g = new TestGraph();
  const q = g.op("MatMul", [g.input("x", ["b", 8]), g.weight("w", [8, 12])], ["b", 12]);
  const graph = g.finish([g.op("Reshape", [q], ["b", 3, 4])]);
  assert.equal(keys(graph, 2, "w", 1)[0], "12:0-8|8-12");
});

Deno.test("candidateLayouts() cuts heads within batch·heads, whatever the batch", () => {
  const g = new TestGraph();
  const x = g.input("x", ["b", 4, "s", 6]);
  const y = g.op("Reshape", [x], ["4*b", "s", 6]);
  const graph = g.finish([g.op("Sigmoid", [y], ["4*b", "s", 6], {}, "act")]);
  assert.ok(keys(graph, 2, "act", 0).includes("b*4:0-2|2-4"));
});

Deno.test("candidateLayouts() never cuts heads within a dim that repeats them as often as only data says", () => {
  const g = new TestGraph();
  const x = g.input("x", ["n#0", 4, "s", 6]);
  const y = g.op("Reshape", [x], ["4*n#0", "s", 6]);
  const graph = g.finish([g.op("Sigmoid", [y], ["4*n#0", "s", 6], {}, "act")]);
  assert.deepEqual(keys(graph, 2, "act", 0), []);
  assert.notDeepEqual(keys(graph, 2, "x", 1), []);
});

Deno.test("candidateLayouts() never cuts head_dim, also where it stands alone", () => {
  const g = new TestGraph();
  const q = g.op("Reshape", [g.input("x", ["b", 12])], ["b", 3, 4]);
  const graph = g.finish([g.op("Mul", [q, g.input("cos", ["b", 1, 4])], ["b", 3, 4])]);
  assert.deepEqual(keys(graph, 2, "cos", 2), []);
  assert.notDeepEqual(keys(graph, 2, "Mul", 1), []);
});

Deno.test("candidateLayouts() cuts heads that are stored q, k, v by head as whole heads", () => {
  const g = new TestGraph();
  const qkv = g.op("MatMul", [g.input("x", ["b", 8]), g.weight("w", [8, 24])], ["b", 24]);
  const heads = g.op("Reshape", [qkv], ["b", 4, 3, 2]);
  const graph = g.finish(
    g.ops("Split", [heads], [1, 2, 3].map(() => ["b", 4, 1, 2]), { axis: { kind: "int", value: 2 } }),
  );
  assert.equal(keys(graph, 3, "w", 1)[0], "24:0-12|12-18|18-24");
});

Deno.test("candidateLayouts() offers the units that ranks share when a cut lies inside a unit", () => {
  const g = new TestGraph();
  const kv = g.input("kv", ["b", 2, 2, 5]);
  const k = g.op("Reshape", [kv], ["b", 4, 5]);
  const q = g.op("Reshape", [g.input("x", ["b", 20])], ["b", 4, 5]);
  const graph = g.finish([g.op("Mul", [k, q], ["b", 4, 5])]);
  assert.ok(keys(graph, 4, "kv", 1).includes("2:0-1|0-1|1-2|1-2"));
});
