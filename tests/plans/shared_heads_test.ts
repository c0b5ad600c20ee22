/** Models with fewer kv heads than ranks, in the sizes of real ones: no rank is without attention. */
import assert from "node:assert/strict";
import { ARCHITECTURES } from "../../bench/models/architectures.ts";
import { scaledGraph } from "../../bench/models/model_cache.ts";
import { isCall, valueOf } from "../../src/graph/graph.ts";
import { printPlacement } from "../../src/graph/placement.ts";
import { sharded } from "../support/emulated.ts";

const SIZES = { layers: 2, hidden: 1536, heads: 12, kvHeads: 4, ffn: 4096, vocabulary: 32_000 };

/** Of queries and cache, by ranks. */
const EXPECTED: Readonly<Record<number, readonly [query: string, cache: string]>> = {
  2: ["S(2)", "S(1)"],
  4: ["S(2)", "S(1)"],
  6: ["S(2)", "S(1:1,2,1,1,2,1)"],
  12: ["S(2)", "S(1:1,1,1,1,1,1,1,1,1,1,1,1)"],
};

Deno.test("4 kv heads serve 12 query heads on 2, 4, 6 and 12 ranks, with copies of them in the cache", () => {
  const graph = scaledGraph(ARCHITECTURES.llama, SIZES);
  for (const [ranks, expected] of Object.entries(EXPECTED)) {
    const plan = sharded(graph, Number(ranks));
    const attention = plan.nodes.filter(isCall).filter((n) => n.op === "CachedAttention");
    assert.equal(attention.length, SIZES.layers);
    for (const { inputs } of attention) {
      const at = [inputs[0]!, inputs[3]!].map((name) => printPlacement(valueOf(plan, name).placement!));
      assert.deepEqual(at, expected, `on ${ranks} ranks`);
    }
  }
});
