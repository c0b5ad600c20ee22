import assert from "node:assert/strict";
import { fromNumbers } from "../src/core/host_tensor.ts";
import { compareTensors } from "./compare.ts";
import { growth, roundingBound } from "./rounding_bound.ts";

/** Numbers of a normal distribution, always the same for a seed. */
function normal(count: number, seed: number): number[] {
  let state = seed;
  const next = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  return Array.from({ length: count }, () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()));
}

const tensor = (values: number[]) => fromNumbers("f32", [values.length], values);
const COUNT = 4096, EXPECTED = normal(COUNT, 1), ROUNDED = normal(COUNT, 2).map((e, i) => EXPECTED[i]! + 0.01 * e);

/** Whether `got` passes on two ranks. */
function passes(got: number[]): boolean {
  const rounded = { outputs: new Map([["y", tensor(ROUNDED)]]), ranks: 2 };
  const expected = new Map([["y", tensor(EXPECTED)]]);
  return compareTensors({ y: tensor(got) }, expected, { atol: 0, rtol: 0 }, rounded)[0]!.pass;
}

Deno.test("growth() is 1 on one rank, and counts the parts and the sums of several", () => {
  assert.equal(growth(1), 1);
  assert.equal(growth(2), Math.sqrt(2));
  assert.ok(growth(8) < 2.4 && growth(8) > growth(4));
});

Deno.test("an output passes whose errors are like those of rounding, and one that rounds more often on several ranks", () => {
  for (const seed of [3, 4, 5]) {
    for (const size of [0.01, 0.01 * Math.SQRT2, 0.02]) {
      assert.ok(passes(normal(COUNT, seed).map((e, i) => EXPECTED[i]! + size * e)), `${size}`);
    }
  }
});

Deno.test("an output fails with three times the errors, with all elements a little off, and with one far off", () => {
  assert.ok(!passes(normal(COUNT, 3).map((e, i) => EXPECTED[i]! + 0.033 * e)));
  assert.ok(!passes(EXPECTED.map((x) => x + 0.035)), "a bias that is missing");
  assert.ok(!passes([...EXPECTED.slice(1), EXPECTED[0]!]), "shifted by one");
  assert.ok(!passes(ROUNDED.with(7, ROUNDED[7]! + 0.25)), "one element");
  assert.ok(!passes(ROUNDED.with(7, NaN)));
});

Deno.test("roundingBound() gives few elements more room, and none where rounding alone makes a result unknowable", () => {
  const few = roundingBound(tensor([1, 2]), tensor([1.01, 2]), 1),
    many = roundingBound(
      tensor(Array(1000).fill([1, 2]).flat()),
      tensor(Array(1000).fill([1.01, 2]).flat()),
      1,
    );
  assert.ok(typeof few !== "string" && typeof many !== "string");
  assert.ok(few.rms > 2.5 * many.rms);
  assert.match(roundingBound(tensor([1, -1]), tensor([1.5, -1]), 1) as string, /moves it by 35 % of its size/);
  assert.match(roundingBound(tensor([1]), tensor([Infinity]), 1) as string, /no finite number/);
  assert.deepEqual(roundingBound(tensor([-Infinity]), tensor([-Infinity]), 1), { rms: 0, max: 0 });
});
