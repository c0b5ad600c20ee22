/** A tensor that is extended along one dim, in memory that has room for more: a KV cache that is updated in place. */
import { byteLength, type DType } from "../core/dtype.ts";
import { type HostTensor, hostTensorBytes, hostTensorFromBytes } from "../core/host_tensor.ts";

/** Room for so many more when the memory is made: short texts never move. */
const FIRST_ROOM = 64;

/** `[…, length, …]` in memory of `[…, room, …]`. */
export class GrowingTensor {
  readonly dtype: DType;
  /** The dim that grows. */
  readonly dim: number;
  /** How much of the dim is filled. */
  length: number;
  readonly #outer: readonly number[];
  readonly #inner: readonly number[];
  #room = 0;
  #bytes = new Uint8Array(0);

  /** An empty tensor: `shape[dim]` must be 0. */
  constructor(dtype: DType, shape: readonly number[], dim: number) {
    this.dtype = dtype;
    this.dim = dim;
    this.length = shape[dim]!;
    this.#outer = shape.slice(0, dim);
    this.#inner = shape.slice(dim + 1);
  }

  /** What is filled. */
  get shape(): readonly number[] {
    return this.#shape(this.length);
  }

  /** What there is room for. */
  get capacity(): readonly number[] {
    return this.#shape(this.#room);
  }

  /** The memory, of the size of `capacity`; another one after it had to grow. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  /** Makes room for `length` in all, twice as much as before where there is none: the content is then copied. Whether it was. */
  reserve(length: number): boolean {
    if (length <= this.#room) return false;
    const room = Math.max(length + FIRST_ROOM, 2 * this.#room);
    const bytes = new Uint8Array(this.#rows * room * this.#width);
    copyRows({ bytes: this.#bytes, stride: this.#room * this.#width }, { bytes, stride: room * this.#width }, {
      rows: this.#rows,
      length: this.length * this.#width,
    });
    this.#bytes = bytes;
    this.#room = room;
    return true;
  }

  /** A copy of what is filled, without gaps. */
  compact(): HostTensor {
    const length = this.length * this.#width, bytes = new Uint8Array(this.#rows * length);
    copyRows({ bytes: this.#bytes, stride: this.#room * this.#width }, { bytes, stride: length }, {
      rows: this.#rows,
      length,
    });
    return hostTensorFromBytes(this.dtype, this.shape, bytes);
  }

  /** Takes over the content of another tensor. */
  assign(tensor: HostTensor): void {
    const from = tensor.shape[this.dim]!;
    this.reserve(from);
    const length = from * this.#width;
    copyRows({ bytes: hostTensorBytes(tensor), stride: length }, {
      bytes: this.#bytes,
      stride: this.#room * this.#width,
    }, { rows: this.#rows, length });
    this.length = from;
  }

  /** Index i of dim 0 (a sequence of the batch) becomes what index `rows[i]` was: for searches over several continuations. */
  reorder(rows: readonly number[]): void {
    const batch = this.#outer[0]!, stride = this.#room * this.#width, block = (this.#rows / batch) * stride;
    const before = this.#bytes.slice();
    rows.forEach((row, i) => {
      if (row === i) return;
      const from = { bytes: before.subarray(row * block), stride },
        to = { bytes: this.#bytes.subarray(i * block), stride };
      copyRows(from, to, { rows: this.#rows / batch, length: this.length * this.#width });
    });
  }

  get #rows(): number {
    return this.#outer.reduce((a, b) => a * b, 1);
  }

  /** Bytes of one index of the dim. */
  get #width(): number {
    return byteLength(this.dtype, this.#inner.reduce((a, b) => a * b, 1));
  }

  #shape(length: number): readonly number[] {
    return [...this.#outer, length, ...this.#inner];
  }
}

interface Rows {
  readonly bytes: Uint8Array;
  readonly stride: number;
}

function copyRows(from: Rows, to: Rows, { rows, length }: { rows: number; length: number }): void {
  for (let row = 0; row < rows; row++) {
    to.bytes.set(from.bytes.subarray(row * from.stride, row * from.stride + length), row * to.stride);
  }
}
