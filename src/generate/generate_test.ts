import assert from "node:assert/strict";
import { symbol } from "../core/dim.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import type { CausalModel } from "./causal_model.ts";
import { lastRows } from "./decoding.ts";
import { generate, inTurn } from "./generate.ts";
import { Sampler } from "./sampler.ts";

const VOCABULARY = 11;

/** A "model" whose next token is the sum of all tokens so far, modulo the vocabulary; it notes what it was fed. */
function summingModel(names: readonly string[], cached: boolean) {
  const fed: Record<string, (number | bigint)[]>[] = [];
  function forward(inputs: Record<string, HostTensor>, before: number): HostTensor {
    fed.push(Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, [...t.data]])));
    const ids = [...inputs.input_ids!.data].map(Number);
    const data = new Float32Array(ids.length * VOCABULARY);
    let sum = before;
    ids.forEach((id, i) => {
      sum += id;
      data[i * VOCABULARY + sum % VOCABULARY] = 1;
    });
    return { dtype: "f32", shape: [1, ids.length, VOCABULARY], data };
  }
  const model: CausalModel<{ sum: number }> = {
    stepInputs: names.map((name) => ({ name, type: { dtype: "i64" } })),
    outputs: [{ name: "logits" }],
    carried: cached ? [{ input: "past.0.key", output: "present.0.key" }] : [],
    run: (inputs) => Promise.resolve({ logits: forward(inputs, 0) }),
    start: () => ({ sum: 0 }),
    reorder: () => {},
    step: (inputs, state) => {
      const logits = forward(inputs, state.sum);
      state.sum += [...inputs.input_ids!.data].reduce((a: number, b) => a + Number(b), 0);
      return Promise.resolve({ logits });
    },
  };
  return { model, fed };
}

async function all(ids: AsyncGenerator<number>): Promise<number[]> {
  return await Array.fromAsync(ids);
}

Deno.test("generate() feeds the prompt once and then one token a step to a model with a cache", async () => {
  const { model, fed } = summingModel(["input_ids", "attention_mask", "position_ids"], true);
  assert.deepEqual(await all(generate(model, [3, 4], { sampler: new Sampler(), maxNewTokens: 3 })), [7, 3, 6]);
  assert.deepEqual(fed, [
    { input_ids: [3n, 4n], attention_mask: [1n, 1n], position_ids: [0n, 1n] },
    { input_ids: [7n], attention_mask: [1n, 1n, 1n], position_ids: [2n] },
    { input_ids: [3n], attention_mask: [1n, 1n, 1n, 1n], position_ids: [3n] },
  ]);
});

Deno.test("generate() feeds the whole sequence at every step to a model without a cache", async () => {
  const { model, fed } = summingModel(["input_ids", "token_type_ids"], false);
  assert.deepEqual(await all(generate(model, [3, 4], { sampler: new Sampler(), maxNewTokens: 3 })), [7, 3, 6]);
  assert.deepEqual(fed.map((f) => f.input_ids), [[3n, 4n], [3n, 4n, 7n], [3n, 4n, 7n, 3n]]);
  assert.deepEqual(fed.at(-1)!.token_type_ids, [0n, 0n, 0n, 0n]);
});

Deno.test("generate() ends with an end id, which it gives", async () => {
  const { model } = summingModel(["input_ids"], true);
  assert.deepEqual(await all(generate(model, [3, 4], { sampler: new Sampler(), maxNewTokens: 9, endIds: [6, 3] })), [
    7,
    3,
  ]);
});

Deno.test("generate() refuses inputs that nobody can fill, models without logits and empty prompts", async () => {
  const options = { sampler: new Sampler(), maxNewTokens: 1 };
  await assert.rejects(
    all(generate(summingModel(["input_ids", "pixels"], true).model, [1], options)),
    /input "pixels"/,
  );
  await assert.rejects(all(generate(summingModel(["attention_mask"], true).model, [1], options)), /no input_ids/);
  await assert.rejects(all(generate(summingModel(["input_ids"], true).model, [], options)), /empty prompt/);
  const { model } = summingModel(["input_ids"], true);
  await assert.rejects(
    all(generate({ ...model, outputs: [{ name: "last_hidden_state" }] }, [1], options)),
    /no output "logits"/,
  );
});

Deno.test("generate() refuses a prompt with an id beyond the vocabulary", async () => {
  const { model } = summingModel(["input_ids"], true);
  const typed = { ...model, outputs: [{ name: "logits", type: { shape: [1, symbol("length"), VOCABULARY] } }] };
  const options = { sampler: new Sampler(), maxNewTokens: 1 };
  await assert.rejects(all(generate(typed, [3, 11], options)), /token 11: the model's vocabulary has 11 tokens/);
  assert.deepEqual(await all(generate(typed, [10], options)), [10]);
});

Deno.test("lastRows() is a view of the last position's logits", () => {
  const data = Float32Array.from({ length: 6 }, (_, i) => i);
  const [row] = lastRows({ dtype: "f32", shape: [1, 2, 3], data }) as [Float32Array];
  assert.deepEqual([...row], [3, 4, 5]);
  assert.equal(row.buffer, data.buffer);
  assert.deepEqual([...lastRowsOf16()], [1, -2]);
  const rows = lastRows({ dtype: "f32", shape: [2, 1, 3], data });
  assert.deepEqual(rows.map((r) => [...r as Float32Array]), [[0, 1, 2], [3, 4, 5]]);
});

function lastRowsOf16(): number[] {
  return Array.from(lastRows({ dtype: "f16", shape: [1, 1, 2], data: Uint16Array.of(0x3c00, 0xc000) })[0]!);
}

Deno.test("inTurn() takes a value of each generator a step, until all have ended", async () => {
  const made: string[] = [];
  async function* text(name: string, length: number) {
    for (let i = 0; i < length; i++) {
      made.push(`${name}${i}`);
      yield await Promise.resolve(i);
    }
  }
  const steps: unknown[] = [];
  for await (const step of inTurn([text("a", 3), text("b", 1), text("c", 0)])) {
    steps.push([step, made.splice(0)]);
  }
  // No text is made ahead of the others: a step takes as long as its tokens.
  assert.deepEqual(steps, [
    [[0, 0, undefined], ["a0", "b0"]],
    [[1, undefined, undefined], ["a1"]],
    [[2, undefined, undefined], ["a2"]],
  ]);
  assert.deepEqual(await Array.fromAsync(inTurn([])), []);
});
