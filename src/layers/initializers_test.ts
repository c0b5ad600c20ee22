import assert from "node:assert/strict";
import { hostTensorFromBytes, toNumbers } from "../core/host_tensor.ts";
import { inlineData } from "../graph/builder.ts";
import { initialData, type Initializer } from "./initializers.ts";

const NORMAL: Initializer = { kind: "normal", mean: 0, deviation: 1 };

function numbers(initializer: Initializer, options: Partial<Parameters<typeof initialData>[1]> = {}): number[] {
  const full = { name: "w", seed: 1, dtype: "f32", shape: [100, 100], ...options } as const;
  return Array.from(toNumbers(hostTensorFromBytes(full.dtype, full.shape, initialData(initializer, full).bytes())));
}

Deno.test("a slice of initial values holds the numbers that the whole tensor has there, along any dim", () => {
  for (const dtype of ["f32", "f16", "bf16", "f64"] as const) {
    const shape = [5, 7, 3];
    const data = initialData(NORMAL, { name: "w", seed: 3, dtype, shape });
    const whole = inlineData(dtype, shape, data.bytes());
    for (const dim of [0, 1, 2]) {
      const ranges = [[0, 1], [2, 3]] as const;
      assert.deepEqual([...data.slice(dim, ranges)], [...whole.slice(dim, ranges)], `${dtype}, dim ${dim}`);
    }
    assert.equal(data.slice(1, []).length, 0);
  }
});

Deno.test("initial values are decided by seed, name and index: other seeds and names give others", () => {
  const first = numbers(NORMAL);
  assert.deepEqual(numbers(NORMAL), first);
  for (const other of [{ seed: 2 }, { seed: 1 + 2 ** 32 }, { name: "v" }]) {
    const equal = numbers(NORMAL, other).filter((x, i) => x === first[i]);
    assert.ok(equal.length < 10, `${JSON.stringify(other)}: ${equal.length} equal numbers`);
  }
});

Deno.test("normal values have the mean, deviation and tails of a normal distribution, and no neighbours resemble", () => {
  const x = numbers({ kind: "normal", mean: 2, deviation: 3 });
  const mean = x.reduce((a, b) => a + b) / x.length;
  const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length;
  // Four standard errors of 10,000 draws.
  assert.ok(Math.abs(mean - 2) < 0.12, `mean ${mean}`);
  assert.ok(Math.abs(Math.sqrt(variance) - 3) < 0.09, `deviation ${Math.sqrt(variance)}`);
  const beyond = x.filter((v) => Math.abs(v - 2) > 6).length / x.length;
  assert.ok(Math.abs(beyond - 0.0455) < 0.0084, `beyond two deviations: ${beyond}`);
  const correlation = x.slice(1).reduce((s, v, i) => s + (v - mean) * (x[i]! - mean), 0) / (x.length * variance);
  assert.ok(Math.abs(correlation) < 0.04, `correlation of neighbours ${correlation}`);
});

Deno.test("uniform values fill the range evenly and stay within it", () => {
  const x = numbers({ kind: "uniform", bound: 0.5 });
  assert.ok(x.every((v) => v >= -0.5 && v <= 0.5));
  const counts = Array.from({ length: 10 }, (_, bin) => x.filter((v) => Math.floor((v + 0.5) * 10) === bin).length);
  // 1000 expected in each; a standard deviation is 30.
  assert.ok(counts.every((n) => Math.abs(n - 1000) < 130), counts.join());
});

Deno.test("a padding row is zero, and the rows around it are not", () => {
  const x = numbers({ ...NORMAL, zeroRow: 2 }, { shape: [4, 3] });
  assert.deepEqual(x.slice(6, 9), [0, 0, 0]);
  assert.ok(x.toSpliced(6, 3).every((v) => v !== 0));
});

Deno.test("initial values of integers, and seeds that are no whole numbers, are refused", () => {
  assert.throws(() => initialData(NORMAL, { name: "w", seed: 1, dtype: "i64", shape: [2] }), /"w" as i64/);
  assert.throws(() => initialData(NORMAL, { name: "w", seed: 0.5, dtype: "f32", shape: [2] }), /seed 0.5/);
});
