import assert from "node:assert/strict";
import type { LayerReport, PlanReport } from "./explain.ts";
import { foldNames, foldRows, planOutline } from "./outline.ts";

function layer(scope: string, kind: LayerReport["kind"]): LayerReport {
  return {
    name: `/${scope}`,
    scope,
    op: "MatMul",
    kind,
    weights: [],
    bytes: 0,
    bytesPerRank: 0,
    before: [],
    after: [],
    seconds: 0,
    priceOfNotSplitting: 0,
  }; // deno-fmt-ignore
}

Deno.test("foldNames() folds what differs in its first number, and keeps the order", () => {
  assert.deepEqual(foldNames(["wte", "h.0.attn.q1", "h.0.mlp", "h.1.attn.q1", "h.1.mlp", "h.3.mlp", "head"]), [
    "wte",
    "h.0-1.attn.q1",
    "h.0-1,3.mlp",
    "head",
  ]);
});

Deno.test("foldRows() folds what is alike but for its number, and tells steps of more than one", () => {
  const rows = [0, 1, 2, 3].flatMap((i) => [[`h.${i}.q`, "column"], [`h.${i}.norm`, i % 2 ? "R" : "S"]]);
  assert.deepEqual(foldRows([["wte", "R"], ...rows, ["h.9.q", "column"]]), [
    ["wte", "R"],
    ["h.0-3,9.q", "column"],
    ["h.0,2.norm", "S"],
    ["h.1,3.norm", "R"],
  ]);
  assert.deepEqual(foldNames([5, 12, 19, 26, 30].map((n) => `node_linear_${n}`)), ["node_linear_5-26/7,30"]);
});

Deno.test("planOutline() says each layer once, with its weight's kind and not its bias's", () => {
  const collective = { kind: "all_reduce", value: "v", before: "n", bytes: 2000, bytesPerToken: 2000 } as const;
  const report: PlanReport = {
    graph: "g",
    ranks: 2,
    layers: [
      layer("wte", "vocab"),
      ...[0, 1].flatMap((
        i,
      ) => [layer(`h.${i}.fc`, "column"), layer(`h.${i}.proj`, "row"), layer(`h.${i}.proj`, "partial")]),
      layer("ln_f", "replicated"),
    ],
    collectives: [collective, collective],
    cost: {
      compute: 0,
      communication: 0,
      weightBytes: 60,
      memory: { weights: 60, states: 0, activations: 0, total: 60 },
      total: 0,
    },
    gap: 0,
    weightBytes: 100,
    tokens: 1,
  };
  assert.deepEqual(planOutline(report), [
    "column-parallel  h.0-1.fc",
    "row-parallel     h.0-1.proj",
    "vocab-parallel   wte",
    "replicated       ln_f",
    "collectives      2 all_reduce a step; 4.00 kB a token",
    "weights          60 B a rank of 100 B (60 %)",
  ]);
  const unknown = planOutline({ ...report, undescribed: ["Hardmax", "my.Op"] });
  assert.ok(unknown.includes("run whole        Hardmax, my.Op: ops that have no description"));
  assert.ok(planOutline({ ...report, collectives: [] }).includes("collectives      none"));
});
