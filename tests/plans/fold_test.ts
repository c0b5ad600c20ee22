/** Reports of models of many blocks, of which a few were cleaned and planned, are those of the whole. */
import assert from "node:assert/strict";
import { ARCHITECTURES } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { foldedImport, foldedReport } from "../../src/passes/folded_report.ts";
import { planOptions } from "../../src/passes/parallel_axis_solver_pass.ts";
import { cleanPipeline } from "../../src/passes/pipelines.ts";
import { explainSolved } from "../../src/plan/explain.ts";
import { search, solvePlan } from "../../src/plan/search.ts";

for (const name of ["llama", "gpt2"] as const) {
  Deno.test(`the report of 12 blocks of ${name} is that of all of them, names, prices and order included`, () => {
    const architecture = ARCHITECTURES[name];
    const graph = scaledGraph(architecture, { ...architecture.to, layers: 12 });
    for (const ranks of [3]) {
      for (const fuse of [false, true]) {
        const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: { fuse } });
        const clean = cleanPipeline().run(graph, ctx), options = planOptions({}, ranks, clean);
        const solved = solvePlan(clean, options), report = explainSolved(clean, solved);
        assert.deepEqual(foldedReport(clean, options), report);
        assert.deepEqual(foldedImport(graph, ctx), fuse ? undefined : report);
        const { strategies, ...plan } = search(clean, options);
        const { strategies: all, ...whole } = solved.plan;
        assert.deepEqual(plan, whole);
        assert.deepEqual(new Map([...strategies].toSorted()), new Map([...all].toSorted()));
      }
    }
  });
}

Deno.test("what is asked of single layers is planned as a whole", () => {
  const { to } = ARCHITECTURES.llama, graph = scaledGraph(ARCHITECTURES.llama, { ...to, layers: 12 });
  const config = { fuse: false, overrides: { lm_head: "replicated" } } as const;
  assert.equal(foldedImport(graph, new ParallelExecutionCtx({ ranks: 2, rank: 0, config })), undefined);
});
