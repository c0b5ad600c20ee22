import assert from "node:assert/strict";
import type { HostTensor } from "../core/host_tensor.ts";
import { beamSearch } from "./beam_search.ts";
import type { CausalModel } from "./causal_model.ts";

/** Probabilities of the next token, by the tokens so far; 4 tokens, of which 3 ends a text. */
const NEXT: Record<string, number[]> = {
  "0": [0.1, 0.5, 0.39, 0.01],
  "0,1": [0.3, 0.3, 0.2, 0.2],
  "0,2": [0.02, 0.02, 0.06, 0.9],
  default: [0.3, 0.2, 0.1, 0.4],
};

/** A model without a cache over the table. */
function tableModel(): CausalModel<never> {
  return {
    stepInputs: [{ name: "input_ids", type: { dtype: "i64" } }],
    outputs: [{ name: "logits" }],
    carried: [],
    run: ({ input_ids }) => {
      const { shape: [rows, length], data } = input_ids as HostTensor & { shape: [number, number] };
      const logits = new Float32Array(rows * length * 4);
      for (let r = 0; r < rows; r++) {
        const text = [...data].slice(r * length, (r + 1) * length).join();
        logits.set((NEXT[text] ?? NEXT.default!).map(Math.log), (r * length + length - 1) * 4);
      }
      return Promise.resolve({ logits: { dtype: "f32", shape: [rows, length, 4], data: logits } });
    },
    start: () => assert.fail("there is no state"),
    step: () => assert.fail("there is no state"),
    reorder: () => assert.fail("there is no state"),
  };
}

Deno.test("beamSearch() finds a text that is likelier than the greedy one", async () => {
  const options = { maxNewTokens: 2, endIds: [3] };
  const [best, second] = await beamSearch(tableModel(), [0], { ...options, beams: 2 });
  assert.deepEqual(best!.ids, [2, 3]);
  assert.ok(Math.abs(best!.score - Math.log(0.39 * 0.9) / 2) < 1e-6);
  assert.deepEqual(second!.ids, [1, 0]);
  const [greedy] = await beamSearch(tableModel(), [0], { ...options, beams: 1 });
  assert.deepEqual(greedy!.ids, [1, 0]);
});

Deno.test("beamSearch() favours long texts with a high length penalty, short ones with a low one", async () => {
  const lengths = [];
  for (const lengthPenalty of [-3, 8]) {
    const [best] = await beamSearch(tableModel(), [0], { beams: 4, maxNewTokens: 6, endIds: [3], lengthPenalty });
    lengths.push(best!.ids.length);
  }
  assert.ok(lengths[0]! < lengths[1]!, `${lengths}`);
});

Deno.test("beamSearch() refuses options out of range", async () => {
  for (
    const wrong of [{ beams: 0 }, { beams: 1.5 }, { beams: 2, lengthPenalty: NaN }, { beams: 2, repetitionPenalty: 0 }]
  ) {
    await assert.rejects(beamSearch(tableModel(), [0], { maxNewTokens: 2, ...wrong }), /Cannot search with/);
  }
});
