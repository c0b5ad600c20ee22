/** A graph as large as real ones: 80 blocks, 70 billion parameters, no weights. */
import assert from "node:assert/strict";
import { ARCHITECTURES } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { sharded } from "../support/emulated.ts";

const SIZES = { layers: 80, hidden: 8064, heads: 63, kvHeads: 21, ffn: 28_672, vocabulary: 128_256 };

Deno.test("a model of 80 layers and 70 billion parameters is planned and sharded on 2, 4 and 8 ranks", () => {
  const graph = scaledGraph(ARCHITECTURES.llama, SIZES);
  for (const ranks of [2, 4, 8]) {
    const collectives = sharded(graph, ranks).nodes.filter((n) => n.kind === "collective" && n.collective !== "slice");
    assert.ok(collectives.length >= 160 && collectives.length < 600, `${collectives.length} collectives`);
  }
});
