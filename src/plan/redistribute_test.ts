import assert from "node:assert/strict";
import { balanced, layout } from "../graph/layout.ts";
import { PARTIAL_SUM, REPLICATE, shard } from "../graph/placement.ts";
import { directStep, redistributeSteps } from "./redistribute.ts";

const S0 = shard(0, balanced(6, 2)), S1 = shard(1, balanced(6, 2));

Deno.test("directStep() names the one collective or local move between two placements", () => {
  assert.equal(directStep(REPLICATE, S0), "slice");
  assert.equal(directStep(REPLICATE, PARTIAL_SUM), "mask");
  assert.equal(directStep(S0, REPLICATE), "all_gather");
  assert.equal(directStep(PARTIAL_SUM, REPLICATE), "all_reduce");
  assert.equal(directStep(PARTIAL_SUM, S1), "reduce_scatter");
});

Deno.test("directStep() slices a shard where every rank already holds what it will keep", () => {
  const shared = shard(0, layout(6, [[[0, 4]], [[2, 6]]]));
  assert.equal(directStep(shared, S0), "slice");
  assert.equal(directStep(S0, shared), undefined);
});

Deno.test("redistributeSteps() goes by way of the replicated tensor where no single step does", () => {
  assert.deepEqual(redistributeSteps(S0, S1).map((s) => s.kind), ["all_gather", "slice"]);
  assert.deepEqual(redistributeSteps(S0, PARTIAL_SUM).map((s) => s.kind), ["all_gather", "mask"]);
  assert.deepEqual(redistributeSteps(S0, shard(0, balanced(6, 2))), []);
});
