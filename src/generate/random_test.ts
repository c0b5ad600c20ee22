import assert from "node:assert/strict";
import { RandomStream } from "./random.ts";

function take(seed: number, count: number): number[] {
  const stream = new RandomStream(seed);
  return Array.from({ length: count }, () => stream.next());
}

Deno.test("RandomStream repeats itself for the same seed and differs for others", () => {
  assert.deepEqual(take(7, 20), take(7, 20));
  assert.notDeepEqual(take(7, 20), take(8, 20));
  assert.notDeepEqual(take(7, 20), take(7 + 2 ** 32, 20), "the upper half of the seed counts");
  assert.notDeepEqual(take(-1, 20), take(1, 20));
});

Deno.test("RandomStream keeps its sequence from version to version", () => {
  // A seed that users wrote down must go on to give the same text.
  assert.deepEqual(take(1, 3).map((x) => x * 2 ** 32), [2012149540, 1872316204, 1707632675]);
});

Deno.test("RandomStream is uniform in [0, 1)", () => {
  const values = take(42, 20_000);
  assert.ok(values.every((x) => x >= 0 && x < 1));
  const buckets = new Array<number>(10).fill(0);
  for (const x of values) buckets[Math.floor(x * 10)]!++;
  // 2000 expected a bucket, standard deviation 42: five of them.
  assert.ok(buckets.every((n) => Math.abs(n - 2000) < 215), buckets.join(" "));
});

Deno.test("RandomStream refuses a seed that is no whole number", () => {
  assert.throws(() => new RandomStream(0.5), /Cannot seed random numbers with 0.5/);
});
