import assert from "node:assert/strict";
import { InputError } from "../core/errors.ts";
import { RandomStream } from "./random.ts";
import { penalised } from "./repetition.ts";
import { argmax, Sampler, type SamplingOptions } from "./sampler.ts";

const LOGITS = Float32Array.from([0, 2, 1, 3, -1]);

/** How often each token is picked in `count` draws. */
function frequencies(options: SamplingOptions, logits: ArrayLike<number>, count: number): number[] {
  const sampler = new Sampler(options);
  const seen = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < count; i++) seen[sampler.pick(logits)]!++;
  return seen.map((n) => n / count);
}

Deno.test("Sampler is greedy by default", () => {
  assert.equal(new Sampler().pick(LOGITS), 3);
  assert.equal(new Sampler({ temperature: 2, topK: 1 }).pick(LOGITS), 3);
});

Deno.test("Sampler gives ties to the smaller id", () => {
  assert.equal(new Sampler().pick([1, 5, 5, 5]), 1);
  const picked = frequencies({ temperature: 1, topK: 2 }, [5, 5, 5, 5], 200);
  assert.equal(picked[2]! + picked[3]!, 0);
});

Deno.test("Sampler follows the softmax of the logits at temperature 1 and flattens it above", () => {
  for (const temperature of [1, 2]) {
    const got = frequencies({ temperature, seed: 3 }, LOGITS, 20_000);
    const weights = [...LOGITS].map((x) => Math.exp(x / temperature));
    const sum = weights.reduce((a, b) => a + b);
    // 20,000 draws: a standard deviation of at most 0.0035.
    got.forEach((p, i) =>
      assert.ok(Math.abs(p - weights[i]! / sum) < 0.015, `token ${i}: ${p} of ${weights[i]! / sum}`)
    );
  }
});

Deno.test("Sampler keeps to the top k tokens", () => {
  const got = frequencies({ temperature: 1, topK: 2 }, LOGITS, 2000);
  assert.deepEqual(got.map((p) => p > 0), [false, true, false, true, false]);
});

Deno.test("Sampler keeps to the smallest set of tokens that reaches top p", () => {
  // Probabilities: 0.64, 0.24, 0.09, 0.03, 0.01. 0.64 alone reaches 0.6; 0.64 + 0.24 reaches 0.8.
  assert.deepEqual(frequencies({ temperature: 1, topP: 0.6 }, LOGITS, 500).map((p) => p > 0), [
    false,
    false,
    false,
    true,
    false,
  ]);
  assert.deepEqual(frequencies({ temperature: 1, topP: 0.8 }, LOGITS, 500).map((p) => p > 0), [
    false,
    true,
    false,
    true,
    false,
  ]);
});

Deno.test("Sampler finds the top tokens of a large vocabulary as a full sort does", () => {
  const random = new RandomStream(5);
  const logits = Float32Array.from({ length: 500 }, () => Math.round(random.next() * 400) / 100);
  const sorted = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
  for (const topK of [2, 3, 40, 499]) {
    const seen = frequencies({ temperature: 50, topK }, logits, 20 * Math.min(topK, 40));
    const allowed = new Set(sorted.slice(0, topK));
    assert.ok(seen.every((p, id) => p === 0 || allowed.has(id)), `top ${topK}`);
    if (topK <= 40) assert.equal(seen.filter((p) => p > 0).length, topK);
  }
  const weights = sorted.map((id) => Math.exp(logits[id]!));
  const sum = weights.reduce((a, b) => a + b);
  let reached = 0;
  const needed = weights.findIndex((w) => (reached += w) >= 0.3 * sum) + 1;
  const allowed = new Set(sorted.slice(0, needed));
  assert.ok(frequencies({ temperature: 1, topP: 0.3 }, logits, 1000).every((p, id) => p === 0 || allowed.has(id)));
});

Deno.test("Sampler repeats itself for the same seed", () => {
  const draw = (seed: number) => {
    const sampler = new Sampler({ temperature: 1.5, topP: 0.95, seed });
    return Array.from({ length: 50 }, () => sampler.pick(LOGITS));
  };
  assert.deepEqual(draw(11), draw(11));
  assert.notDeepEqual(draw(11), draw(12));
});

Deno.test("Sampler never picks a token whose logit is -Infinity", () => {
  const got = frequencies({ temperature: 5 }, [0, -Infinity, 0], 1000);
  assert.equal(got[1], 0);
});

Deno.test("Sampler refuses options out of range and logits that are not numbers", () => {
  assert.throws(() => new Sampler({ temperature: -1 }), /temperature -1: it must be at least 0/);
  assert.throws(() => new Sampler({ topK: 1.5 }), InputError);
  assert.throws(() => new Sampler({ topP: 0 }), InputError);
  assert.throws(() => new Sampler({ topP: 1.1 }), InputError);
  assert.throws(() => argmax([1, NaN]), /logit 1 is NaN/);
  assert.throws(() => argmax([]), /no logits/);
});

Deno.test("Sampler leaves out tokens that are far less likely than the likeliest, after top p", () => {
  // 0.64, 0.24, 0.09, 0.03, 0.01: 0.24 is 0.37 times 0.64, 0.09 is 0.14 times.
  const kept = (options: SamplingOptions) =>
    frequencies({ temperature: 1, ...options }, LOGITS, 1000).map((p) => p > 0);
  assert.deepEqual(kept({ minP: 0.3 }), [false, true, false, true, false]);
  assert.deepEqual(kept({ minP: 0.1 }), [false, true, true, true, false]);
  assert.deepEqual(kept({ minP: 0.1, topP: 0.8 }), [false, true, false, true, false]);
  assert.deepEqual(kept({ minP: 1 }), [false, false, false, true, false]);
});

Deno.test("Sampler penalises what the text holds already, also when it is greedy", () => {
  const sampler = new Sampler({ repetitionPenalty: 2 });
  assert.equal(sampler.pick(LOGITS, [3]), 1); // 3 / 2 < 2
  assert.equal(sampler.pick(LOGITS, [3, 1]), 3); // 3 / 2 > 2 / 2
  assert.equal(sampler.pick(LOGITS), 3);
  // Negative logits are multiplied: -1 becomes -2.
  assert.equal(new Sampler({ repetitionPenalty: 2 }).pick([-1, -1.5], [0]), 1);
  for (const wrong of [{ minP: 2 }, { minP: -1 }, { repetitionPenalty: 0 }]) {
    assert.throws(() => new Sampler(wrong), InputError);
  }
});

Deno.test("Sampler picks from the logits that it wants what it picks from all", () => {
  const random = new RandomStream(5), row = Float32Array.from({ length: 200 }, () => Math.floor(20 * random.next()));
  const seen = [3, 50, 51, 120];
  const all: readonly SamplingOptions[] = [
    {},
    { temperature: 0.8, topK: 9, seed: 2 },
    { temperature: 2, topK: 30, topP: 0.7, minP: 0.1 },
    { temperature: 0.9, topP: 0.8, seed: 3 },
    { temperature: 0.9, topP: 0.9, minP: 0.3, repetitionPenalty: 1.4 },
    { repetitionPenalty: 1.3 },
    { temperature: 1, topK: 7, repetitionPenalty: 0.7 },
  ];
  for (const options of all) {
    const whole = new Sampler(options), part = new Sampler(options), { count, sums, temperature = 1 } = part.wants!;
    const shown = penalised(row, seen, options.repetitionPenalty ?? 1);
    const ids = [...row.keys()].sort((a, b) => shown[b]! - shown[a]! || a - b).slice(0, count);
    const values = ids.map((id) => row[id]!), largest = Math.max(...shown);
    const sum = shown.reduce((all, x) => all + Math.exp((x - largest) / temperature), 0);
    for (let i = 0; i < 50; i++) {
      const logits = { ids, values, ...(sums ? { sum } : {}) };
      assert.ok(part.suffices(logits, seen));
      assert.equal(part.pick(logits, seen), whole.pick(row, seen), JSON.stringify(options));
    }
  }
});

Deno.test("Sampler says when the largest logits do not reach top-p", () => {
  const sampler = new Sampler({ temperature: 1, topP: 0.9 });
  const flat = { ids: [0, 1, 2], values: [1, 1, 1], sum: 4 };
  assert.equal(sampler.suffices(flat), false);
  assert.equal(sampler.suffices({ ...flat, sum: 3.3 }), true);
});

Deno.test("Sampler lets a token be drawn elsewhere with the number that its pick takes", () => {
  const [here, there] = [1, 2].map(() => new Sampler({ temperature: 0.7, seed: 11 })) as [Sampler, Sampler];
  assert.deepEqual(there.wants, { count: 1, temperature: 0.7, draws: true, minP: 0 });
  const weights = Array.from(LOGITS, (x) => Math.exp((x - 3) / 0.7)), sum = weights.reduce((a, b) => a + b);
  for (let i = 0; i < 30; i++) {
    let left = there.nextNumber * sum;
    assert.equal(there.nextNumber * sum, left, "looking takes nothing");
    const id = weights.findIndex((w) => (left -= w) < 0);
    assert.equal(there.pick({ ids: [id], values: [LOGITS[id]!] }), here.pick(LOGITS));
  }
  assert.equal(new Sampler({ temperature: 1, topK: 1000 }).wants, undefined);
});
