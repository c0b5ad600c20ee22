/** Tensors over memory that the executor owns. */
import { byteLength, type DType, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import { UnavailableError } from "../../core/errors.ts";

/** Elements of `dtype` at the start of `bytes`. */
export function elementsOf(dtype: DType, dims: readonly number[], bytes: Uint8Array): TypedArray {
  const { array: Ctor } = dtypeInfo(dtype);
  if (!Ctor) throw new UnavailableError(`Cannot hold a tensor of dtype ${dtype} in memory`);
  const length = byteLength(dtype, count(dims)) / Ctor.BYTES_PER_ELEMENT;
  // An empty view may not lie at the end of a mapping.
  return length === 0 ? new Ctor(0) : new Ctor(bytes.buffer as ArrayBuffer, bytes.byteOffset, length);
}

/** Element count of a constant shape. */
export function count(dims: readonly number[]): number {
  return dims.reduce((a, b) => a * b, 1);
}

/** Private memory that grows, keeping its buffer while what is asked for fits. */
export class GrowingBuffer {
  #bytes = new Uint8Array(0);

  /** At least `length` bytes; the content is not kept when it grows. */
  take(length: number): Uint8Array {
    if (this.#bytes.length < length) {
      // A quarter more than needed: caches grow by one row a step.
      this.#bytes = new Uint8Array(Math.ceil((length * 1.25) / 64) * 64);
    }
    return this.#bytes;
  }
}
