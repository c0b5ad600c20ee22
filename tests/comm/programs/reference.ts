/** What collectives must yield, computed element by element on plain numbers, and inputs that show when they do not. */
import { type CommDType, type ReduceOp } from "../../../src/runtime/comm/buffers.ts";

/** Elements of a tensor; f16 and bf16 as numbers that their type can hold, i64 and u64 as bigints. */
export type Values = (number | bigint)[];

const FLOATS: readonly CommDType[] = ["f32", "f64", "f16", "bf16"];
const BIGS: readonly CommDType[] = ["i64", "u64"];

const ARRAYS = {
  ...{ f32: Float32Array, f64: Float64Array, f16: Float16Array, bf16: Uint16Array, i8: Int8Array, u8: Uint8Array },
  ...{ i32: Int32Array, u32: Uint32Array, i64: BigInt64Array, u64: BigUint64Array, bool: Uint8Array },
};

/** One element of each type, to round by storing. */
const CELLS = Object.fromEntries(Object.entries(ARRAYS).map(([dtype, array]) => [dtype, new array(1)])) as {
  [D in keyof typeof ARRAYS]: InstanceType<(typeof ARRAYS)[D]>;
};
const WORD = new Uint32Array(CELLS.f32.buffer);

/** An array of `dtype` that holds `values`, at a byte offset that is a multiple of no more than the element's size. */
export function encode(dtype: CommDType, values: Values): ArrayBufferView {
  const array = ARRAYS[dtype], size = array.BYTES_PER_ELEMENT;
  const out = new array(new ArrayBuffer((values.length + 1) * size), size, values.length) as unknown as number[];
  const bits = dtype === "bf16" ? (v: number | bigint) => bf16Bits(Number(v)) : (v: number | bigint) => v;
  values.forEach((v, i) => (out as (number | bigint)[])[i] = bits(v));
  return out as unknown as ArrayBufferView;
}

/** The values in `array`. */
export function decode(dtype: CommDType, array: ArrayBufferView): Values {
  const values = [...(array as unknown as Iterable<number | bigint>)];
  return dtype === "bf16" ? values.map((v) => bf16Value(Number(v))) : values;
}

/** What rank `rank` contributes: values of every size, and among the first few those where conventions differ. */
export function inputOf(dtype: CommDType, n: number, rank: number): Values {
  const next = random(rank * 7919 + n);
  const special = FLOATS.includes(dtype)
    ? [0, -0, Infinity, -Infinity, NaN, 1e-8, 3]
    : [0, 1, 127, 128, 255, 2147483647, 4294967295, -1];
  return Array.from({ length: n }, (_, i) => {
    const u = next();
    // Position decides the kind, so that specials of different ranks meet, in different combinations.
    const v = i % 16 < 4
      ? special[Math.floor(u * special.length)]!
      : FLOATS.includes(dtype)
      ? (u - 0.5) * 8
      : Math.floor((u - 0.5) * 2 ** 33);
    if (dtype === "bool") return i % 16 < 4 ? (v !== 0 ? 1 : 0) : u < 0.5 ? 0 : 1;
    return round(dtype, BIGS.includes(dtype) ? BigInt(v) * 3_000_000_019n : v);
  });
}

/** All ranks' `inputs`, reduced in the order of ranks. */
export function reduceReference(dtype: CommDType, op: ReduceOp, inputs: readonly Values[]): Values {
  return inputs[0]!.map((_, i) => {
    const elements = inputs.map((x) => x[i]!);
    if (op === "land" || op === "lor" || op === "lxor" || dtype === "bool") return logical(dtype, op, elements);
    if (BIGS.includes(dtype)) {
      return (elements as bigint[]).reduce((a, b) => round(dtype, bigCombine(op, a, b)) as bigint);
    }
    // 16-bit floats accumulate in f32 and are rounded once.
    const inner = dtype === "f16" || dtype === "bf16" ? "f32" : dtype;
    let sum = (elements as number[]).reduce((a, b) => round(inner, combine(dtype, op, a, b)) as number);
    if (op === "avg") sum = round(inner, sum * (round(inner, 1 / inputs.length) as number)) as number;
    return round(dtype, sum);
  });
}

function logical(dtype: CommDType, op: ReduceOp, elements: Values): number | bigint {
  const set = elements.filter((e) => e !== 0 && e !== 0n).length; // -0 is 0, and NaN is not
  const kind = op === "land" || (dtype === "bool" && ["prod", "min", "band"].includes(op))
    ? set === elements.length
    : op === "lxor" || op === "bxor"
    ? set % 2 === 1
    : set > 0;
  return BIGS.includes(dtype) ? BigInt(kind) : Number(kind);
}

function combine(dtype: CommDType, op: ReduceOp, a: number, b: number): number {
  switch (op) {
    case "sum":
    case "avg":
      return a + b;
    case "prod":
      return FLOATS.includes(dtype) ? a * b : Number(BigInt.asIntN(64, BigInt(a) * BigInt(b)) & 0xffffffffn);
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

function bigCombine(op: ReduceOp, a: bigint, b: bigint): bigint {
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
  if (dtype === "bf16") return bf16Value(bf16Bits(Number(v)));
  const cell = CELLS[dtype] as unknown as [number | bigint];
  cell[0] = v;
  return cell[0];
}

function bf16Value(bits: number): number {
  WORD[0] = bits << 16;
  return CELLS.f32[0]!;
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
