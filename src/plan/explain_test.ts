import assert from "node:assert/strict";
import { PlanError } from "../core/errors.ts";
import { explainPlan, planJson, planRows, planText } from "./explain.ts";
import { picoseconds } from "./cost.ts";
import { search } from "./search.ts";
import { decoder, testOpDef } from "./test_support.ts";

const GRAPH = decoder({ layers: 2, heads: 8, kvHeads: 8, headDim: 64, ffn: 1408, vocab: 4096 });
const OPTIONS = { ranks: 4, opDef: testOpDef };

Deno.test("explainPlan() prices each layer as a search with that layer replicated does", () => {
  const plan = search(GRAPH, OPTIONS);
  const report = explainPlan(GRAPH, plan, OPTIONS);
  for (const layer of report.layers) {
    const forced = search(GRAPH, { ...OPTIONS, overrides: { [layer.name]: "replicated" } });
    assert.equal(
      picoseconds(layer.priceOfNotSplitting!),
      picoseconds(forced.cost.total) - picoseconds(plan.cost.total),
      layer.name,
    );
  }
  assert.ok(report.layers.filter((l) => l.kind !== "replicated").every((l) => l.priceOfNotSplitting! > 0));
});

Deno.test("explainPlan() says what each layer became, holds and exchanges", () => {
  const report = explainPlan(GRAPH, search(GRAPH, OPTIONS), OPTIONS);
  const down = report.layers.find((l) => l.name === "l1.down")!;
  assert.equal(down.kind, "row");
  assert.equal(down.scope, "model.layers.1");
  assert.equal(down.bytes, 1408 * 512 * 4);
  assert.equal(down.bytesPerRank, 1408 * 512);
  assert.deepEqual(down.after.map((c) => [c.kind, c.bytesPerToken]), [["all_reduce", 2048]]);
  assert.equal(report.layers.find((l) => l.name === "embed_tokens")!.kind, "vocab");
  assert.equal(report.tokens, 1);
});

Deno.test("explainPlan() gives the shared all-reduce of parallel branches to the later layer", () => {
  const graph = decoder({ layers: 1, heads: 8, kvHeads: 8, headDim: 64, ffn: 1408, vocab: 4096, parallel: true });
  const report = explainPlan(graph, search(graph, OPTIONS), OPTIONS);
  const reduces = report.layers.flatMap((l) => l.after.map((c) => [l.name, c.kind]));
  assert.deepEqual(reduces.filter(([name]) => name!.startsWith("l0")), [["l0.down", "all_reduce"]]);
});

Deno.test("explainPlan() refuses a plan that the options do not lead to", () => {
  const plan = search(GRAPH, { ...OPTIONS, ranks: 2 });
  assert.throws(() => explainPlan(GRAPH, plan, OPTIONS), PlanError);
});

Deno.test("planText() is a table of layers under one line for the whole", () => {
  const graph = decoder({ layers: 1, heads: 4, kvHeads: 2, headDim: 32, ffn: 320, vocab: 1000 });
  const report = explainPlan(graph, search(graph, { ranks: 2, opDef: testOpDef }), { ranks: 2, opDef: testOpDef });
  assert.equal(
    planText(report),
    `test on 2 ranks: layers 6 column, 3 replicated, 2 row, 1 vocab; 4 collectives a step, 5.54 kB a token; weights 858 kB a rank of 1.71 MB
embed_tokens  Embedding  vocab       S(0)  256 kB   512 kB   all_reduce 512 B/token
l0.norm1      RMSNorm    replicated  R     512 B    512 B
l0.q          MatMul     column      S(1)  32.8 kB  65.5 kB
l0.k          MatMul     column      S(1)  16.4 kB  32.8 kB
l0.v          MatMul     column      S(1)  16.4 kB  32.8 kB
l0.o          MatMul     row         S(0)  32.8 kB  65.5 kB  all_reduce 512 B/token
l0.norm2      RMSNorm    replicated  R     512 B    512 B
l0.gate       MatMul     column      S(1)  81.9 kB  164 kB
l0.up         MatMul     column      S(1)  81.9 kB  164 kB
l0.down       MatMul     row         S(0)  81.9 kB  164 kB   all_reduce 512 B/token
norm          RMSNorm    replicated  R     512 B    512 B
lm_head       MatMul     column      S(1)  256 kB   512 kB   all_gather 4.00 kB/token
`,
  );
  assert.equal(planRows(report).length, report.layers.length);
});

Deno.test("planJson() holds every value's placement and survives JSON", () => {
  const plan = search(GRAPH, OPTIONS);
  const json = planJson(explainPlan(GRAPH, plan, OPTIONS), plan);
  const back = JSON.parse(JSON.stringify(json));
  assert.equal(back.placements["l0.gate"], "S(2;1408:0-352|352-704|704-1056|1056-1408)");
  assert.equal(back.reshards.length, plan.reshards.length);
});
