import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import { explainLayers } from "./alternatives.ts";
import { comparePlans } from "./comparison.ts";
import { picoseconds } from "./cost.ts";
import type { Override } from "./overrides.ts";
import { search, solvePlan } from "./search.ts";
import { decoder, testOpDef } from "./test_support.ts";

const GRAPH = decoder({ layers: 2, heads: 8, kvHeads: 8, headDim: 64, ffn: 1408, vocab: 4096 });
const OPTIONS = { ranks: 4, opDef: testOpDef };

Deno.test("explainLayers() prices each alternative as a search with that override does", () => {
  const solved = solvePlan(GRAPH, OPTIONS);
  for (const { name, alternatives } of explainLayers(GRAPH, solved, "l1.*")) {
    assert.equal(alternatives[0]!.chosen, true);
    for (const { kind, extra, memory, collectives, seconds } of alternatives) {
      if (kind === "data" || kind === "partial") continue;
      const forced = search(GRAPH, { ...OPTIONS, overrides: { [name]: kind as Override } });
      assert.equal(
        picoseconds(extra),
        picoseconds(forced.cost.total) - picoseconds(solved.plan.cost.total),
        `${name} ${kind}`,
      );
      assert.equal(memory.weights, forced.cost.memory.weights);
      assert.equal(picoseconds(seconds), picoseconds(forced.cost.compute + forced.cost.communication));
      assert.ok(collectives.length <= forced.reshards.length);
    }
  }
});

Deno.test("explainLayers() names the collectives and the other layers that an alternative changes", () => {
  const [down] = explainLayers(GRAPH, solvePlan(GRAPH, OPTIONS), "l1.down");
  assert.equal(down!.alternatives[0]!.kind, "row");
  const replicated = down!.alternatives.find((a) => a.kind === "replicated")!;
  assert.ok(replicated.extra > 0);
  assert.deepEqual(replicated.removed.map((c) => `${c.kind} ${c.value}`), ["all_reduce l1.down"]);
  assert.ok(replicated.added.length > 0 || replicated.others.length > 0);
});

Deno.test("explainLayers() explains layers that are alike once", () => {
  const solved = solvePlan(GRAPH, OPTIONS);
  const found = explainLayers(GRAPH, solved, "*.gate");
  assert.deepEqual(found.map((e) => [e.name, e.likewise]), [["l0.gate", ["l1.gate"]]]);
  assert.throws(
    () => explainLayers(GRAPH, solved, "l0.gaet"),
    (e) => e instanceof PlanError && e.message.includes('did you mean "l0.gate"?'),
  );
});

Deno.test("comparePlans() puts rules beside the plan, none of which is better", () => {
  const solved = solvePlan(GRAPH, OPTIONS);
  const plans = comparePlans(GRAPH, solved, ["megatron", "replicated", "rowwise"], OPTIONS);
  assert.deepEqual(plans.map((p) => p.name), ["solver", "megatron", "replicated", "rowwise"]);
  const [solver, megatron, replicated, rowwise] = plans;
  assert.ok(solver!.secondsPerToken <= megatron!.secondsPerToken);
  assert.ok(rowwise!.collectives > megatron!.collectives);
  assert.equal(replicated!.collectives, 0);
  assert.ok(replicated!.memory.weights > 3 * solver!.memory.weights);
  const perRank = solver!.memory.total + 1;
  const capped = comparePlans(GRAPH, solved, ["replicated"], { ...OPTIONS, memory: { perRank } });
  assert.deepEqual(capped.map((p) => p.fits), [true, false]);
});
