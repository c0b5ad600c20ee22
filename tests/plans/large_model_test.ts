/** A graph as large as real ones: 80 blocks, 70 billion parameters, no weights. */
import assert from "node:assert/strict";
import { ARCHITECTURES } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { communicates } from "../../src/plan/redistribute.ts";
import { sharded } from "../support/emulated.ts";

const LAYERS = 80;
const SIZES = { layers: LAYERS, hidden: 8064, heads: 63, kvHeads: 21, ffn: 28_672, vocabulary: 128_256 };

/** Head counts are odd, so it pays to cut q, k and v by rows, which are even, and to scatter their sums over the uneven heads. */
const EXPECTED = { all_gather: 2 * LAYERS + 2, reduce_scatter: 3 * LAYERS, all_reduce: LAYERS };

Deno.test("a model of 80 layers and 70 billion parameters is sharded alike in every layer, on 2, 4 and 8 ranks", () => {
  const graph = scaledGraph(ARCHITECTURES.llama, SIZES);
  for (const ranks of [2, 4, 8]) {
    const kinds = sharded(graph, ranks).nodes.flatMap((n) => (n.kind === "collective" ? [n.collective] : []));
    const counts = Object.groupBy(kinds.filter(communicates), (kind) => kind);
    assert.deepEqual(Object.fromEntries(Object.entries(counts).map(([kind, all]) => [kind, all.length])), EXPECTED);
  }
});
