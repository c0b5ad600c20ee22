/**
 * Sequence parallelism: between layers that a model of fixed lengths splits, norms and residual sums are shared out by position, for a
 * reduce-scatter and an all-gather in place of each all-reduce, where that pays.
 */
import assert from "node:assert/strict";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { type Graph, isCall } from "../../src/graph/graph.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import type { CostModel } from "../../src/plan/cost.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { randomTransformer } from "../models/random_transformer.ts";

/** Meeting costs nothing against reading and writing memory. */
const CHEAP_COLLECTIVES = { collectiveSeconds: 1e-9, bytesPerSecond: 1e9, sharedBytesPerSecond: 1e11 };
/** A norm is never worth another collective. */
const DEAR_COLLECTIVES = { ...CHEAP_COLLECTIVES, collectiveSeconds: 1 };

/** A transformer of one row of `length` positions. */
function transformer(length: number, parallel: boolean): Graph<"global"> {
  const graph = randomTransformer({
    ...{ group: 1, kvHeads: 6, headDim: 4, hidden: 24, ffn: 48, vocab: 31, layers: 3 },
    ...{ bias: true, fusedQkv: false, gated: false, fusedGateUp: false, norm: "layer", tied: false, parallel, seed: 7 },
  });
  const values = new Map(graph.values);
  values.set("ids", { name: "ids", type: { dtype: "i64", shape: [1, length] } });
  return { ...graph, values };
}

function shard(graph: Graph<"global">, ranks: number, costs: Partial<CostModel>) {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: { costs } });
  const sharded = shardPipeline().run(cleanPipeline().run(graph, ctx), ctx);
  return { sharded, plan: ctx.requirePlan() };
}

for (const [ranks, parallel] of [[2, false], [3, false], [2, true]] as const) {
  Deno.test(`${ranks} ranks share out positions where collectives are cheap${parallel ? ", of parallel layers" : ""}`, async () => {
    const graph = transformer(12, parallel), engine = await openNativeEngine();
    const { sharded, plan } = shard(graph, ranks, CHEAP_COLLECTIVES);
    const norms = sharded.nodes.filter((n) => isCall(n) && n.op === "LayerNormalization");
    const cut = norms.filter((n) => {
      const p = plan.placements.get(n.outputs[0]!);
      return p?.kind === "S" && p.dim === 1;
    });
    assert.ok(cut.length >= norms.length - 1, `${cut.length} of ${norms.length} norms are cut by position`);
    const kinds = sharded.nodes.flatMap((n) => (n.kind === "collective" ? [n.collective] : []));
    assert.ok(kinds.filter((kind) => kind === "reduce_scatter").length >= (parallel ? 3 : 6), String(kinds));
    // Layers are split as ever: nobody keeps a weight whole for the sake of positions.
    const dear = shard(graph, ranks, DEAR_COLLECTIVES);
    const split = (g: Graph) =>
      new Set(g.nodes.flatMap((n) => (n.kind === "call_module" && n.op.includes("Parallel") ? [n.name] : [])));
    assert.deepEqual([...split(dear.sharded).difference(split(sharded))], []);
    const ids = { ids: fromNumbers("i64", [1, 12], Array.from({ length: 12 }, (_, i) => (i * 5) % 31)) };
    await using one = await EmulatedModel.open(engine, shard(graph, 1, {}).sharded, 1);
    await using several = await EmulatedModel.open(engine, sharded, ranks);
    const expected = new Map(Object.entries(await one.run(ids)));
    const [difference] = compareTensors(await several.run(ids), expected, { atol: 1e-4, rtol: 1e-4 });
    assert.ok(difference!.pass, difference!.problem ?? `off by ${difference!.maxAbs}`);
  });
}

Deno.test("where a collective costs more than a norm, positions stay together", () => {
  const { sharded, plan } = shard(transformer(12, false), 2, DEAR_COLLECTIVES);
  assert.ok(sharded.nodes.every((n) => n.kind !== "collective" || n.collective !== "reduce_scatter"));
  for (const node of sharded.nodes) {
    if (isCall(node) && node.op === "LayerNormalization") {
      assert.equal(plan.placements.get(node.outputs[0]!)?.kind, "R");
    }
  }
});

Deno.test("the costs of a usual host share out long sequences, and not short ones", () => {
  const scattered = (length: number) =>
    shard(transformer(length, false), 2, {}).sharded.nodes.filter((n) =>
      n.kind === "collective" && n.collective === "reduce_scatter"
    ).length;
  assert.equal(scattered(16), 0);
  assert.ok(scattered(16_384) >= 3);
});
