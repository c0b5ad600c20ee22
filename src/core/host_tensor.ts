/**
 * A tensor in this process's memory, as files hold it and as a model's inputs and outputs are given.
 *
 * Elements are in row-major order. 16-bit floats, 8-bit floats and bools are held as their bits; types below 8 bits are packed, the first
 * element in the lowest bits (as in ONNX).
 */
import { byteLength, type DType, dtypeInfo, type TypedArray } from "./dtype.ts";
import { FormatError, ShapeError } from "./errors.ts";
import { bf16ArrayToF32, f16ArrayToF32, f32ToBf16, f32ToF16 } from "./half.ts";

/** A tensor whose data lies in `data`; see the table of {@linkcode dtypeInfo} for the array of each dtype. */
export interface HostTensor {
  /** Of the elements. */
  readonly dtype: DType;
  /** Sizes, outermost first; empty for a scalar. */
  readonly shape: readonly number[];
  /** All elements. */
  readonly data: TypedArray;
}

/** The number of elements of `shape`; 1 for a scalar. */
export function numel(shape: readonly number[]): number {
  return shape.reduce((n, d) => n * d, 1);
}

/**
 * A tensor over `data`, which must fit dtype and shape.
 *
 * @throws {ShapeError} If `data` is not the array type of `dtype`, or has another length than `shape` needs.
 */
export function hostTensor(dtype: DType, shape: readonly number[], data: TypedArray): HostTensor {
  const array = arrayOf(dtype);
  const length = byteLength(dtype, numel(shape)) / array.BYTES_PER_ELEMENT;
  if (!(data instanceof array) || data.length !== length) {
    throw new ShapeError(
      `Cannot make a ${dtype}[${shape}] from a ${data.constructor.name} of ${data.length}: it needs a ${array.name} of ${length}`,
    );
  }
  return { dtype, shape, data };
}

/**
 * A tensor over little-endian bytes: a view of them where they are aligned, else a copy.
 *
 * @throws {ShapeError} If `bytes` has another length than dtype and shape need.
 */
export function hostTensorFromBytes(dtype: DType, shape: readonly number[], bytes: Uint8Array): HostTensor {
  const array = arrayOf(dtype);
  const needed = byteLength(dtype, numel(shape));
  if (bytes.byteLength !== needed) {
    throw new ShapeError(`Cannot make a ${dtype}[${shape}] from ${bytes.byteLength} bytes: it needs ${needed}`);
  }
  const aligned = bytes.byteOffset % array.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
  return {
    dtype,
    shape,
    data: new array(aligned.buffer as ArrayBuffer, aligned.byteOffset, needed / array.BYTES_PER_ELEMENT),
  };
}

/** The bytes of a tensor, little-endian; a view, not a copy. */
export function hostTensorBytes({ data }: HostTensor): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * A tensor of `values`, converted to `dtype` (floats rounded to nearest even, integers wrapped as typed arrays do, bools by truth).
 *
 * @throws {ShapeError} If there are more or fewer values than `shape` needs.
 * @throws {FormatError} If `dtype` is a string, complex, or a float below 16 bits, for which no conversion is known.
 */
export function fromNumbers(dtype: DType, shape: readonly number[], values: Iterable<number | bigint>): HostTensor {
  const array = arrayOf(dtype);
  const source = Array.isArray(values) ? values as (number | bigint)[] : [...values];
  if (source.length !== numel(shape)) {
    throw new ShapeError(`Cannot make a ${dtype}[${shape}] from ${source.length} values: it needs ${numel(shape)}`);
  }
  const { bits, float } = dtypeInfo(dtype);
  if (float && bits < 16) throw noConversion(dtype);
  const data = new array(byteLength(dtype, source.length) / array.BYTES_PER_ELEMENT);
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) {
    source.forEach((v, i) => data[i] = BigInt(v));
  } else if (bits < 8) {
    const perByte = 8 / bits, mask = (1 << bits) - 1;
    source.forEach((v, i) => data[Math.floor(i / perByte)]! |= (Number(v) & mask) << ((i % perByte) * bits));
  } else {
    const convert = dtype === "f16" ? f32ToF16 : dtype === "bf16" ? f32ToBf16 : dtype === "bool" ? truth : undefined;
    source.forEach((v, i) => data[i] = convert ? convert(Number(v)) : Number(v));
  }
  return { dtype, shape, data };
}

/**
 * The elements as numbers, exact for all dtypes up to 32 bits and for doubles; 64-bit integers beyond 2^53 lose their last bits.
 *
 * @throws {FormatError} If `dtype` is a float below 16 bits, for which no conversion is known.
 */
export function toNumbers({ dtype, shape, data }: HostTensor): ArrayLike<number> {
  const { bits, float } = dtypeInfo(dtype);
  if (dtype === "f16") return f16ArrayToF32(data as Uint16Array);
  if (dtype === "bf16") return bf16ArrayToF32(data as Uint16Array);
  if (float && bits < 16) throw noConversion(dtype);
  if (data instanceof BigInt64Array || data instanceof BigUint64Array) return Float64Array.from(data, Number);
  if (bits >= 8) return data;
  const perByte = 8 / bits, sign = dtype.startsWith("i") ? 32 - bits : 0, mask = (1 << bits) - 1;
  return Float64Array.from({ length: numel(shape) }, (_, i) => {
    const value = (data[Math.floor(i / perByte)]! as number >>> ((i % perByte) * bits)) & mask;
    return sign ? (value << sign) >> sign : value;
  });
}

function arrayOf(dtype: DType) {
  const { array } = dtypeInfo(dtype);
  if (!array) throw new FormatError(`Cannot hold a tensor of ${dtype} in memory: no typed array has such elements`);
  return array;
}

function truth(value: number): number {
  return value ? 1 : 0;
}

function noConversion(dtype: DType): FormatError {
  return new FormatError(`Cannot convert between ${dtype} and numbers: floats below 16 bits are only carried as bits`);
}
