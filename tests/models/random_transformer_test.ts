/**
 * Random transformers on random numbers of ranks against the same on one rank, all ranks in one session. SHARDWISE_TEST_SEED replays a
 * run, SHARDWISE_TEST_RUNS sets how many cases it has.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import type { Graph } from "../../src/graph/graph.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { sharded } from "../support/emulated.ts";
import { randomPlan } from "../support/random_plan.ts";
import { randomTransformer, type TransformerShape } from "./random_transformer.ts";

const RUNS = Number(Deno.env.get("SHARDWISE_TEST_RUNS") ?? 250);
const SEED = Number(Deno.env.get("SHARDWISE_TEST_SEED") ?? Date.now() % 2 ** 31);

const SHAPES: fc.Arbitrary<TransformerShape> = fc.record({
  group: fc.integer({ min: 1, max: 3 }),
  kvHeads: fc.integer({ min: 1, max: 5 }),
  headDim: fc.integer({ min: 1, max: 5 }),
  hidden: fc.integer({ min: 4, max: 29 }),
  ffn: fc.integer({ min: 1, max: 61 }),
  vocab: fc.integer({ min: 2, max: 67 }),
  layers: fc.constantFrom(1, 2),
  bias: fc.boolean(),
  fusedQkv: fc.boolean(),
  gated: fc.boolean(),
  fusedGateUp: fc.boolean(),
  norm: fc.constantFrom("layer", "rms"),
  tied: fc.boolean(),
  parallel: fc.boolean(),
  seed: fc.nat(),
});

/** `graph` as any legal plan shards it. */
function anyhow(graph: Graph<"global">, ranks: number, seed: number): Graph<"sharded"> {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0 });
  const clean = cleanPipeline().run(graph, ctx);
  let state = seed % 2 ** 32;
  ctx.plan = randomPlan(clean, ranks, () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32);
  return shardPipeline().run(clean, ctx);
}

async function assertSame(shard: (graph: Graph<"global">, ranks: number, seed: number) => Graph<"sharded">) {
  const engine = await openNativeEngine();
  const logits = async (graph: Graph<"sharded">, ranks: number, ids: readonly number[]) => {
    await using model = await EmulatedModel.open(engine, graph, ranks);
    return await model.run({ ids: fromNumbers("i64", [2, ids.length / 2], [...ids]) });
  };
  await fc.assert(
    fc.asyncProperty(SHAPES, fc.integer({ min: 2, max: 5 }), async (shape, ranks) => {
      const graph = randomTransformer(shape);
      const ids = Array.from({ length: 6 }, (_, i) => (i * 7 + shape.seed) % shape.vocab);
      const expected = new Map(Object.entries(await logits(sharded(graph, 1), 1, ids)));
      const got = await logits(shard(graph, ranks, shape.seed), ranks, ids);
      const [difference] = compareTensors(got, expected, { atol: 2e-4, rtol: 2e-4 });
      assert.ok(difference!.pass, `${difference!.problem ?? `off by ${difference!.maxAbs}`}`);
    }),
    { numRuns: RUNS, seed: SEED },
  );
}

Deno.test(`${RUNS} random transformers (seed ${SEED}) give on 1 to 5 ranks what they give on one`, () =>
  assertSame((graph, ranks) => sharded(graph, ranks)));

Deno.test(`${RUNS} random transformers (seed ${SEED}) give the same by any legal plan, however bad`, () =>
  assertSame(anyhow));
