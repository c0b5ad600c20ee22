/** Reports of models of many blocks, of which a few were cleaned and planned, are those of the whole. */
import assert from "node:assert/strict";
import { ARCHITECTURES } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanBlocks, cleanModel } from "../../src/passes/clean_model.ts";
import { foldedReport, reportOf } from "../../src/passes/folded_report.ts";
import { planOptions } from "../../src/passes/parallel_axis_solver_pass.ts";
import { ints } from "../../src/graph/attributes.ts";
import { type Call, isCall } from "../../src/graph/graph.ts";
import { printGraph } from "../../src/graph/text.ts";
import { verify } from "../../src/graph/verify.ts";
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
        assert.deepEqual(reportOf(cleanBlocks(graph, ctx)!, options), report);
        const { strategies, ...plan } = search(clean, options);
        const { strategies: all, ...whole } = solved.plan;
        assert.deepEqual(plan, whole);
        assert.deepEqual(new Map([...strategies].toSorted()), new Map([...all].toSorted()));
      }
    }
  });
}

for (const name of ["llama", "gpt2"] as const) {
  Deno.test(`the clean graph of ${name}, of which a few blocks were cleaned, is that of the whole`, () => {
    const architecture = ARCHITECTURES[name];
    for (const layers of [16, 23]) {
      const graph = scaledGraph(architecture, { ...architecture.to, layers });
      // 8 ranks are more than Llama's key-value heads, so that its attention is not fused.
      for (const [ranks, fuse] of [[2, true], [8, true], [2, false]] as const) {
        const ctx = () => new ParallelExecutionCtx({ ranks, rank: 0, config: { fuse } });
        const few = cleanBlocks(graph, ctx())!.graph(), whole = cleanPipeline().run(graph, ctx());
        verify(few);
        assert.deepEqual(printGraph(few).split("\n"), printGraph(whole).split("\n"));
        assert.deepEqual(few.values, whole.values);
        assert.deepEqual(few.carried, whole.carried);
        const data = ({ nodes }: typeof few) => nodes.flatMap((n) => (n.kind === "get_attr" ? [n.data.location] : []));
        assert.deepEqual(data(few), data(whole));
      }
    }
  });
}

Deno.test("a model of which one block differs, or of few, is cleaned as a whole", () => {
  const { to } = ARCHITECTURES.llama, ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0 });
  const graph = scaledGraph(ARCHITECTURES.llama, { ...to, layers: 14 });
  assert.ok(cleanBlocks(graph, ctx));
  assert.equal(cleanBlocks(scaledGraph(ARCHITECTURES.llama, { ...to, layers: 6 }), ctx), undefined);
  // Of an op of the eighth block, another attribute.
  const at = graph.nodes.findIndex((n) => isCall(n) && n.op === "Transpose" && n.scope?.includes("layers.7."));
  const odd = graph.nodes.with(at, { ...graph.nodes[at] as Call, attributes: { perm: ints([0, 1, 2, 3]) } });
  assert.equal(cleanBlocks({ ...graph, nodes: odd }, ctx), undefined);
});

Deno.test("what is asked of single layers is planned as a whole", () => {
  const { to } = ARCHITECTURES.llama, graph = scaledGraph(ARCHITECTURES.llama, { ...to, layers: 14 });
  const overrides = { lm_head: "replicated" } as const;
  const ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0, config: { overrides } });
  assert.equal(reportOf(cleanBlocks(graph, ctx)!, planOptions({ overrides }, 2, cleanModel(graph, ctx))), undefined);
});
