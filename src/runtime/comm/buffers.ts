/** What collectives take: typed arrays, or bytes with a dtype of their own, or symmetric memory. */
import { byteLength, type DType, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import { didYouMean, nearest } from "../../core/suggest.ts";
import type { SymmetricArena, SymmetricBuffer } from "./arena.ts";

/** The element types that collectives know. */
export type CommDType =
  | "f32"
  | "f64"
  | "f16"
  | "bf16"
  | "i8"
  | "u8"
  | "i32"
  | "u32"
  | "i64"
  | "u64"
  | "bool"
  | "f8e4m3fn"
  | "f8e5m2";
/** All of them; new ones at the end, since messages carry the position. */
export const COMM_DTYPES: readonly CommDType[] = [
  ...["f32", "f64", "f16", "bf16", "i8", "u8", "i32", "u32", "i64", "u64", "bool", "f8e4m3fn", "f8e5m2"] as const,
];

/**
 * How elements of ranks become one. Integers wrap around; `max` and `min` of floats give NaN if any is NaN, and order -0
 * before 0; `avg` is the sum times 1/size and for floats only; the bitwise ones are for integers and bool; the logical
 * ones give 0 or 1 in the dtype. For bool, `sum` and `max` mean or, `prod` and `min` mean and. Floats of 16 and 8 bits are
 * reduced in f32 and rounded once.
 *
 * `minloc` and `maxloc` take pairs (value, index) of one dtype, one after the other, as Fortran's MPI_2REAL does, and give the
 * pair with the smallest or largest value, of equal ones the one with the smaller index; a NaN is less and more than all.
 */
export type ReduceOpName =
  | "sum"
  | "prod"
  | "max"
  | "min"
  | "avg"
  | "band"
  | "bor"
  | "bxor"
  | "land"
  | "lor"
  | "lxor"
  | "minloc"
  | "maxloc";
/** All of them. */
export const REDUCE_OPS: readonly ReduceOpName[] = [
  ...["sum", "prod", "max", "min", "avg", "band", "bor", "bxor", "land", "lor", "lxor", "minloc", "maxloc"] as const,
];

/** The sum of what each rank has, times a factor of its own; the products are rounded to the dtype. For floats. */
export interface PreMulSum {
  /** This rank's factor. */
  readonly preMulSum: number;
}

/** How elements of ranks become one. */
export type ReduceOp = ReduceOpName | PreMulSum;

/** Elements whose dtype their array does not tell (f16, bf16, bool), or that lie in symmetric memory. */
export interface TypedBuffer {
  /** Elements in row-major order. */
  readonly data: ArrayBufferView;
  /** How the elements are read. */
  readonly dtype: CommDType;
  /** The symmetric buffer that `data` views from its first byte on; then it is reduced where it lies. */
  readonly symmetric?: SymmetricBuffer;
}

/** What collectives take. A Uint8Array is u8, a Float16Array f16; say `{ data, dtype }` for bf16, f8, bool, or f16 bits. */
export type Buf = TypedArray | Float16Array | TypedBuffer;

/** A buffer, taken apart. */
export interface View {
  /** The elements' bytes, in place. */
  readonly bytes: Uint8Array;
  readonly dtype: CommDType;
  readonly itemBytes: number;
  readonly count: number;
  readonly symmetric: SymmetricBuffer | undefined;
}

const BY_ARRAY: ReadonlyMap<unknown, CommDType> = new Map<unknown, CommDType>([
  ...[[Float32Array, "f32"], [Float64Array, "f64"], [Float16Array, "f16"], [Int8Array, "i8"], [
    Uint8Array,
    "u8",
  ]] as const,
  ...[[Int32Array, "i32"], [Uint32Array, "u32"], [BigInt64Array, "i64"], [BigUint64Array, "u64"]] as const,
]);

/** Takes `buffer` apart. @throws {InputError} If its type is none that collectives know, or it holds no whole elements. */
export function viewOf(buffer: Buf, what: string): View {
  let data: ArrayBufferView, dtype: CommDType | undefined, symmetric: SymmetricBuffer | undefined;
  if (ArrayBuffer.isView(buffer)) {
    data = buffer;
    dtype = BY_ARRAY.get(data.constructor) ?? (data instanceof Uint8Array ? "u8" : undefined);
  } else {
    ({ data, dtype, symmetric } = requireBuffer(buffer, what));
    if (!COMM_DTYPES.includes(dtype)) dtype = undefined;
  }
  if (dtype === undefined) {
    const found = ArrayBuffer.isView(buffer) ? Object.prototype.toString.call(buffer).slice(8, -1) : buffer.dtype;
    const near = nearest(`${found}`, COMM_DTYPES);
    throw new InputError(
      `Cannot use a buffer of ${found} as ${what}${near === undefined ? "" : `: did you mean "${near}"?`}`,
      {
        hint: `pass { data, dtype } with one of ${COMM_DTYPES.join(", ")}`,
      },
    );
  }
  if ((data.buffer as ArrayBuffer).detached === true) {
    throw new InputError(`Cannot use ${what}: its memory was transferred away`);
  }
  const itemBytes = byteLength(dtype, 1);
  if (data.byteLength % itemBytes !== 0 || data.byteOffset % itemBytes !== 0) {
    throw new InputError(
      `Cannot use ${data.byteLength} bytes at offset ${data.byteOffset} as ${what}: ${dtype} takes ${itemBytes} each, aligned`,
    );
  }
  if (
    symmetric !== undefined &&
    (data.buffer !== symmetric.local.buffer || data.byteOffset !== symmetric.local.byteOffset)
  ) {
    throw new InputError(`Cannot use ${what}: its data does not view the start of its symmetric buffer`);
  }
  const bytes = data instanceof Uint8Array ? data : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return { bytes, dtype, itemBytes, count: data.byteLength / itemBytes, symmetric };
}

/** @throws {InputError} Unless it is an object of memory and dtype; programs without types may pass anything. */
function requireBuffer(buffer: TypedBuffer, what: string): TypedBuffer {
  const found: unknown = buffer;
  if (typeof found === "object" && found !== null && "data" in found && ArrayBuffer.isView(found.data)) return buffer;
  const text = Array.isArray(found) ? "an array of values" : Deno.inspect(found, { depth: 0 }).slice(0, 60);
  throw new InputError(`Cannot use ${text} as ${what}: expected a typed array, or { data: typed array, dtype }`);
}

/** Elements of `buffer` in symmetric memory, as collectives take them. */
export function symmetricView(buffer: SymmetricBuffer, dtype: CommDType, count?: number): TypedBuffer {
  const bytes = count === undefined ? buffer.byteLength : byteLength(dtype as DType, count);
  if (bytes > buffer.byteLength) {
    throw new RangeError(`Cannot view ${count} ${dtype} in a symmetric buffer of ${buffer.byteLength} bytes`);
  }
  return { data: buffer.local.subarray(0, bytes), dtype, symmetric: buffer };
}

/** A tensor of which every rank has its own, in memory that all ranks can read. */
export interface SymmetricTensor extends TypedBuffer {
  /** Sizes, outermost first. */
  readonly shape: readonly number[];
  /** This rank's elements, row-major. */
  readonly data: TypedArray;
  /** The memory, with the peers' parts. */
  readonly symmetric: SymmetricBuffer;
  /** The elements of `rank`; for reading, between barriers. */
  peer(rank: number): TypedArray;
}

/** Takes a tensor of `shape` from `arena`. @throws {InputError} If a dim is no whole number. @throws {CommunicatorError} As `arena.alloc`. */
export function allocateTensor(arena: SymmetricArena, shape: readonly number[], dtype: CommDType): SymmetricTensor {
  if (!COMM_DTYPES.includes(dtype)) {
    throw new InputError(`Cannot allocate a tensor of ${dtype}${didYouMean(`${dtype}`, COMM_DTYPES)}`);
  }
  if (!shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0)) {
    throw new InputError(`Cannot allocate a tensor of shape [${shape.join(", ")}]: expected whole numbers from 0 on`);
  }
  const count = shape.reduce((a, b) => a * b, 1), bytes = byteLength(dtype as DType, count);
  const symmetric = arena.alloc(bytes), array = dtypeInfo(dtype as DType).array!;
  const view = (part: Uint8Array<ArrayBuffer>) => new array(part.buffer, part.byteOffset, count);
  return {
    shape: [...shape],
    dtype,
    symmetric,
    data: view(symmetric.local),
    peer: (rank) => view(symmetric.peer(rank)),
  };
}

/** @throws {InputError} Unless both have the same dtype. */
export function requireSameDType(send: View, recv: View): void {
  if (send.dtype !== recv.dtype) throw new InputError(`Cannot receive ${send.dtype} into a buffer of ${recv.dtype}`);
}

/** @throws {InputError} Unless `view` has `count` elements. */
export function requireCount(view: View, count: number, what: string): void {
  if (view.count !== count) throw new InputError(`Cannot use ${view.count} elements as ${what}: expected ${count}`);
}
