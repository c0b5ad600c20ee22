/** Reports of models of many blocks, of which a few were cleaned and planned, are those of the whole. */
import assert from "node:assert/strict";
import { ARCHITECTURES } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { foldedReport } from "../../src/passes/folded_report.ts";
import { planOptions } from "../../src/passes/parallel_axis_solver_pass.ts";
import { cleanPipeline } from "../../src/passes/pipelines.ts";
import { explainSolved } from "../../src/plan/explain.ts";
import { search, solvePlan } from "../../src/plan/search.ts";

for (const name of ["llama", "gpt2"] as const) {
  Deno.test(`the report of 12 blocks of ${name} is that of all of them, names, prices and order included`, () => {
    const architecture = ARCHITECTURES[name];
    const graph = scaledGraph(architecture, { ...architecture.to, layers: 12 });
    for (const ranks of [2, 5]) {
      const ctx = new ParallelExecutionCtx({ ranks, rank: 0 }), options = planOptions({}, ranks);
      const clean = cleanPipeline().run(graph, ctx), solved = solvePlan(clean, options);
      assert.deepEqual(foldedReport(graph, ctx, options), explainSolved(clean, solved));
      const { strategies, ...plan } = search(clean, options);
      const { strategies: all, ...whole } = solved.plan;
      assert.deepEqual(plan, whole);
      assert.deepEqual(new Map([...strategies].toSorted()), new Map([...all].toSorted()));
    }
  });
}

Deno.test("what is asked of single layers is planned as a whole", () => {
  const { to } = ARCHITECTURES.llama, graph = scaledGraph(ARCHITECTURES.llama, { ...to, layers: 12 });
  const ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0 });
  assert.equal(foldedReport(graph, ctx, planOptions({ overrides: { lm_head: "replicated" } }, 2)), undefined);
  assert.ok(foldedReport(graph, ctx, planOptions({}, 2)));
});
