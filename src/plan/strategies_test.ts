import assert from "node:assert/strict";
import { candidateLayouts } from "./candidates.ts";
import { plannedCalls } from "./places.ts";
import { strategiesOf, strategiesOfAll } from "./strategies.ts";
import { decoder, TestGraph, testOpDef } from "./test_support.ts";

Deno.test("strategiesOf() gives no output that is cut in a dim that repeats as often as only data says", () => {
  for (const [batch, cut] of [["n#0", false], ["n", true]] as const) {
    const g = new TestGraph();
    const heads = g.op("Sigmoid", [g.input("x", [batch, 4])], [batch, 4]);
    const graph = g.finish([g.op("Reshape", [heads], [`4*${batch}`])]);
    const calls = plannedCalls(graph, testOpDef);
    const strategies = strategiesOf(calls[1]!, candidateLayouts(graph, calls, 2));
    assert.equal(strategies.some((s) => s.outputs[0]!.kind === "S"), cut);
  }
});

Deno.test("strategiesOfAll() works strategies out once for calls that differ in names only", () => {
  const graph = decoder({ layers: 12, heads: 4, kvHeads: 2, headDim: 8, ffn: 32, vocab: 64 });
  const calls = plannedCalls(graph, testOpDef);
  const lists = strategiesOfAll(calls, candidateLayouts(graph, calls, 2));
  assert.equal(lists.length, calls.length);
  assert.ok(new Set(lists).size < calls.length / 10);
  calls.forEach((call, i) => assert.equal(lists[i]![0]!.inputs.length, call.node.inputs.length));
});
