/** What collectives must yield, computed element by element on plain numbers, and inputs that show when they do not. */
import type { CommDType, ReduceOpName } from "../../../src/runtime/comm/buffers.ts";

/** Elements of a tensor; small floats as numbers that their type can hold, i64 and u64 as bigints. */
export type Values = (number | bigint)[];

const FLOATS: readonly CommDType[] = ["f32", "f64", "f16", "bf16", "f8e4m3fn", "f8e5m2"];
const BIGS: readonly CommDType[] = ["i64", "u64"];

const ARRAYS = {
  ...{ f32: Float32Array, f64: Float64Array, f16: Float16Array, bf16: Uint16Array, i8: Int8Array, u8: Uint8Array },
  ...{ i32: Int32Array, u32: Uint32Array, i64: BigInt64Array, u64: BigUint64Array, bool: Uint8Array },
  ...{ f8e4m3fn: Uint8Array, f8e5m2: Uint8Array },
};

/** One element of each type, to round by storing. */
const CELLS = Object.fromEntries(Object.entries(ARRAYS).map(([dtype, array]) => [dtype, new array(1)])) as {
  [D in keyof typeof ARRAYS]: InstanceType<(typeof ARRAYS)[D]>;
};
const WORD = new Uint32Array(CELLS.f32.buffer);

/** Whether `dtype` is a float. */
export function isFloat(dtype: CommDType): boolean {
  return FLOATS.includes(dtype);
}

/** The bytes of `values`. */
export function encode(dtype: CommDType, values: Values): Uint8Array<ArrayBuffer> {
  const out = new ARRAYS[dtype](values.length) as unknown as (number | bigint)[];
  // One and the same NaN: which one an addition yields is the processor's affair.
  const bits = isSmall(dtype)
    ? (v: number | bigint) => smallBits(dtype, Number(v))
    : (v: number | bigint) => Number.isNaN(v) ? NaN : v;
  for (let i = 0; i < values.length; i++) out[i] = bits(values[i]!);
  return new Uint8Array((out as unknown as Uint8Array<ArrayBuffer>).buffer);
}

/** The values of `bytes`, which may lie anywhere. */
export function decode(dtype: CommDType, bytes: Uint8Array): Values {
  const values = [...new ARRAYS[dtype](bytes.slice().buffer) as unknown as Iterable<number | bigint>];
  return isSmall(dtype) ? values.map((v) => smallValue(dtype, Number(v))) : values;
}

/** What rank `rank` contributes: values of every size, and among the first few those where conventions differ. */
export function inputOf(dtype: CommDType, n: number, rank: number): Values {
  const next = random(rank * 7919 + n);
  const special = isFloat(dtype)
    ? [0, -0, Infinity, -Infinity, NaN, 1e-8, 3]
    : [0, 1, 127, 128, 255, 2147483647, 4294967295, -1];
  return Array.from({ length: n }, (_, i) => {
    const u = next();
    // Position decides the kind, so that specials of different ranks meet, in different combinations.
    const v = i % 16 < 4
      ? special[Math.floor(u * special.length)]!
      : isFloat(dtype)
      ? (u - 0.5) * 8
      : Math.floor((u - 0.5) * 2 ** 33);
    if (dtype === "bool") return i % 16 < 4 ? (v !== 0 ? 1 : 0) : u < 0.5 ? 0 : 1;
    return round(dtype, BIGS.includes(dtype) ? BigInt(v) * 3_000_000_019n : v);
  });
}

/** All ranks' `inputs`, reduced in the order of ranks. */
export function reduceReference(dtype: CommDType, op: ReduceOpName, inputs: readonly Values[]): Values {
  if (op === "minloc" || op === "maxloc") return bestPairs(inputs, op === "maxloc");
  return inputs[0]!.map((_, i) => {
    const elements = inputs.map((x) => x[i]!);
    if (op === "land" || op === "lor" || op === "lxor" || dtype === "bool") return logical(dtype, op, elements);
    if (BIGS.includes(dtype)) {
      return (elements as bigint[]).reduce((a, b) => round(dtype, bigCombine(op, a, b)) as bigint);
    }
    // Small floats accumulate in f32 and are rounded once.
    const inner = dtype === "f16" || isSmall(dtype) ? "f32" : dtype;
    let sum = (elements as number[]).reduce((a, b) => round(inner, combine(dtype, op, a, b)) as number);
    if (op === "avg") sum = round(inner, sum * (round(inner, 1 / inputs.length) as number)) as number;
    return round(dtype, sum);
  });
}

/** `values` times `factor`, as a rank multiplies before a sum: in f32 or f64, then rounded to the dtype. */
export function premultiply(dtype: CommDType, values: Values, factor: number): Values {
  const inner = dtype === "f64" ? "f64" : "f32", scale = round(inner, factor) as number;
  return values.map((v) => round(dtype, round(inner, (v as number) * scale)));
}

/** The pair that the definition prefers of all ranks', by asking each whether any other beats it. */
function bestPairs(inputs: readonly Values[], largest: boolean): Values {
  const out: Values = [];
  for (let i = 0; i < inputs[0]!.length; i += 2) {
    const pairs = inputs.map((x) => [x[i]!, x[i + 1]!] as const);
    const nan = pairs.filter(([v]) => Number.isNaN(v));
    const candidates = nan.length > 0 ? nan : pairs;
    const beats = (a: readonly [number | bigint, number | bigint], b: typeof a) =>
      nan.length === 0 && a[0] !== b[0] ? (largest ? a[0] > b[0] : a[0] < b[0]) : a[1] < b[1];
    out.push(...candidates.find((p) => candidates.every((q) => !beats(q, p)))!);
  }
  return out;
}

function logical(dtype: CommDType, op: ReduceOpName, elements: Values): number | bigint {
  const set = elements.filter((e) => e !== 0 && e !== 0n).length; // -0 is 0, and NaN is not
  const kind = op === "land" || (dtype === "bool" && ["prod", "min", "band"].includes(op))
    ? set === elements.length
    : op === "lxor" || op === "bxor"
    ? set % 2 === 1
    : set > 0;
  return BIGS.includes(dtype) ? BigInt(kind) : Number(kind);
}

function combine(dtype: CommDType, op: ReduceOpName, a: number, b: number): number {
  switch (op) {
    case "sum":
    case "avg":
      return a + b;
    case "prod":
      return isFloat(dtype) ? a * b : Number(BigInt.asIntN(64, BigInt(a) * BigInt(b)) & 0xffffffffn);
    case "max":
      return Math.max(a, b);
    case "min":
      return Math.min(a, b);
    case "band":
      return a & b;
    case "bor":
      return a | b;
    default:
      return a ^ b;
  }
}

function bigCombine(op: ReduceOpName, a: bigint, b: bigint): bigint {
  switch (op) {
    case "sum":
      return a + b;
    case "prod":
      return a * b;
    case "max":
      return a > b ? a : b;
    case "min":
      return a < b ? a : b;
    case "band":
      return a & b;
    case "bor":
      return a | b;
    default:
      return a ^ b;
  }
}

/** `v` as `dtype` can hold it. */
function round(dtype: CommDType, v: number | bigint): number | bigint {
  if (isSmall(dtype)) return smallValue(dtype, smallBits(dtype, Number(v)));
  const cell = CELLS[dtype] as unknown as [number | bigint];
  cell[0] = v;
  return cell[0];
}

type Small = "bf16" | "f8e4m3fn" | "f8e5m2";

/** Floats that JavaScript has no array for. */
function isSmall(dtype: CommDType): dtype is Small {
  return dtype === "bf16" || dtype === "f8e4m3fn" || dtype === "f8e5m2";
}

function smallValue(dtype: Small, bits: number): number {
  if (dtype === "bf16") {
    WORD[0] = bits << 16;
    return CELLS.f32[0]!;
  }
  return F8_VALUES[dtype][bits]!;
}

function smallBits(dtype: Small, v: number): number {
  return dtype === "bf16" ? bf16Bits(v) : f8Bits(dtype, v);
}

/** Values of all bit patterns, written down by their formats: sign, exponent and mantissa bits, no arithmetic of the code under test. */
const F8_VALUES = {
  f8e4m3fn: f8Values(4, 3, 7, (bits) => (bits & 0x7f) === 0x7f ? NaN : undefined),
  f8e5m2: f8Values(5, 2, 15, (bits) => (bits & 0x7c) !== 0x7c ? undefined : (bits & 3) === 0 ? Infinity : NaN),
};

function f8Values(exponent: number, mantissa: number, bias: number, special: (bits: number) => number | undefined) {
  return Array.from({ length: 256 }, (_, bits) => {
    const e = (bits >> mantissa) & (2 ** exponent - 1), m = (bits & (2 ** mantissa - 1)) / 2 ** mantissa;
    const size = special(bits) ?? (e === 0 ? m * 2 ** (1 - bias) : (1 + m) * 2 ** (e - bias));
    return bits & 0x80 ? -size : size;
  });
}

/** The nearest of all, by looking at each; of two that are equally near, the one with an even last bit. */
function f8Bits(dtype: "f8e4m3fn" | "f8e5m2", v: number): number {
  if (Number.isNaN(v)) return dtype === "f8e4m3fn" ? 0x7f : 0x7e;
  const sign = v < 0 || Object.is(v, -0) ? 0x80 : 0, size = Math.abs(v), values = F8_VALUES[dtype];
  const last = dtype === "f8e4m3fn" ? 0x7e : 0x7b; // the largest that is finite
  const step = values[last]! - values[last - 1]!;
  if (size > values[last]! + step / 2 || (size === values[last]! + step / 2 && last % 2 === 1)) return sign | last + 1;
  let best = 0;
  for (let bits = 1; bits <= last; bits++) {
    const d = Math.abs(values[bits]! - size), least = Math.abs(values[best]! - size);
    if (d < least || (d === least && bits % 2 === 0)) best = bits;
  }
  return sign | best;
}

/** By comparing with both neighbours, unlike the code under test. */
function bf16Bits(v: number): number {
  CELLS.f32[0] = v;
  const word = WORD[0]!;
  if (Number.isNaN(v)) return 0x7fc0;
  const low = word >>> 16, rest = word & 0xffff;
  return rest > 0x8000 || (rest === 0x8000 && low % 2 === 1) ? low + 1 : low;
}

function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0; // mulberry32
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
