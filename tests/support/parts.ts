/** Whole tensors cut into the parts of ranks, and put together from them, for tests. */
import { type DType, dtypeInfo } from "../../src/core/dtype.ts";
import { fromNumbers, type HostTensor, hostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { inlineData } from "../../src/graph/builder.ts";
import { assemble, type Range } from "../../src/graph/layout.ts";
import type { Placement } from "../../src/graph/placement.ts";

/** A tensor over bytes, whose array type must be the dtype's: what the engine calls a dtype is checked by its width. */
export function fromBytes(
  dtype: DType,
  shape: readonly number[],
  bytes: Uint8Array,
  of = dtypeInfo(dtype).array!,
): HostTensor {
  const aligned = bytes.slice();
  return hostTensor(dtype, shape, new of(aligned.buffer, 0, aligned.length / of.BYTES_PER_ELEMENT));
}

/** The whole tensor of all ranks' parts. */
export function combine(parts: readonly HostTensor[], placement: Placement): HostTensor {
  const first = parts[0]!;
  if (placement.kind === "R") return first;
  if (placement.kind === "P") {
    const arrays = parts.map((p) => toNumbers(p));
    const f = { sum: (a: number, b: number) => a + b, max: Math.max, min: Math.min }[placement.reduction];
    const total = Array.from(arrays[0]!, (_, i) => arrays.map((a) => a[i]!).reduce((x, y) => f(x, y)));
    return fromNumbers(first.dtype, first.shape, total);
  }
  const { dim, layout } = placement;
  const repeats = parts.reduce((n, p) => n + p.shape[dim]!, 0) /
    layout.parts.flat().reduce((n, [a, b]) => n + b - a, 0);
  const outer = first.shape.slice(0, dim).reduce((a, b) => a * b, 1) * repeats;
  const inner = first.shape.slice(dim + 1).reduce((a, b) => a * b, 1);
  const arrays = parts.map((p) => toNumbers(p));
  const rows = layout.parts.map((ranges) => ranges.reduce((n, [a, b]) => n + b - a, 0));
  const out: number[] = [];
  for (let o = 0; o < outer; o++) {
    for (const { rank, start, end } of assemble(layout)) {
      for (let i = (o * rows[rank]! + start) * inner; i < (o * rows[rank]! + end) * inner; i++) {
        out.push(arrays[rank]![i]!);
      }
    }
  }
  return fromNumbers(first.dtype, first.shape.map((d, i) => (i === dim ? layout.size * repeats : d)), out);
}

/** A rank's part of a whole tensor; partial sums are shares of it that add up exactly. */
export function partOf(whole: HostTensor, placement: Placement, rank: number): HostTensor {
  if (placement.kind === "R") return whole;
  const { dtype, shape } = whole;
  if (placement.kind === "P") {
    const ranks = 2;
    const numbers = Array.from(toNumbers(whole));
    if (!dtypeInfo(dtype).float) return fromNumbers(dtype, shape, numbers.map((x) => [x - 1, 1][rank] ?? 0));
    const share = rank >= ranks ? 0 : rank === 0 ? 0.75 : 0.25;
    return fromNumbers(dtype, shape, numbers.map((x) => x * share));
  }
  const { dim, layout } = placement;
  const repeats = shape[dim]! / layout.size;
  const ranges: Range[] = [];
  for (let i = 0; i < repeats; i++) {
    for (const [a, b] of layout.parts[rank]!) ranges.push([a + i * layout.size, b + i * layout.size]);
  }
  const bytes = inlineData(dtype, shape, whole.data).slice(dim, ranges);
  const local = ranges.reduce((n, [a, b]) => n + b - a, 0);
  return fromBytes(dtype, shape.map((d, i) => (i === dim ? local : d)), bytes);
}
