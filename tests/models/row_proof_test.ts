/**
 * What the proof of independent samples allows: random graphs run on a batch, and on the parts of it. SHARDWISE_TEST_SEED replays a
 * run, SHARDWISE_TEST_RUNS sets how many graphs it has.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { compareTensors } from "../../cli/compare.ts";
import { PlanError } from "../../src/core/errors.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import type { Graph } from "../../src/graph/graph.ts";
import { balanced } from "../../src/graph/layout.ts";
import { shard } from "../../src/graph/placement.ts";
import { printGraph } from "../../src/graph/text.ts";
import { opDef } from "../../src/ops/table.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline } from "../../src/passes/pipelines.ts";
import { type Batch, batchDims } from "../../src/plan/batch.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { shardTensor } from "../../src/runtime/shard_io.ts";
import { sharded } from "../support/emulated.ts";
import { INPUTS, randomBatchGraph } from "./random_batch_graph.ts";

const RUNS = Number(Deno.env.get("SHARDWISE_TEST_RUNS") ?? 300);
const SEED = Number(Deno.env.get("SHARDWISE_TEST_SEED") ?? Date.now() % 2 ** 31);

function generator(seed: number): () => number {
  let state = (seed * 2 + 1) % 2 ** 32;
  const next = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  for (let i = 0; i < 4; i++) next();
  return next;
}

function drawnInputs(rows: number, random: () => number): Record<string, HostTensor> {
  return Object.fromEntries(
    Object.entries(INPUTS).map(([name, [dtype, dims]]) => {
      const shape = dims.map((d) => (d === "b" ? rows : d as number));
      const draw = dtype === "f32" ? () => 2 * random() - 1 : () => Math.floor(random() * (dtype === "bool" ? 2 : 3));
      return [name, fromNumbers(dtype, shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, draw))];
    }),
  );
}

/** The proof's answer; undefined where it refuses. */
function provenBatch(graph: Graph<"global">): Batch | undefined {
  try {
    const ctx = new ParallelExecutionCtx({ ranks: 1, rank: 0, config: { fuse: false } });
    return batchDims(cleanPipeline().run(graph, ctx), opDef);
  } catch (error) {
    if (error instanceof PlanError) return undefined;
    throw error;
  }
}

Deno.test(`${RUNS} random graphs (seed ${SEED}): where samples are proved independent, groups give what the whole gives`, async () => {
  const engine = await openNativeEngine();
  let proved = 0, compared = 0;
  await fc.assert(
    fc.asyncProperty(fc.nat(), async (seed) => {
      const random = generator(seed);
      const graph = randomBatchGraph(random, 3 + Math.floor(random() * 9), 1);
      if (graph.nodes.length < 6) return;
      const batch = provenBatch(graph);
      if (!batch || batch.outputs.size === 0) return;
      proved++;
      const rows = random() < 0.5 ? 5 : 7, inputs = drawnInputs(rows, random);
      const read = new Set(graph.nodes.flatMap((n) => (n.kind === "placeholder" ? n.outputs : [])));
      const feeds = Object.fromEntries(Object.entries(inputs).filter(([name]) => read.has(name)));
      // Sizes or indices that do not fit, whoever runs it.
      await using model = await EmulatedModel.open(engine, sharded(graph, 1), 1).catch(() => undefined);
      const whole = await model?.run(feeds).catch(() => undefined);
      if (!model || !whole) return;
      compared++;
      const parts = balanced(rows, 2);
      for (const group of [0, 1]) {
        const shares = Object.fromEntries(
          Object.entries(feeds).map(([name, tensor]) => {
            const at = batch.inputs.get(name);
            return [name, at ? shardTensor(tensor, shard(at.dim, parts), group) : tensor];
          }),
        );
        const got = await model.run(shares);
        const expected = new Map(
          Object.entries(whole).map(([name, tensor]) => {
            const at = batch.outputs.get(name);
            if (!at) return [name, tensor];
            const inner = tensor.shape[at.dim]! / rows;
            const ranges = parts.parts.map((p) => p.map(([a, b]) => [a * inner, b * inner] as const));
            return [name, shardTensor(tensor, shard(at.dim, { ...parts, size: rows * inner, parts: ranges }), group)];
          }),
        );
        for (const { name, pass, problem, maxAbs } of compareTensors(got, expected, { atol: 1e-5, rtol: 1e-4 })) {
          assert.ok(pass, `${name}: ${problem ?? `off by ${maxAbs}`} in\n${printGraph(graph)}`);
        }
      }
    }),
    { numRuns: RUNS, seed: SEED },
  );
  // A test that compares nothing shows nothing.
  assert.ok(compared > RUNS / 20, `of ${RUNS} graphs ${proved} were proved, ${compared} compared`);
});
