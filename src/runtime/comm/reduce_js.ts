/**
 * Reductions as plain loops over typed arrays: the definition of what every operation means on every dtype, and the way
 * for memory that WebAssembly cannot see.
 *
 * All loops work in blocks that stay in the first-level cache: the accumulator takes the first source, then one source after
 * the other, in the order of ranks, and only then is the destination written; so the destination may be one of the sources,
 * and the bits depend on nothing but the inputs. f16 and bf16 are accumulated in f32 and rounded once.
 */
import type { CommDType, ReduceOpName } from "./buffers.ts";
import { decodeF8, encodeF8, type F8 } from "./float8.ts";
import { isPairOp, requireReducible } from "./operations.ts";

/** Reduces `sources` (bytes of equally many elements, in rank order) into `destination`. */
export type Reducer = (destination: Uint8Array, sources: readonly Uint8Array[]) => void;

const BLOCK = 2048; // elements

type NumberArray = Float32Array | Float64Array | Int8Array | Uint8Array | Int32Array | Uint32Array;
type BigArray = BigInt64Array | BigUint64Array;

/** Operations that combine two elements; the others are done otherwise. */
type ElementOp = Exclude<ReduceOpName, "avg" | "minloc" | "maxloc">;

// deno-fmt-ignore
const NUMBER_OPS: Readonly<Record<ElementOp, (a: number, b: number) => number>> = {
  sum: (a, b) => a + b, prod: (a, b) => a * b, max: (a, b) => Math.max(a, b), min: (a, b) => Math.min(a, b),
  band: (a, b) => a & b, bor: (a, b) => a | b, bxor: (a, b) => a ^ b,
  land: (a, b) => (a !== 0 && b !== 0 ? 1 : 0), lor: (a, b) => (a !== 0 || b !== 0 ? 1 : 0),
  lxor: (a, b) => ((a !== 0) !== (b !== 0) ? 1 : 0),
};

// deno-fmt-ignore
const BIG_OPS: Readonly<Record<ElementOp, (a: bigint, b: bigint) => bigint>> = {
  sum: (a, b) => a + b, prod: (a, b) => a * b, max: (a, b) => (a > b ? a : b), min: (a, b) => (a < b ? a : b),
  band: (a, b) => a & b, bor: (a, b) => a | b, bxor: (a, b) => a ^ b,
  land: (a, b) => (a !== 0n && b !== 0n ? 1n : 0n), lor: (a, b) => (a !== 0n || b !== 0n ? 1n : 0n),
  lxor: (a, b) => ((a !== 0n) !== (b !== 0n) ? 1n : 0n),
};

const BOOL_OPS: Readonly<Record<ReduceOpName, ElementOp | undefined>> = {
  ...{ sum: "lor", max: "lor", bor: "lor", lor: "lor", prod: "land", min: "land", band: "land", land: "land" },
  ...{ bxor: "lxor", lxor: "lxor", avg: undefined, minloc: undefined, maxloc: undefined },
};

/** The loop for `op` on `dtype`. */
export function makeJsReducer(dtype: CommDType, op: ReduceOpName): Reducer {
  requireReducible(dtype, op);
  if (isPairOp(op)) return pairsOf(dtype, op === "maxloc");
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
    case "bf16":
    case "f8e4m3fn":
    case "f8e5m2":
      return small(op, SMALL[dtype]);
  }
}

type ViewConstructor<A> = {
  new (length: number): A;
  new (buffer: ArrayBufferLike, offset: number, length: number): A;
  BYTES_PER_ELEMENT: number;
};

function numbers<A extends NumberArray>(array: ViewConstructor<A>, op: ReduceOpName): Reducer {
  // A product of 32-bit integers does not fit a double, and wraps around only if it is multiplied as integers.
  const integer32 = (array as unknown) === Int32Array || (array as unknown) === Uint32Array;
  const combine = op === "prod" && integer32 ? Math.imul : NUMBER_OPS[op === "avg" ? "sum" : op as ElementOp];
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

function bigs<A extends BigArray>(array: ViewConstructor<A>, op: ReduceOpName): Reducer {
  const combine = BIG_OPS[op as ElementOp];
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

function bools(op: ReduceOpName): Reducer {
  return numbers(Uint8Array, BOOL_OPS[op]!);
}

/** Floats of 16 and 8 bits, as their bits; `load` and `store` take equally many. */
interface SmallFloat {
  readonly array: ViewConstructor<SmallBits>;
  readonly load: (bits: SmallBits, out: Float32Array) => void;
  readonly store: (from: Float32Array, out: SmallBits) => void;
}
type SmallBits = Uint16Array | Uint8Array;

const SMALL: Readonly<Record<"f16" | "bf16" | F8, SmallFloat>> = {
  f16: { array: Uint16Array, load: loadF16, store: storeF16 },
  bf16: { array: Uint16Array, load: loadBf16, store: storeBf16 },
  f8e4m3fn: float8("f8e4m3fn"),
  f8e5m2: float8("f8e5m2"),
};

function float8(dtype: F8): SmallFloat {
  return {
    array: Uint8Array,
    load: (bits, out) => decodeF8(dtype, bits as Uint8Array, out),
    store: (from, out) => encodeF8(dtype, from, out as Uint8Array),
  };
}

function small(op: ReduceOpName, { array, load, store }: SmallFloat): Reducer {
  const combine = NUMBER_OPS[op === "avg" ? "sum" : op as ElementOp];
  const accumulator = new Float32Array(BLOCK), operand = new Float32Array(BLOCK);
  return (destination, sources) => {
    const [out, ins] = views(array, destination, sources);
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
 * Pairs (value, index): the better value of two, of equal ones the smaller index; a NaN is better than all others, so that it
 * is seen, and 0 and -0 are equal. The pair is taken whole.
 */
function pairsOf(dtype: CommDType, largest: boolean): Reducer {
  switch (dtype) {
    case "f16":
    case "bf16":
    case "f8e4m3fn":
    case "f8e5m2": {
      const { array, load } = SMALL[dtype], better = betterPair(largest);
      const value = new Float32Array(2), other = new Float32Array(2);
      // Bits of the winner are copied, so nothing is rounded.
      return pairs(array, (acc, at, source, from) => {
        load(acc.subarray(at, at + 2), value);
        load(source.subarray(from, from + 2), other);
        return better(value[0]!, value[1]!, other[0]!, other[1]!);
      });
    }
    case "i64":
    case "u64": {
      const array: ViewConstructor<BigArray> = dtype === "i64" ? BigInt64Array : BigUint64Array;
      return pairs(array, (acc, at, source, from) => {
        const a = acc[at]!, b = source[from]!;
        return largest
          ? b > a || (b === a && source[from + 1]! < acc[at + 1]!)
          : b < a || (b === a && source[from + 1]! < acc[at + 1]!);
      });
    }
    default: {
      const arrays = {
        f32: Float32Array,
        f64: Float64Array,
        i8: Int8Array,
        u8: Uint8Array,
        i32: Int32Array,
        u32: Uint32Array,
      };
      const better = betterPair(largest);
      const array: ViewConstructor<NumberArray> = arrays[dtype as keyof typeof arrays];
      return pairs(array, (acc, at, source, from) => better(acc[at]!, acc[at + 1]!, source[from]!, source[from + 1]!));
    }
  }
}

/** Whether pair (b, j) takes the place of (a, i). */
function betterPair(largest: boolean): (a: number, i: number, b: number, j: number) => boolean {
  return (a, i, b, j) => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(b) && (!Number.isNaN(a) || j < i);
    return a === b ? j < i : largest ? b > a : b < a;
  };
}

function pairs<A extends NumberArray | BigArray | SmallBits>(
  array: ViewConstructor<A>,
  better: (acc: A, at: number, source: A, from: number) => boolean,
): Reducer {
  const accumulator = new array(BLOCK);
  return (destination, sources) => {
    const [out, ins] = views(array, destination, sources);
    for (let start = 0; start < out.length; start += BLOCK) {
      const n = Math.min(BLOCK, out.length - start);
      accumulator.set(ins[0]!.subarray(start, start + n) as never);
      for (let s = 1; s < ins.length; s++) {
        const source = ins[s]!;
        for (let i = 0; i < n; i += 2) {
          if (!better(accumulator, i, source, start + i)) continue;
          accumulator[i] = source[start + i]!;
          accumulator[i + 1] = source[start + i + 1]!;
        }
      }
      out.set(accumulator.subarray(0, n) as never, start);
    }
  };
}

/**
 * What remains when all sources are in: the average's factor, 0 or 1 for a logical operation of a single rank, and one and
 * the same NaN, since which one an addition yields is the compiler's whim.
 */
function finish(accumulator: NumberArray, n: number, op: ReduceOpName, sources: number): void {
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

function isLogical(op: ReduceOpName): boolean {
  return op === "land" || op === "lor" || op === "lxor";
}

function loadF16(bits: SmallBits, out: Float32Array): void {
  out.set(new Float16Array(bits.buffer as ArrayBuffer, bits.byteOffset, bits.length));
}

function storeF16(from: Float32Array, out: SmallBits): void {
  new Float16Array(out.buffer as ArrayBuffer, out.byteOffset, out.length).set(from);
}

function loadBf16(bits: SmallBits, out: Float32Array): void {
  const words = new Uint32Array(out.buffer, out.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}

/** Rounds to nearest, ties to even; a NaN stays one. */
function storeBf16(from: Float32Array, out: SmallBits): void {
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
