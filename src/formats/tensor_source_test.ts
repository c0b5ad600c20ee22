import assert from "node:assert/strict";
import fc from "fast-check";
import { byteLength, type DType, dtypeInfo } from "../core/dtype.ts";
import { ShapeError } from "../core/errors.ts";
import { fromNumbers, hostTensorBytes, hostTensorFromBytes, numel, toNumbers } from "../core/host_tensor.ts";
import { checkRange, memorySource } from "./mapped_file.ts";
import { fileTensor, type IndexRanges, memoryTensor } from "./tensor_source.ts";

function sliceNumbers(values: ArrayLike<number>, shape: readonly number[], dim: number, ranges: IndexRanges): number[] {
  const inner = numel(shape.slice(dim + 1)), size = shape[dim]!;
  return Array.from(values).filter((_, i) => {
    const index = Math.floor(i / inner) % size;
    return ranges.some(([start, end]) => index >= start && index < end);
  });
}

Deno.test("slice() equals slicing elements, for every width of element and every dim", () => {
  const shape = fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 1, maxLength: 4 });
  const dtypes = fc.constantFrom<DType>("u2", "i4", "u4", "u8", "bf16", "f32", "i64");
  fc.assert(
    fc.property(shape, dtypes, fc.nat(), fc.array(fc.nat(5), { maxLength: 6 }), (shape, dtype, pick, cuts) => {
      const dim = pick % shape.length, size = shape[dim]!;
      const at = [...new Set(cuts.map((c) => Math.min(c, size)))].sort((a, b) => a - b);
      const ranges: [number, number][] = [];
      for (let i = 0; i + 1 < at.length; i += 2) ranges.push([at[i]!, at[i + 1]!]);
      const limit = dtype === "i4" ? 8 : 1 << Math.min(dtypeInfo(dtype).bits, 7);
      const t = fromNumbers(dtype, shape, Array.from({ length: numel(shape) }, (_, i) => (i * 7) % limit));
      const file = new Uint8Array([1, 2, 3, ...hostTensorBytes(t)]);
      const source = fileTensor({ name: "t", dtype, shape, offset: 3 }, memorySource("f", file));
      const want = sliceNumbers(toNumbers(t), shape, dim, ranges);
      const cut = shape.with(dim, ranges.reduce((n, [a, b]) => n + b - a, 0));
      const got = hostTensorFromBytes(dtype, cut, source.slice(dim, ranges));
      assert.deepEqual(Array.from(toNumbers(got)), want);
      assert.deepEqual(
        memoryTensor({ name: "t", dtype, shape }, hostTensorBytes(t)).slice(dim, ranges),
        source.slice(dim, ranges),
      );
    }),
    { numRuns: 500 },
  );
});

Deno.test("a contiguous slice is a view, and reads nothing else", () => {
  const file = new Uint8Array(4096);
  const reads: [number, number][] = [];
  const inner = memorySource("f", file);
  const source = { ...inner, bytes: (o: number, n: number) => (reads.push([o, n]), inner.bytes(o, n)) };
  const t = fileTensor({ name: "w", dtype: "f32", shape: [8, 16], offset: 64 }, source);
  const rows = t.slice(0, [[2, 4]]);
  assert.equal(rows.buffer, file.buffer);
  assert.deepEqual(reads, [[64 + 2 * 64, 128]]);
});

Deno.test("long rows are read piece by piece, short rows many at a time", () => {
  let count = 0, bytes = 0;
  const file = new Uint8Array(byteLength("u8", 64 * 200_000));
  const inner = memorySource("f", file);
  const source = { ...inner, bytes: (o: number, n: number) => (count++, bytes += n, inner.bytes(o, n)) };
  fileTensor({ name: "w", dtype: "u8", shape: [64, 200_000], offset: 0 }, source).slice(1, [[10, 20]]);
  assert.deepEqual([count, bytes], [64, 640]);
  count = 0;
  fileTensor({ name: "w", dtype: "u8", shape: [64, 200], offset: 0 }, source).slice(1, [[10, 20]]);
  assert.equal(count, 1);
});

Deno.test("a dim or range outside of the tensor is refused", () => {
  const t = memoryTensor({ name: "w", dtype: "f32", shape: [2, 3] }, new Uint8Array(24));
  for (const [dim, range] of [[2, [0, 1]], [1, [2, 4]], [1, [2, 1]], [0, [-1, 1]], [0, [0.5, 1]]] as const) {
    assert.throws(() => t.slice(dim, [range]), ShapeError);
  }
  assert.throws(() => checkRange({ path: "f", size: 4 }, 2, 3), /has 4 bytes/);
});
