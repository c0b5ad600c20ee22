/**
 * Reductions as plain loops over typed arrays: the definition of what every operation means on every dtype, and the way
 * for memory that WebAssembly cannot see.
 *
 * All loops work in blocks that stay in the first-level cache: the accumulator takes the first source, then one source after
 * the other, in the order of ranks, and only then is the destination written; so the destination may be one of the sources,
 * and the bits depend on nothing but the inputs. f16 and bf16 are accumulated in f32 and rounded once.
 */
import { InputError } from "../../core/errors.ts";
import type { CommDType, ReduceOp } from "./buffers.ts";

/** Reduces `sources` (bytes of equally many elements, in rank order) into `destination`. */
export type Reducer = (destination: Uint8Array, sources: readonly Uint8Array[]) => void;

const BLOCK = 2048; // elements

type NumberArray = Float32Array | Float64Array | Int8Array | Uint8Array | Int32Array | Uint32Array;
type BigArray = BigInt64Array | BigUint64Array;

const FLOATS: readonly CommDType[] = ["f32", "f64", "f16", "bf16"];

// deno-fmt-ignore
const NUMBER_OPS: Readonly<Record<Exclude<ReduceOp, "avg">, (a: number, b: number) => number>> = {
  sum: (a, b) => a + b, prod: (a, b) => a * b, max: (a, b) => Math.max(a, b), min: (a, b) => Math.min(a, b),
  band: (a, b) => a & b, bor: (a, b) => a | b, bxor: (a, b) => a ^ b,
  land: (a, b) => (a !== 0 && b !== 0 ? 1 : 0), lor: (a, b) => (a !== 0 || b !== 0 ? 1 : 0),
  lxor: (a, b) => ((a !== 0) !== (b !== 0) ? 1 : 0),
};

// deno-fmt-ignore
const BIG_OPS: Readonly<Record<Exclude<ReduceOp, "avg">, (a: bigint, b: bigint) => bigint>> = {
  sum: (a, b) => a + b, prod: (a, b) => a * b, max: (a, b) => (a > b ? a : b), min: (a, b) => (a < b ? a : b),
  band: (a, b) => a & b, bor: (a, b) => a | b, bxor: (a, b) => a ^ b,
  land: (a, b) => (a !== 0n && b !== 0n ? 1n : 0n), lor: (a, b) => (a !== 0n || b !== 0n ? 1n : 0n),
  lxor: (a, b) => ((a !== 0n) !== (b !== 0n) ? 1n : 0n),
};

const BOOL_OPS: Readonly<Record<ReduceOp, keyof typeof NUMBER_OPS | undefined>> = {
  ...{ sum: "lor", max: "lor", bor: "lor", lor: "lor", prod: "land", min: "land", band: "land", land: "land" },
  ...{ bxor: "lxor", lxor: "lxor", avg: undefined },
};

/** Whether `op` is defined on `dtype`. */
export function canReduce(dtype: CommDType, op: ReduceOp): boolean {
  if (op === "avg") return FLOATS.includes(dtype);
  if (op === "band" || op === "bor" || op === "bxor") return !FLOATS.includes(dtype);
  return true;
}

/** @throws {InputError} Unless `op` is defined on `dtype`. */
export function requireReducible(dtype: CommDType, op: ReduceOp): void {
  if (canReduce(dtype, op)) return;
  if (op === "avg") {
    throw new InputError(`Cannot reduce ${dtype} by avg: it is for floats`, { hint: "use sum and divide" });
  }
  throw new InputError(`Cannot reduce ${dtype} by ${op}: it is for integers and bool`);
}

/** The loop for `op` on `dtype`. */
export function makeJsReducer(dtype: CommDType, op: ReduceOp): Reducer {
  requireReducible(dtype, op);
  switch (dtype) {
    case "f32":
      return numbers(Float32Array, op);
    case "f64":
      return numbers(Float64Array, op);
    case "i8":
      return numbers(Int8Array, op);
    case "u8":
      return numbers(Uint8Array, op);
    case "i32":
      return numbers(Int32Array, op);
    case "u32":
      return numbers(Uint32Array, op);
    case "i64":
      return bigs(BigInt64Array, op);
    case "u64":
      return bigs(BigUint64Array, op);
    case "bool":
      return bools(op);
    case "f16":
      return halves(op, loadF16, storeF16);
    case "bf16":
      return halves(op, loadBf16, storeBf16);
  }
}

type ViewConstructor<A> = {
  new (length: number): A;
  new (buffer: ArrayBufferLike, offset: number, length: number): A;
  BYTES_PER_ELEMENT: number;
};

function numbers<A extends NumberArray>(array: ViewConstructor<A>, op: ReduceOp): Reducer {
  // A product of 32-bit integers does not fit a double, and wraps around only if it is multiplied as integers.
  const integer32 = (array as unknown) === Int32Array || (array as unknown) === Uint32Array;
  const combine = op === "prod" && integer32 ? Math.imul : NUMBER_OPS[op === "avg" ? "sum" : op];
  const accumulator = new array(BLOCK);
  return (destination, sources) => {
    const [out, ins] = views(array, destination, sources);
    for (let start = 0; start < out.length; start += BLOCK) {
      const n = Math.min(BLOCK, out.length - start);
      accumulator.set((ins[0] as Float32Array).subarray(start, start + n));
      for (let s = 1; s < ins.length; s++) {
        const source = ins[s]!;
        for (let i = 0; i < n; i++) accumulator[i] = combine(accumulator[i]!, source[start + i]!);
      }
      finish(accumulator, n, op, sources.length);
      out.set(accumulator.subarray(0, n), start);
    }
  };
}

function bigs<A extends BigArray>(array: ViewConstructor<A>, op: ReduceOp): Reducer {
  const combine = BIG_OPS[op as Exclude<ReduceOp, "avg">];
  const accumulator = new array(BLOCK);
  return (destination, sources) => {
    const [out, ins] = views(array, destination, sources);
    for (let start = 0; start < out.length; start += BLOCK) {
      const n = Math.min(BLOCK, out.length - start);
      accumulator.set(ins[0]!.subarray(start, start + n));
      for (let s = 1; s < ins.length; s++) {
        const source = ins[s]!;
        for (let i = 0; i < n; i++) accumulator[i] = combine(accumulator[i]!, source[start + i]!); // stores wrap around
      }
      if (ins.length === 1 && isLogical(op)) {
        for (let i = 0; i < n; i++) {
          accumulator[i] = accumulator[i] === 0n ? 0n : 1n;
        }
      }
      out.set(accumulator.subarray(0, n), start);
    }
  };
}

function bools(op: ReduceOp): Reducer {
  return numbers(Uint8Array, BOOL_OPS[op]!);
}

function halves(
  op: ReduceOp,
  load: (bits: Uint16Array, out: Float32Array) => void,
  store: (from: Float32Array, out: Uint16Array) => void,
): Reducer {
  const combine = NUMBER_OPS[op === "avg" ? "sum" : op];
  const accumulator = new Float32Array(BLOCK), operand = new Float32Array(BLOCK);
  return (destination, sources) => {
    const [out, ins] = views(Uint16Array, destination, sources);
    for (let start = 0; start < out.length; start += BLOCK) {
      const n = Math.min(BLOCK, out.length - start);
      load(ins[0]!.subarray(start, start + n), accumulator);
      for (let s = 1; s < ins.length; s++) {
        load(ins[s]!.subarray(start, start + n), operand);
        for (let i = 0; i < n; i++) accumulator[i] = combine(accumulator[i]!, operand[i]!);
      }
      finish(accumulator, n, op, sources.length);
      store(accumulator.subarray(0, n), out.subarray(start, start + n));
    }
  };
}

/**
 * What remains when all sources are in: the average's factor, 0 or 1 for a logical operation of a single rank, and one and
 * the same NaN, since which one an addition yields is the compiler's whim.
 */
function finish(accumulator: NumberArray, n: number, op: ReduceOp, sources: number): void {
  if (op === "avg") {
    const factor = accumulator instanceof Float64Array ? 1 / sources : Math.fround(1 / sources);
    for (let i = 0; i < n; i++) accumulator[i] = accumulator[i]! * factor;
  } else if (sources === 1 && isLogical(op)) {
    for (let i = 0; i < n; i++) accumulator[i] = accumulator[i] === 0 ? 0 : 1;
  }
  if (accumulator instanceof Float32Array) {
    const words = new Uint32Array(accumulator.buffer, 0, n);
    for (let i = 0; i < n; i++) if ((words[i]! & 0x7fffffff) > 0x7f800000) words[i] = 0x7fc00000;
  } else if (accumulator instanceof Float64Array) {
    const words = new Uint32Array(accumulator.buffer, 0, 2 * n);
    for (let i = 0; i < n; i++) {
      if (!Number.isNaN(accumulator[i])) continue;
      words[2 * i] = 0;
      words[2 * i + 1] = 0x7ff80000;
    }
  }
}

function isLogical(op: ReduceOp): boolean {
  return op === "land" || op === "lor" || op === "lxor";
}

function loadF16(bits: Uint16Array, out: Float32Array): void {
  out.set(new Float16Array(bits.buffer as ArrayBuffer, bits.byteOffset, bits.length));
}

function storeF16(from: Float32Array, out: Uint16Array): void {
  new Float16Array(out.buffer as ArrayBuffer, out.byteOffset, out.length).set(from);
}

function loadBf16(bits: Uint16Array, out: Float32Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}

/** Rounds to nearest, ties to even; a NaN stays one. */
function storeBf16(from: Float32Array, out: Uint16Array): void {
  const words = new Uint32Array(from.buffer, from.byteOffset, out.length);
  for (let i = 0; i < out.length; i++) {
    const word = words[i]!;
    if ((word & 0x7fffffff) > 0x7f800000) out[i] = (word >>> 16) | 0x40;
    else out[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
}

function views<A>(array: ViewConstructor<A>, destination: Uint8Array, sources: readonly Uint8Array[]): [A, A[]] {
  const size = array.BYTES_PER_ELEMENT;
  const view = (bytes: Uint8Array) => new array(bytes.buffer, bytes.byteOffset, bytes.byteLength / size);
  return [view(destination), sources.map(view)];
}
