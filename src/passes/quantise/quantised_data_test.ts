import assert from "node:assert/strict";
import fc from "fast-check";
import { f16ToF32, f32ArrayToF16 } from "../../core/half.ts";
import { inlineData } from "../../graph/builder.ts";
import type { TensorData } from "../../graph/graph.ts";
import { localData } from "../local_data.ts";
import { layout } from "../../graph/layout.ts";
import { shard } from "../../graph/placement.ts";
import { type QuantisedData, QuantisedWeights } from "./quantised_data.ts";
import type { WeightFormat } from "./weight_format.ts";

/** Random weights, some blocks of which are all zeros, and some of one sign. */
function weightOf(n: number, k: number, { seed, transposed, dtype }: {
  seed: number;
  transposed: boolean;
  dtype: "f32" | "f16";
}): { data: TensorData; at: (column: number, row: number) => number } {
  let state = seed;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  const shape = transposed ? [n, k] : [k, n];
  const kinds = [() => random() - 0.5, () => random(), () => -random() * 3, () => 0];
  const values = Float32Array.from({ length: n * k }, (_, i) => kinds[Math.floor(i / 37) % kinds.length]!());
  const stored = dtype === "f32" ? values : f32ArrayToF16(values);
  const at = (column: number, row: number) => {
    const x = stored[transposed ? column * k + row : row * n + column]!;
    return dtype === "f32" ? x : f16ToF32(x);
  };
  return { data: inlineData(dtype, shape, stored), at };
}

/** What the tensors stand for, and the scale of each value. */
function restored({ packed, scales, zeros }: QuantisedData, { bits, block, symmetric }: WeightFormat) {
  const [, blocks = 0, width = 0] = packed.shape;
  const bytes = packed.bytes(), zeroBytes = zeros?.bytes(), zeroWidth = zeros?.shape[1] ?? 0;
  const stored = scales.bytes().slice().buffer;
  const scaleOf = scales.dtype === "f32" ? new Float32Array(stored) : Array.from(new Uint16Array(stored), f16ToF32);
  const nibble = (from: Uint8Array, at: number, i: number) =>
    bits === 8 ? from[at + i]! : (from[at + (i >> 1)]! >> (4 * (i & 1))) & 15;
  return (column: number, row: number) => {
    const b = Math.floor(row / block), scale = scaleOf[column * blocks + b]!;
    const zero = symmetric ? 2 ** (bits - 1) : nibble(zeroBytes!, column * zeroWidth, b);
    return { value: (nibble(bytes, (column * blocks + b) * width, row % block) - zero) * scale, scale };
  };
}

const FORMS = fc.record({
  n: fc.integer({ min: 1, max: 9 }),
  k: fc.integer({ min: 16, max: 150 }),
  seed: fc.integer({ min: 1, max: 1e6 }),
  transposed: fc.boolean(),
  dtype: fc.constantFrom("f32" as const, "f16" as const),
  format: fc.record({
    bits: fc.constantFrom(4 as const, 8 as const),
    block: fc.constantFrom(16, 32, 64),
    symmetric: fc.boolean(),
    accuracyLevel: fc.constant(4),
  }),
});

Deno.test("a value moves by half of its block's scale, by a whole one at the ends of the range", () => {
  fc.assert(fc.property(FORMS, ({ n, k, format, ...how }) => {
    const { data, at } = weightOf(n, k, how);
    const read = restored(new QuantisedWeights().of({ data, transposed: how.transposed }, format), format);
    let ends = 0;
    for (let column = 0; column < n; column++) {
      for (let row = 0; row < k; row++) {
        const { value, scale } = read(column, row), moved = Math.abs(value - at(column, row)), step = Math.abs(scale);
        assert.ok(moved <= step * 1.0001, `${at(column, row)} became ${value}, steps are ${step}`);
        if (moved > step * 0.5001) ends++;
      }
    }
    // The far end is one step of 16 or 256; f16 scales are rounded themselves, which the largest values feel.
    assert.ok(ends <= n * k / 4, `${ends} of ${n * k} values moved by more than half a step`);
  }));
});

Deno.test("any part of a quantised weight has the bytes that the whole has there", () => {
  const parts = fc.tuple(
    FORMS,
    fc.boolean(),
    fc.array(fc.integer({ min: 0, max: 1000 }), { minLength: 1, maxLength: 4 }),
  );
  fc.assert(fc.property(parts, ([{ n, k, format, ...how }, byColumn, cuts]) => {
    const { data } = weightOf(n, k, how);
    const whole = new QuantisedWeights().of({ data, transposed: how.transposed }, format);
    const perUnit = format.symmetric ? 1 : 8 / format.bits;
    const blocks = whole.packed.shape[1]!;
    const units = byColumn ? n : Math.floor(blocks / perUnit);
    if (!byColumn && blocks % perUnit !== 0) return;
    const borders = [0, ...cuts.map((c) => c % (units + 1)), units].sort((a, b) => a - b);
    const placed = (size: number) =>
      shard(
        byColumn ? 0 : 1,
        layout(size, borders.slice(1).map((b, i) => [[borders[i]! * size / units, b * size / units]])),
      );
    for (const tensor of [whole.packed, whole.scales, whole.zeros]) {
      if (!tensor) continue;
      const stored = inlineData(tensor.dtype, tensor.shape, tensor.bytes());
      for (let rank = 0; rank + 1 < borders.length; rank++) {
        const placement = placed(tensor.shape[byColumn ? 0 : 1]!);
        const lazy = localData(tensor, placement, rank), expected = localData(stored, placement, rank);
        const bytes = join(lazy.chunks?.() ?? [lazy.bytes()]);
        assert.deepEqual(lazy.shape, expected.shape);
        assert.deepEqual(bytes, Uint8Array.from(expected.bytes()));
      }
      assert.deepEqual(join(tensor.chunks!()), tensor.bytes());
    }
  }));
});

Deno.test("a part reads no more of the weight than it is made of, and nothing before it is asked for", () => {
  const { data } = weightOf(8, 64, { seed: 1, transposed: true, dtype: "f32" });
  const poisoned = new Uint8Array(data.bytes());
  poisoned.fill(255, 4 * 64 * 4); // not a number, in columns 4 to 7
  let reads = 0;
  const source = { ...inlineData("f32", data.shape, poisoned), bytes: () => (reads++, poisoned) };
  const format = { bits: 4, block: 32, symmetric: true, accuracyLevel: 4 } as const;
  const { packed, scales } = new QuantisedWeights().of({ data: source, transposed: true }, format);
  assert.equal(reads, 0);
  const clean = new QuantisedWeights().of({ data, transposed: true }, format);
  assert.deepEqual(packed.slice(0, [[0, 4]]), clean.packed.slice(0, [[0, 4]]));
  assert.deepEqual(scales.slice(0, [[1, 3]]), clean.scales.slice(0, [[1, 3]]));
});

Deno.test("a weight has one quantised form, however many graphs ask for it", () => {
  const { data } = weightOf(4, 32, { seed: 1, transposed: true, dtype: "f32" });
  const weights = new QuantisedWeights(), format = { bits: 4, block: 32, symmetric: true, accuracyLevel: 4 } as const;
  const one = weights.of({ data, transposed: true }, format);
  assert.equal(weights.of({ data, transposed: true }, { ...format, accuracyLevel: 0 }), one);
  assert.notEqual(weights.of({ data, transposed: true }, { ...format, bits: 8 }), one);
  assert.notEqual(weights.of({ data, transposed: false }, format), one);
});

function join(pieces: Iterable<Uint8Array>): Uint8Array {
  return Uint8Array.from([...pieces].flatMap((p) => [...p]));
}
