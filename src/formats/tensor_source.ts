/**
 * A tensor that is still in its file: what it is, where its bytes lie, and ways to read all of it or a slice, and nothing else.
 */
import { byteLength, type DType, dtypeInfo } from "../core/dtype.ts";
import { FormatError, ShapeError } from "../core/errors.ts";
import { type HostTensor, hostTensorFromBytes, numel } from "../core/host_tensor.ts";
import type { ByteSource } from "./mapped_file.ts";

/** Where the bytes of a tensor lie: in a file as they are (little-endian, row-major, packed), or only in memory. */
export type TensorLocation =
  | { readonly kind: "file"; readonly path: string; readonly offset: number; readonly length: number }
  | { readonly kind: "inline"; readonly bytes: Uint8Array };

/** Index ranges `[start, end)` along one dim. */
export type IndexRanges = readonly (readonly [start: number, end: number])[];

/** A tensor that can be read lazily. */
export interface TensorSource {
  /** As the file has it. */
  readonly name: string;
  /** Of its elements. */
  readonly dtype: DType;
  /** Outermost dim first. */
  readonly shape: readonly number[];
  /** Where its bytes lie. */
  readonly location: TensorLocation;
  /** The elements of a tensor of strings, in UTF-8; such a tensor cannot be read as bytes. */
  readonly strings?: readonly Uint8Array[];
  /** All bytes; a view where the file is mapped. Not to be written to. */
  bytes(): Uint8Array;
  /**
   * The bytes of the tensor with `dim` cut down to `ranges`, in their order; a view where that is contiguous in a mapped file.
   *
   * @throws {ShapeError} If there is no such dim, or a range leaves it.
   */
  slice(dim: number, ranges: IndexRanges): Uint8Array;
}

/** Rows nearer than this in the file are read in one go and picked apart in memory, in bytes. */
const NEAR = 1 << 16;
/** The most that is read in one go for that, in bytes. */
const WINDOW = 1 << 20;

/** What a tensor is, apart from its bytes. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/** A tensor at `offset` of a file. The caller has checked that its bytes lie inside. */
export function fileTensor(spec: TensorSpec & { readonly offset: number }, source: ByteSource): TensorSource {
  return new FileTensor(spec, source);
}

/** A tensor whose bytes are in memory. `at` says that they are also in a file, so that others may read them there. */
export function memoryTensor(
  spec: TensorSpec,
  bytes: Uint8Array,
  at?: { readonly path: string; readonly offset: number },
): TensorSource {
  return new MemoryTensor(spec, bytes, at);
}

/** What both kinds have; a large model has thousands, so that they hold little. */
abstract class Source {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];

  constructor({ name, dtype, shape }: TensorSpec) {
    this.name = name;
    this.dtype = dtype;
    this.shape = shape;
  }

  abstract read(offset: number, length: number): Uint8Array;

  slice(dim: number, ranges: IndexRanges): Uint8Array {
    return sliceBytes(this, { dim, ranges, read: (offset, length) => this.read(offset, length) });
  }
}

class FileTensor extends Source implements TensorSource {
  readonly #offset: number;
  readonly #source: ByteSource;

  constructor(spec: TensorSpec & { readonly offset: number }, source: ByteSource) {
    super(spec);
    this.#offset = spec.offset;
    this.#source = source;
  }

  get location(): TensorLocation {
    return { kind: "file", path: this.#source.path, offset: this.#offset, length: this.#length };
  }

  get #length(): number {
    return byteLength(this.dtype, numel(this.shape));
  }

  bytes(): Uint8Array {
    return this.read(0, this.#length);
  }

  override read(offset: number, length: number): Uint8Array {
    return this.#source.bytes(this.#offset + offset, length);
  }
}

class MemoryTensor extends Source implements TensorSource {
  readonly #bytes: Uint8Array;
  readonly #at: { readonly path: string; readonly offset: number } | undefined;

  constructor(spec: TensorSpec, bytes: Uint8Array, at?: { readonly path: string; readonly offset: number }) {
    super(spec);
    this.#bytes = bytes;
    this.#at = at;
  }

  get location(): TensorLocation {
    const bytes = this.#bytes, at = this.#at;
    return at ? { kind: "file", path: at.path, offset: at.offset, length: bytes.length } : { kind: "inline", bytes };
  }

  bytes(): Uint8Array {
    return this.#bytes;
  }

  override read(offset: number, length: number): Uint8Array {
    return this.#bytes.subarray(offset, offset + length);
  }
}

/** The tensor, read whole. @throws {FormatError} If its dtype has no typed array (strings, complex). */
export function readTensor(source: TensorSource): HostTensor {
  return hostTensorFromBytes(source.dtype, source.shape, source.bytes());
}

interface SliceRequest {
  readonly dim: number;
  readonly ranges: IndexRanges;
  /** Reads bytes relative to the tensor's start. */
  readonly read: (offset: number, length: number) => Uint8Array;
}

function sliceBytes(
  { name, dtype, shape }: TensorSpec,
  { dim, ranges, read }: SliceRequest,
): Uint8Array {
  const size = shape[dim];
  if (size === undefined) throw new ShapeError(`Cannot slice dim ${dim} of "${name}": it is ${dtype}[${shape}]`);
  for (const [start, end] of ranges) {
    if (!(Number.isInteger(start) && Number.isInteger(end)) || start < 0 || end < start || end > size) {
      throw new ShapeError(`Cannot take [${start}, ${end}) of dim ${dim} of "${name}": it is ${dtype}[${shape}]`);
    }
  }
  const { bits } = dtypeInfo(dtype);
  if (bits === 0) throw new FormatError(`Cannot slice "${name}": strings have no fixed size`);
  const outer = numel(shape.slice(0, dim)), inner = numel(shape.slice(dim + 1));
  const kept = ranges.reduce((n, [start, end]) => n + end - start, 0);
  const out = () => new Uint8Array(byteLength(dtype, outer * kept * inner));
  if (outer * kept * inner === 0) return out();
  if (inner * bits % 8 !== 0 && !(size * inner * bits % 8 === 0 && onBytes(ranges, inner * bits))) {
    return slicePacked(read(0, byteLength(dtype, outer * size * inner)), out(), { outer, size, inner, bits, ranges });
  }
  const unit = inner * bits / 8; // bytes of one index of `dim`; a fraction only where all borders still fall on bytes
  const row = size * unit;
  if (outer === 1 && ranges.length === 1) return read(ranges[0]![0] * unit, kept * unit);
  return copyRows(out(), {
    outer,
    row,
    read,
    chunks: ranges.map(([start, end]) => [start * unit, end * unit] as const),
  });
}

function onBytes(ranges: IndexRanges, unitBits: number): boolean {
  return ranges.every(([start, end]) => start * unitBits % 8 === 0 && end * unitBits % 8 === 0);
}

/** Copies the same byte ranges of each of `outer` rows. Rows that are short are read many at a time. */
function copyRows(
  out: Uint8Array,
  { outer, row, chunks, read }: {
    outer: number;
    row: number;
    chunks: readonly (readonly [number, number])[];
    read: SliceRequest["read"];
  },
): Uint8Array {
  let at = 0;
  if (row > NEAR) {
    for (let o = 0; o < outer; o++) {
      for (const [start, end] of chunks) {
        out.set(read(o * row + start, end - start), at);
        at += end - start;
      }
    }
    return out;
  }
  const rows = Math.max(1, Math.floor(WINDOW / row));
  for (let first = 0; first < outer; first += rows) {
    const count = Math.min(rows, outer - first);
    const window = read(first * row, count * row);
    for (let o = 0; o < count; o++) {
      for (const [start, end] of chunks) {
        out.set(window.subarray(o * row + start, o * row + end), at);
        at += end - start;
      }
    }
  }
  return out;
}

/** Element by element, where borders fall inside bytes. */
function slicePacked(
  from: Uint8Array,
  out: Uint8Array,
  { outer, size, inner, bits, ranges }: {
    outer: number;
    size: number;
    inner: number;
    bits: number;
    ranges: IndexRanges;
  },
): Uint8Array {
  const mask = (1 << bits) - 1;
  let to = 0;
  for (let o = 0; o < outer; o++) {
    for (const [start, end] of ranges) {
      const last = (o * size + end) * inner;
      for (let i = (o * size + start) * inner; i < last; i++, to++) {
        const value = (from[Math.floor(i * bits / 8)]! >>> (i * bits % 8)) & mask;
        out[Math.floor(to * bits / 8)]! |= value << (to * bits % 8);
      }
    }
  }
  return out;
}
