/** A rank's part of constant data, read only when asked for. */
import { byteLength, dtypeInfo } from "../core/dtype.ts";
import { GraphError } from "../core/errors.ts";
import { sliceBytes } from "../graph/builder.ts";
import type { TensorData } from "../graph/graph.ts";
import { isWhole, type Layout, type Range } from "../graph/layout.ts";
import { type Placement, placementKey } from "../graph/placement.ts";

/** One rank's parts of constants, each made once, so that graphs of one model share what they hold alike. */
export class LocalSlices {
  readonly #rank: number;
  readonly #known = new Map<TensorData, Map<string, TensorData>>();

  constructor(rank: number) {
    this.#rank = rank;
  }

  /** {@linkcode localData} of this rank. */
  of(data: TensorData, placement: Placement): TensorData {
    const parts = this.#known.get(data) ?? new Map<string, TensorData>();
    this.#known.set(data, parts);
    const key = placementKey(placement);
    const part = parts.get(key) ?? localData(data, placement, this.#rank);
    parts.set(key, part);
    return part;
  }
}

/**
 * The part of `data` that `placement` gives to `rank`. Where it is contiguous in the file it keeps a location there, so
 * that nothing is copied. Of a partial sum rank 0 holds the tensor and the others zeros.
 */
export function localData(data: TensorData, placement: Placement, rank: number): TensorData {
  if (placement.kind === "R") return data;
  if (placement.kind === "P") return rank === 0 ? data : zeros(data);
  if (isWhole(placement.layout)) return data;
  return slicedData(data, placement.dim, rangesInDim(placement.layout, rank));
}

/** The rank's ranges in the whole dim: those of the block, once for each of its (constant) repetitions. */
function rangesInDim(layout: Layout, rank: number): Range[] {
  const { outer, size } = layout;
  if (typeof outer !== "number") throw new GraphError(`Cannot cut a constant by a layout that repeats ${outer} times`);
  return Array.from({ length: outer }, (_, o) => o).flatMap((o) =>
    layout.parts[rank]!.map(([a, b]): Range => [o * size + a, o * size + b])
  );
}

function slicedData(data: TensorData, dim: number, ranges: readonly Range[]): TensorData {
  const kept = ranges.reduce((n, [a, b]) => n + b - a, 0);
  const shape = data.shape.with(dim, kept);
  const contiguous = ranges.length === 1 && data.shape.slice(0, dim).every((d) => d === 1);
  const row = byteLength(data.dtype, data.shape.slice(dim + 1).reduce((a, b) => a * b, 1));
  const bytes = () => data.slice(dim, ranges);
  return {
    dtype: data.dtype,
    shape,
    location: data.location && contiguous
      ? { file: data.location.file, offset: data.location.offset + ranges[0]![0] * row, length: kept * row }
      : undefined,
    bytes,
    // Data that is computed makes the part alone.
    ...(contiguous || data.chunks ? {} : { chunks: () => stridedChunks(data, dim, ranges) }),
    slice: (d, r) => sliceBytes(bytes(), data.dtype, shape, { dim: d, ranges: r }),
  };
}

/** Bytes that are gathered at a time. */
const CHUNK = 1 << 20;

/** The ranges of `dim` of all rows, gathered into one buffer that is used again: a rank's share of a big matrix makes no garbage. */
function* stridedChunks(data: TensorData, dim: number, ranges: readonly Range[]): Iterable<Uint8Array> {
  const whole = data.bytes();
  const rows = data.shape.slice(0, dim).reduce((a, b) => a * b, 1);
  const unit = byteLength(data.dtype, data.shape.slice(dim + 1).reduce((a, b) => a * b, 1));
  const stride = unit * data.shape[dim]!;
  const kept = ranges.reduce((n, [a, b]) => n + b - a, 0) * unit;
  if (unit * 8 % dtypeInfo(data.dtype).bits !== 0 || stride * rows !== whole.length) {
    yield data.slice(dim, ranges); // packed types: borders inside bytes are checked there
    return;
  }
  const perChunk = Math.max(1, Math.floor(CHUNK / Math.max(1, kept)));
  const buffer = new Uint8Array(perChunk * kept);
  for (let row = 0; row < rows; row += perChunk) {
    const end = Math.min(rows, row + perChunk);
    let to = 0;
    for (let r = row; r < end; r++) {
      for (const [a, b] of ranges) {
        buffer.set(whole.subarray(r * stride + a * unit, r * stride + b * unit), to);
        to += (b - a) * unit;
      }
    }
    yield buffer.subarray(0, to);
  }
}

function zeros(data: TensorData): TensorData {
  const make = (shape: readonly number[]) => new Uint8Array(byteLength(data.dtype, shape.reduce((a, b) => a * b, 1)));
  return {
    dtype: data.dtype,
    shape: data.shape,
    bytes: () => make(data.shape),
    slice: (dim, ranges) => make(data.shape.with(dim, ranges.reduce((n, [a, b]) => n + b - a, 0))),
  };
}
