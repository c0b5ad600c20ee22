/** Plans of models of usual sizes are proved to be the cheapest, also where kv heads do not divide among the ranks. */
import assert from "node:assert/strict";
import { ARCHITECTURES, type DecoderSizes } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { cleanModel } from "../../src/passes/clean_model.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { planOptions } from "../../src/passes/parallel_axis_solver_pass.ts";
import { isFoldable, KEPT_BLOCKS, solveFolded } from "../../src/plan/fold.ts";
import { foldBlocks } from "../../src/plan/repeats.ts";
import { MAX_STATES } from "../../src/plan/search.ts";

const { llama, gpt2 } = ARCHITECTURES;
const MODELS: readonly (readonly [title: string, source: typeof llama | typeof gpt2, sizes: DecoderSizes])[] = [
  ["12 heads, 4 kv heads", llama, { ...llama.to, layers: 80 }],
  ["9 heads, 3 kv heads", llama, { layers: 30, hidden: 576, heads: 9, kvHeads: 3, ffn: 1536, vocabulary: 49_152 }],
  ["12 heads, none shared", gpt2, { ...gpt2.to, layers: 80 }],
];

for (const [title, source, sizes] of MODELS) {
  Deno.test(`${sizes.layers} layers of ${title} are planned exactly from a few, on 2, 3, 4, 5 and 8 ranks`, () => {
    const graph = scaledGraph(source, sizes);
    for (const ranks of [2, 3, 4, 5, 8]) {
      const ctx = new ParallelExecutionCtx({ ranks, rank: 0 }), clean = cleanModel(graph, ctx);
      const options = planOptions(ctx.config, ranks, clean), repeats = foldBlocks(clean, KEPT_BLOCKS[0]);
      assert.ok(repeats && isFoldable(options));
      // Undefined where states were dropped, or the blocks prove nothing for more of them.
      const folded = solveFolded(repeats.graph, repeats, options, MAX_STATES);
      assert.ok(folded, `on ${ranks} ranks`);
      assert.equal(folded.solved.plan.gap, 0);
      // Far from what is kept at most: bigger models have more candidates.
      const { mostStates } = folded.solved.frontier;
      assert.ok(mostStates <= MAX_STATES / 4, `${mostStates} states on ${ranks} ranks`);
    }
  });
}
