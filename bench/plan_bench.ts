/** Planning time on Llama-like decoders: `deno bench -A bench/plan_bench.ts`. */
import { search } from "../src/plan/search.ts";
import { decoder, testOpDef } from "../src/plan/test_support.ts";

for (const layers of [2, 12, 32, 80]) {
  const graph = decoder({ layers, heads: 32, kvHeads: 8, headDim: 64, ffn: 5632, vocab: 32000 });
  for (const ranks of [2, 8]) {
    Deno.bench(`search() ${layers} layers, ${graph.nodes.length} nodes, ${ranks} ranks`, {
      group: `${ranks} ranks`,
      n: 5,
      warmup: 2,
    }, () => {
      search(graph, { ranks, opDef: testOpDef });
    });
  }
}
