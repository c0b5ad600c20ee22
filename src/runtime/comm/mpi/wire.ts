/**
 * Reductions as MPI can do them. MPI's operations know C's numbers only, do not say what becomes of NaN and -0, and have no
 * 16-bit floats; so what MPI does not define travels in another form, in which its exact integer operations mean the same:
 *
 *     integers                direct
 *     i8, u8: sum, …, max     as i32, since Open MPI 4.1 adds bytes with saturation where the processor has AVX
 *     u32, u64: max, min      as signed ones with the upper bit flipped, since MPICH 4.0 compares them as if they were signed
 *     f32, f64: sum, prod     direct; afterwards all NaNs are made one
 *     floats: max, min        as integers in the order of IEEE 754's totalOrder, NaN beyond all
 *     f16, bf16, f8: sum, …   as f32, rounded once
 *     avg                     as sum, times 1/ranks
 *     logical, bool           as bytes 0 and 1
 *
 * Pairs (`minloc`, `maxloc`) have no such form: they are gathered, and reduced by each rank.
 */
import { bf16ArrayToF32, f32ArrayToBf16 } from "../../../core/half.ts";
import type { CommDType, ReduceOpName } from "../buffers.ts";
import { decodeF8, encodeF8 } from "../float8.ts";
import { requireReducible } from "../operations.ts";

/** Types and operations of MPI that carry reductions. */
export type WireType = "i8" | "u8" | "i16" | "i32" | "u32" | "i64" | "u64" | "f32" | "f64";
/** MPI's operations. */
export type WireOp = "sum" | "prod" | "max" | "min" | "band" | "bor" | "bxor";

/** How a reduction travels. */
export interface Wire {
  readonly type: WireType;
  readonly op: WireOp;
  readonly itemBytes: number;
  /** The elements' wire form, in fresh memory; undefined where it is the elements themselves. */
  readonly encode: ((elements: Uint8Array) => Uint8Array<ArrayBuffer>) | undefined;
  /** Writes what `contributors` ranks' elements became; without `encode`, `wire` and `out` are the same memory. */
  readonly decode: ((wire: Uint8Array, out: Uint8Array, contributors: number) => void) | undefined;
}

type Small = "f16" | "bf16" | "f8e4m3fn" | "f8e5m2";
type Float = "f32" | "f64" | Small;
/** Floats that have an integer type of their size to be ordered in. */
type Ordered = "f32" | "f64" | "f16" | "bf16";
/** Operations on single elements. */
export type ElementOp = Exclude<ReduceOpName, "minloc" | "maxloc">;

const FLOATS: readonly CommDType[] = ["f32", "f64", "f16", "bf16", "f8e4m3fn", "f8e5m2"];
const ITEM_BYTES: Readonly<Record<WireType, number>> = {
  i8: 1,
  u8: 1,
  i16: 2,
  i32: 4,
  u32: 4,
  i64: 8,
  u64: 8,
  f32: 4,
  f64: 8,
};

/** How bits of bool and of logical operations combine. */
const LOGICAL: Readonly<Record<ElementOp, WireOp | undefined>> = {
  ...{ sum: "bor", max: "bor", bor: "bor", lor: "bor", prod: "band", min: "band", band: "band", land: "band" },
  ...{ bxor: "bxor", lxor: "bxor", avg: undefined },
} as const;

/** How `op` on `dtype` travels. @throws {InputError} If it is not defined. */
export function wireOf(dtype: CommDType, op: ElementOp): Wire {
  requireReducible(dtype, op);
  if (dtype === "bool" || op === "land" || op === "lor" || op === "lxor") {
    return wire("u8", LOGICAL[op]!, (elements) => truths(dtype, elements), (bits, out) => fromTruths(dtype, bits, out));
  }
  if ((dtype === "i8" || dtype === "u8") && !(op === "band" || op === "bor" || op === "bxor")) {
    const widen = (elements: Uint8Array) => Int32Array.from(dtype === "i8" ? view(Int8Array, elements) : elements);
    return wire("i32", op as WireOp, (elements) => new Uint8Array(widen(elements).buffer), (words, out) => {
      out.set(view(Int32Array, words)); // stores wrap around
    });
  }
  if ((dtype === "u32" || dtype === "u64") && (op === "max" || op === "min")) {
    return wire(dtype === "u32" ? "i32" : "i64", op, (elements) => flipped(dtype, elements), (keys, out) => {
      out.set(flipped(dtype, keys));
    });
  }
  if (!FLOATS.includes(dtype)) return wire(dtype as WireType, op as WireOp);
  const float = dtype as Float;
  if (op === "max" || op === "min") {
    if (float === "f8e4m3fn" || float === "f8e5m2") {
      return wire("i32", op, (elements) => toOrdered("f32", widened(float, elements), op), (keys, out) => {
        fromOrdered("f32", keys, keys);
        narrow(float, keys, out);
      });
    }
    const type = ({ f32: "i32", f64: "i64", f16: "i16", bf16: "i16" } as const)[float];
    return wire(type, op, (elements) => toOrdered(float, elements, op), (keys, out) => fromOrdered(float, keys, out));
  }
  const inner = op === "avg" ? "sum" : op as WireOp, average = op === "avg";
  if (float === "f32" || float === "f64") {
    return wire(float, inner, undefined, (sums, _, contributors) => finish(float, sums, average ? contributors : 1));
  }
  return wire("f32", inner, (elements) => widened(float, elements), (sums, out, contributors) => {
    finish("f32", sums, average ? contributors : 1);
    narrow(float, sums, out);
  });
}

function wire(type: WireType, op: WireOp, encode?: Wire["encode"], decode?: Wire["decode"]): Wire {
  return { type, op, itemBytes: ITEM_BYTES[type], encode, decode };
}

/** Divides by `contributors`, and makes all NaNs the same one, since which one an addition yields is the library's whim. */
function finish(dtype: "f32" | "f64", bytes: Uint8Array, contributors: number): void {
  if (dtype === "f32") {
    if (contributors > 1) {
      const values = view(Float32Array, bytes), factor = Math.fround(1 / contributors);
      for (let i = 0; i < values.length; i++) values[i] = values[i]! * factor;
    }
    const words = view(Uint32Array, bytes);
    for (let i = 0; i < words.length; i++) if ((words[i]! & 0x7fffffff) > 0x7f800000) words[i] = 0x7fc00000;
    return;
  }
  const values = view(Float64Array, bytes), factor = 1 / contributors;
  for (let i = 0; i < values.length; i++) {
    const value = contributors > 1 ? values[i]! * factor : values[i]!;
    values[i] = Number.isNaN(value) ? NaN : value;
  }
}

/** A copy with the upper bit of every element flipped. */
function flipped(dtype: "u32" | "u64", elements: Uint8Array): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(elements), words = view(Uint32Array, out), step = dtype === "u32" ? 1 : 2;
  for (let i = step - 1; i < words.length; i += step) words[i] = words[i]! ^ 0x80000000;
  return out;
}

/**
 * Floats as integers in their order: a negative one has all bits but the sign flipped. NaN becomes the largest or the smallest
 * integer, which no other float becomes, so that it wins.
 */
function toOrdered(dtype: Ordered, elements: Uint8Array, op: "max" | "min"): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(elements.length);
  const nan = op === "max" ? 0x7fffffff : -0x80000000;
  if (dtype === "f64") {
    const from = view(Int32Array, elements), to = view(Int32Array, out);
    for (let i = 0; i < from.length; i += 2) {
      const low = from[i]!, high = from[i + 1]!, top = high & 0x7fffffff, sign = high >> 31;
      const isNan = top > 0x7ff00000 || (top === 0x7ff00000 && low !== 0);
      to[i] = isNan ? ~(nan >> 31) : low ^ sign;
      to[i + 1] = isNan ? nan : high ^ (sign & 0x7fffffff);
    }
  } else if (dtype === "f32") {
    const from = view(Int32Array, elements), to = view(Int32Array, out);
    for (let i = 0; i < from.length; i++) {
      const word = from[i]!;
      to[i] = (word & 0x7fffffff) > 0x7f800000 ? nan : word ^ ((word >> 31) & 0x7fffffff);
    }
  } else {
    const from = view(Int16Array, elements), to = view(Int16Array, out), infinity = INFINITY_16[dtype];
    for (let i = 0; i < from.length; i++) {
      const word = from[i]!;
      to[i] = (word & 0x7fff) > infinity ? nan >> 16 : word ^ ((word >> 15) & 0x7fff);
    }
  }
  return out;
}

function fromOrdered(dtype: Ordered, keys: Uint8Array, elements: Uint8Array): void {
  if (dtype === "f64") {
    const from = view(Int32Array, keys), to = view(Int32Array, elements);
    for (let i = 0; i < from.length; i += 2) {
      const low = from[i]!, high = from[i + 1]!, sign = high >> 31;
      const isNan = (high === 0x7fffffff && low === -1) || (high === -0x80000000 && low === 0);
      to[i] = isNan ? 0 : low ^ sign;
      to[i + 1] = isNan ? 0x7ff80000 : high ^ (sign & 0x7fffffff);
    }
  } else if (dtype === "f32") {
    const from = view(Int32Array, keys), to = view(Int32Array, elements);
    for (let i = 0; i < from.length; i++) {
      const key = from[i]!;
      to[i] = key === 0x7fffffff || key === -0x80000000 ? 0x7fc00000 : key ^ ((key >> 31) & 0x7fffffff);
    }
  } else {
    const from = view(Int16Array, keys), to = view(Int16Array, elements), nan = NAN_16[dtype];
    for (let i = 0; i < from.length; i++) {
      const key = from[i]!;
      to[i] = key === 0x7fff || key === -0x8000 ? nan : key ^ ((key >> 15) & 0x7fff);
    }
  }
}

const INFINITY_16 = { f16: 0x7c00, bf16: 0x7f80 } as const, NAN_16 = { f16: 0x7e00, bf16: 0x7fc0 } as const;

function widened(dtype: Small, elements: Uint8Array): Uint8Array<ArrayBuffer> {
  if (dtype === "f8e4m3fn" || dtype === "f8e5m2") {
    const out = new Float32Array(elements.length);
    decodeF8(dtype, elements, out);
    return new Uint8Array(out.buffer);
  }
  const out = new Float32Array(elements.length / 2);
  if (dtype === "bf16") bf16ArrayToF32(view(Uint16Array, elements), out);
  else out.set(view(Float16Array, elements));
  return new Uint8Array(out.buffer);
}

function narrow(dtype: Small, sums: Uint8Array, elements: Uint8Array): void {
  const values = view(Float32Array, sums);
  if (dtype === "bf16") f32ArrayToBf16(values, view(Uint16Array, elements));
  else if (dtype === "f16") view(Float16Array, elements).set(values);
  else encodeF8(dtype, values, elements);
}

/** 1 where an element is not 0; -0 is 0, NaN is not. */
function truths(dtype: CommDType, elements: Uint8Array): Uint8Array<ArrayBuffer> {
  const itemBytes = TRUTH_BYTES[dtype], out = new Uint8Array(elements.length / itemBytes);
  const unsigned = FLOATS.includes(dtype), mask = unsigned ? 0x7fffffff : -1; // without the sign
  if (itemBytes === 8) {
    const words = view(Int32Array, elements);
    for (let i = 0; i < out.length; i++) out[i] = (words[2 * i]! | (words[2 * i + 1]! & mask)) !== 0 ? 1 : 0;
  } else {
    const words = itemBytes === 4
      ? view(Int32Array, elements)
      : itemBytes === 2
      ? view(Int16Array, elements)
      : elements;
    const short = itemBytes === 2 ? mask & 0x7fff : unsigned && itemBytes === 1 ? 0x7f : mask;
    for (let i = 0; i < out.length; i++) out[i] = (words[i]! & short) !== 0 ? 1 : 0;
  }
  return out;
}

function fromTruths(dtype: CommDType, bits: Uint8Array, elements: Uint8Array): void {
  switch (dtype) {
    case "f16":
    case "bf16": {
      const out = view(Uint16Array, elements), one = dtype === "f16" ? 0x3c00 : 0x3f80;
      for (let i = 0; i < out.length; i++) out[i] = bits[i]! * one;
      return;
    }
    case "f8e4m3fn":
    case "f8e5m2": {
      const one = dtype === "f8e4m3fn" ? 0x38 : 0x3c;
      for (let i = 0; i < bits.length; i++) elements[i] = bits[i]! * one;
      return;
    }
    case "f32":
      return view(Float32Array, elements).set(bits);
    case "f64":
      return view(Float64Array, elements).set(bits);
    case "i32":
    case "u32":
      return view(Uint32Array, elements).set(bits);
    case "i64":
    case "u64": {
      const words = view(Uint32Array, elements).fill(0);
      for (let i = 0; i < bits.length; i++) words[2 * i] = bits[i]!;
      return;
    }
    case "i8":
    case "u8":
    case "bool":
      return elements.set(bits);
  }
}

const TRUTH_BYTES: Readonly<Record<CommDType, number>> = {
  ...{ f32: 4, f64: 8, f16: 2, bf16: 2, i8: 1, u8: 1, i32: 4, u32: 4, i64: 8, u64: 8, bool: 1 },
  ...{ f8e4m3fn: 1, f8e5m2: 1 },
};

function view<A>(
  array: { new (buffer: ArrayBuffer, offset: number, length: number): A; BYTES_PER_ELEMENT: number },
  bytes: Uint8Array,
): A {
  return new array(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / array.BYTES_PER_ELEMENT);
}
