/**
 * Reductions as WebAssembly SIMD over shared memory, without copying: one small function per dtype and operation, made when
 * it is first needed. It gives the same bits as the loops of reduce_js.ts.
 *
 * For every block of 64 bytes the accumulators (4 vectors) take the first source, then one source after the other, and are
 * stored; so the destination may be one of the sources, each source is read once and the destination written once. All NaNs
 * become the same one; as they are rare, a block is looked through for them only if the sum of its vectors is NaN.
 *
 * Measured by bench/comm_reduce.ts (2 cores, busy; f32 sum of two tensors of 256 KiB, GB of input a second): a JavaScript loop
 * reaches 3.2 while it has only seen f32, and less than 0.5 once it has seen every dtype, since one loop is compiled for all;
 * WebAssembly with a private memory, tensors copied in and the result out, 10; WebAssembly over the mapped window 27.
 */
import type { CommDType, ReduceOpName } from "./buffers.ts";
import { isPairOp, requireReducible } from "./operations.ts";
import { makeJsReducer, type Reducer } from "./reduce_js.ts";
import {
  type Code,
  F32_DEMOTE_F64,
  F64,
  get,
  I32,
  i32,
  I32_ADD,
  I32_LT_U,
  loadI32,
  loopWhile,
  moduleOf,
  set,
  simd,
  simdMemory,
  splat32,
  splat64,
  tee,
  V128,
  when,
} from "./wasm_code.ts";

/** Where the first page of the window, which nobody else uses, holds the table of sources and a block of scratch. */
const TABLE = 1024, SCRATCH = 8192, SCRATCH_BYTES = 32768;
/** Most sources that the table has room for. */
export const MAX_WASM_SOURCES = (SCRATCH - TABLE) / 4;

/** Parameters and locals of every function. */
const DST = 0,
  TABLE_AT = 1,
  TABLE_END = 2,
  BYTES = 3,
  FACTOR = 4,
  OFFSET = 5,
  ENTRY = 6,
  SOURCE = 7,
  ACC = 8,
  VECTORS = 4,
  T = ACC + VECTORS,
  U = T + 1;

const ALL: readonly number[] = Array.from({ length: VECTORS }, (_, k) => k);

/** How one dtype is loaded, combined and stored; code works on the stack. */
interface Kernel {
  /** Bytes of one vector in memory, and the code that makes the accumulator's form of them. */
  readonly step: 16 | 8;
  readonly load: (offset: number) => Code;
  /** Accumulator, operand → accumulator. */
  readonly combine: Code;
  /** Accumulator → accumulator, once all sources are in: the average's factor. */
  readonly scale: Code;
  /** Of what floats the accumulators are, which may be NaN then. */
  readonly floats: "f32" | "f64" | undefined;
  /** Accumulator → accumulator, before it is stored. */
  readonly finish: Code;
  /** Stores all accumulators at the address on the stack; `address` pushes it again. */
  readonly store: (address: Code) => Code;
}

const V_AND = simd(78), V_OR = simd(80), V_XOR = simd(81), V_SELECT = simd(82), V_ANY_TRUE = simd(83);

interface Lane {
  readonly add?: Code;
  readonly mul?: Code;
  readonly max?: Code;
  readonly min?: Code;
  readonly ne: Code;
  /** Bits of 1. */
  readonly one: Code;
}

// deno-fmt-ignore
const LANES: Readonly<Record<Exclude<CommDType, "f16" | "bf16" | "f8e4m3fn" | "f8e5m2">, Lane>> = {
  f32: { add: simd(228), mul: simd(230), max: simd(233), min: simd(232), ne: simd(66), one: splat32(0x3f800000) },
  f64: { add: simd(240), mul: simd(242), max: simd(245), min: simd(244), ne: simd(72), one: splat64(0x3ff00000, 0) },
  i32: { add: simd(174), mul: simd(181), max: simd(184), min: simd(182), ne: simd(56), one: splat32(1) },
  u32: { add: simd(174), mul: simd(181), max: simd(185), min: simd(183), ne: simd(56), one: splat32(1) },
  i8:  { add: simd(110), mul: multiplyBytes(), max: simd(120), min: simd(118), ne: simd(36), one: splat32(0x01010101) },
  u8:  { add: simd(110), mul: multiplyBytes(), max: simd(121), min: simd(119), ne: simd(36), one: splat32(0x01010101) },
  i64: { add: simd(206), mul: simd(213), max: select64(true, []), min: select64(false, []), ne: simd(215), one: splat64(0, 1) },
  u64: { add: simd(206), mul: simd(213), max: select64(true, splat64(0x80000000, 0)), min: select64(false, splat64(0x80000000, 0)), ne: simd(215), one: splat64(0, 1) },
  bool: { ne: simd(36), one: splat32(0x01010101) },
};

/** The reductions of a process, made when they are first needed and shared by all its groups: each is a piece of machine code. */
export class Reducers {
  #memory: WebAssembly.Memory | undefined;
  #made: { [D in CommDType]?: { [O in ReduceOpName]?: Reducer } } = {};

  /** `memory`: where shared buffers lie; without one, JavaScript reduces. */
  constructor(memory: WebAssembly.Memory | undefined) {
    this.#memory = memory;
  }

  /** The same into scratch, where `buffer` is the memory's; undefined where JavaScript would have to do it. */
  intoScratch(
    dtype: "f32" | "f64" | "i32",
    op: "sum" | "max" | "min",
    buffer: ArrayBufferLike,
  ): ScratchReducer | undefined {
    const memory = this.#memory;
    if (memory === undefined || memory.buffer !== buffer) return undefined;
    const run = instantiate(memory, kernelOf(dtype, op)),
      table = new Uint32Array(memory.buffer, TABLE, MAX_WASM_SOURCES);
    return {
      scratch: { buffer: memory.buffer as ArrayBuffer, byteOffset: SCRATCH, byteLength: SCRATCH_BYTES },
      reduce: (addresses, bytes) => {
        const count = addresses.length;
        for (let s = 0; s < count; s++) table[s] = addresses[s]!;
        run(SCRATCH, TABLE, TABLE + 4 * count, Math.ceil(bytes / (16 * VECTORS)) * 16 * VECTORS, 1 / count);
      },
    };
  }

  /** The loop for `op` on `dtype`. @throws {InputError} Unless that is defined. */
  get(dtype: CommDType, op: ReduceOpName): Reducer {
    const ofDtype = this.#made[dtype] ??= {};
    let reducer = ofDtype[op];
    if (reducer === undefined) {
      requireReducible(dtype, op);
      reducer = this.#memory === undefined ? makeJsReducer(dtype, op) : makeWasmReducer(this.#memory, dtype, op);
      ofDtype[op] = reducer;
    }
    return reducer;
  }
}

/** Reduces into scratch: for callers that know where their sources are, and want neither views nor checks. */
export interface ScratchReducer {
  /** Where the result is: at most this many bytes. */
  readonly scratch: { readonly buffer: ArrayBuffer; readonly byteOffset: number; readonly byteLength: number };
  /** Reduces `bytes` from each of `addresses`, in the memory, in that order; reads up to 63 bytes more. */
  readonly reduce: (addresses: readonly number[], bytes: number) => void;
}

/** The function for `op` on `dtype` over `memory`; bytes outside it are reduced by JavaScript, or go by way of scratch. */
export function makeWasmReducer(memory: WebAssembly.Memory, dtype: CommDType, op: ReduceOpName): Reducer {
  const fallback = makeJsReducer(dtype, op);
  if (isPairOp(op) || dtype === "f8e4m3fn" || dtype === "f8e5m2") return fallback; // rare, and never much
  const kernel = kernelOf(dtype, op), block = VECTORS * kernel.step;
  const run = instantiate(memory, kernel);
  const buffer = memory.buffer,
    bytes = new Uint8Array(buffer),
    table = new Uint32Array(buffer, TABLE, MAX_WASM_SOURCES);
  return (destination, sources) => {
    const count = sources.length;
    if (count > MAX_WASM_SOURCES) return fallback(destination, sources);
    for (let s = 0; s < count; s++) {
      if (sources[s]!.buffer !== buffer) return fallback(destination, sources);
      table[s] = sources[s]!.byteOffset;
    }
    const end = TABLE + 4 * count, factor = 1 / count, length = destination.length;
    if (destination.buffer === buffer) {
      const whole = length - length % block;
      if (whole > 0) run(destination.byteOffset, TABLE, end, whole, factor);
      if (whole < length) toScratch(whole, length - whole);
      return;
    }
    for (let at = 0; at < length; at += SCRATCH_BYTES) toScratch(at, Math.min(SCRATCH_BYTES, length - at));

    /** The bytes `at` to `at + n`; reads a little more from the sources, where the window ends no earlier, but writes no more. */
    function toScratch(at: number, n: number): void {
      for (let s = 0; s < count; s++) table[s] = sources[s]!.byteOffset + at;
      run(SCRATCH, TABLE, end, Math.ceil(n / block) * block, factor);
      destination.set(bytes.subarray(SCRATCH, SCRATCH + n), at);
    }
  };
}

type Run = (dst: number, table: number, tableEnd: number, bytes: number, factor: number) => void;

function instantiate(memory: WebAssembly.Memory, kernel: Kernel): Run {
  const each = (code: (k: number) => Code) => ALL.flatMap((k) => [...code(k)]);
  const inPlace = (code: Code) => code.length === 0 ? [] : each((k) => [...get(ACC + k), ...code, ...set(ACC + k)]);
  const load = (k: number) => [...get(SOURCE), ...kernel.load(k * kernel.step)];
  const source = [...get(ENTRY), ...loadI32(0), ...get(OFFSET), ...I32_ADD, ...set(SOURCE)];
  const body = loopWhile([
    ...[...get(TABLE_AT), ...tee(ENTRY), ...loadI32(0), ...get(OFFSET), ...I32_ADD, ...set(SOURCE)],
    ...each((k) => [...load(k), ...set(ACC + k)]),
    ...[...get(ENTRY), ...i32(4), ...I32_ADD, ...tee(ENTRY), ...get(TABLE_END), ...I32_LT_U],
    ...when(loopWhile([
      ...source,
      ...each((k) => [...get(ACC + k), ...load(k), ...kernel.combine, ...set(ACC + k)]),
      ...[...get(ENTRY), ...i32(4), ...I32_ADD, ...tee(ENTRY), ...get(TABLE_END), ...I32_LT_U],
    ])),
    ...inPlace(kernel.scale),
    ...kernel.floats === undefined ? [] : [...anyNaN(kernel.floats), ...when(inPlace(oneNaN(kernel.floats)))],
    ...inPlace(kernel.finish),
    ...kernel.store([...get(DST), ...get(OFFSET), ...I32_ADD]),
    ...[...get(OFFSET), ...i32(VECTORS * kernel.step), ...I32_ADD, ...tee(OFFSET), ...get(BYTES), ...I32_LT_U],
  ]);
  const bytes = moduleOf([I32, I32, I32, I32, F64], [[3, I32], [VECTORS + 2, V128]], body);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { env: { memory } });
  return instance.exports.run as Run;
}

function kernelOf(dtype: Exclude<CommDType, "f8e4m3fn" | "f8e5m2">, op: ReduceOpName): Kernel {
  if (dtype === "f16" || dtype === "bf16") return halfKernel(dtype, op);
  const lane = LANES[dtype];
  if (dtype === "bool" || op === "land" || op === "lor" || op === "lxor") {
    const and = op === "land" || (dtype === "bool" && (op === "prod" || op === "min" || op === "band"));
    const xor = op === "lxor" || op === "bxor";
    return {
      ...plain(and ? V_AND : xor ? V_XOR : V_OR),
      finish: [...lane.one, ...V_AND],
      load: (offset) => [...simdMemory(0, offset), ...splat32(0), ...lane.ne],
    };
  }
  const whole = plain(combineOf(lane, op));
  return dtype === "f32" || dtype === "f64" ? { ...whole, scale: scaleOf(dtype, op), floats: dtype } : whole;
}

function plain(combine: Code): Kernel {
  return {
    step: 16,
    load: (offset) => simdMemory(0, offset),
    combine,
    scale: [],
    floats: undefined,
    finish: [],
    store: (address) => ALL.flatMap((k) => [...address, ...get(ACC + k), ...simdMemory(11, 16 * k)]),
  };
}

function combineOf(lane: Lane, op: ReduceOpName): Code {
  switch (op) {
    case "prod":
      return lane.mul!;
    case "max":
      return lane.max!;
    case "min":
      return lane.min!;
    case "band":
      return V_AND;
    case "bor":
      return V_OR;
    case "bxor":
      return V_XOR;
    default:
      return lane.add!;
  }
}

/** The average's factor. */
function scaleOf(dtype: "f32" | "f64", op: ReduceOpName): Code {
  if (op !== "avg") return [];
  return dtype === "f32"
    ? [...get(FACTOR), ...F32_DEMOTE_F64, ...simd(19), ...simd(230)]
    : [...get(FACTOR), ...simd(20), ...simd(242)];
}

/** Whether there may be a NaN among the accumulators: their sum is one, or infinities met. */
function anyNaN(floats: "f32" | "f64"): Code {
  const { add, ne } = LANES[floats];
  const rest = ALL.slice(1).flatMap((k) => [...get(ACC + k), ...add!]);
  return [...get(ACC), ...rest, ...tee(T), ...get(T), ...ne, ...V_ANY_TRUE];
}

/** One and the same NaN for all. */
function oneNaN(floats: "f32" | "f64"): Code {
  const nan = floats === "f32" ? splat32(0x7fc00000) : splat64(0x7ff80000, 0);
  return [...tee(T), ...nan, ...get(T), ...get(T), ...floats === "f32" ? simd(65) : simd(71), ...V_SELECT];
}

/** 16-bit floats: four of them widened to a vector of f32; combined and finished as such. */
function halfKernel(dtype: "f16" | "bf16", op: ReduceOpName): Kernel {
  const lane = LANES.f32, isLogical = op === "land" || op === "lor" || op === "lxor";
  const widen = dtype === "bf16" ? [...i32(16), ...simd(171)] : widenF16();
  const logical = [...splat32(0), ...lane.ne];
  const narrow = dtype === "bf16" ? narrowBf16() : narrowF16();
  return {
    step: 8,
    // Four halves in the low half of a vector, zero-extended to 32 bits each.
    load: (offset) => [...simdMemory(93, offset), ...simd(169), ...widen, ...isLogical ? logical : []],
    combine: op === "land" ? V_AND : op === "lor" ? V_OR : op === "lxor" ? V_XOR : combineOf(lane, op),
    scale: isLogical ? [] : scaleOf("f32", op),
    floats: isLogical ? undefined : "f32",
    finish: [...isLogical ? [...lane.one, ...V_AND] : [], ...narrow],
    // i16x8.narrow_i32x4_u of two accumulators gives eight halves.
    store: (address) =>
      ALL.filter((k) => k % 2 === 0).flatMap((
        k,
      ) => [...address, ...get(ACC + k), ...get(ACC + k + 1), ...simd(134), ...simdMemory(11, 8 * k)]),
  };
}

/** Bits of f16 in 32-bit lanes → f32: exponents are moved by a multiplication, which subnormals survive. */
function widenF16(): Code {
  return [
    ...tee(T),
    ...[...splat32(0x7fff), ...V_AND, ...i32(13), ...simd(171), ...tee(U)],
    ...[...splat32(0x77800000), ...simd(230)], // · 2^112
    // Infinity and NaN had the largest exponent, and get it again.
    ...[...get(U), ...splat32(0x0f7fffff), ...simd(59), ...splat32(0x7f800000), ...V_AND, ...V_OR],
    ...[...get(T), ...splat32(0x8000), ...V_AND, ...i32(16), ...simd(171), ...V_OR],
  ];
}

/** f32 → bits of f16, to nearest, ties to even. Source: F. Giesen, float_to_half_fast3_rtne. */
function narrowF16(): Code {
  const sign = [...get(T), ...i32(16), ...simd(173), ...splat32(0x8000), ...V_AND];
  const absolute = [...get(T), ...splat32(0x7fffffff), ...V_AND];
  const magic = splat32(0x3f000000); // 0.5: adding it lets the adder round subnormals
  const tiny = [...absolute, ...magic, ...simd(228), ...magic, ...simd(177)];
  const odd = [...absolute, ...i32(13), ...simd(173), ...splat32(1), ...V_AND];
  const normal = [
    ...absolute,
    ...splat32((0xc8000fff) >>> 0),
    ...simd(174),
    ...odd,
    ...simd(174),
    ...i32(13),
    ...simd(173),
  ];
  const huge = [
    ...[...splat32(0x7e00), ...splat32(0x7c00), ...absolute, ...splat32(0x7f800000), ...simd(59), ...V_SELECT],
  ];
  return [
    ...set(T),
    ...[...tiny, ...normal, ...absolute, ...splat32(0x38800000), ...simd(57), ...V_SELECT, ...set(U)],
    ...[...huge, ...get(U), ...absolute, ...splat32(0x477fffff), ...simd(59), ...V_SELECT],
    ...[...sign, ...V_OR],
  ];
}

/** f32 → bits of bf16, to nearest, ties to even; the only NaN that comes here is 0x7fc00000, which rounds to itself. */
function narrowBf16(): Code {
  return [
    ...tee(T),
    ...[...splat32(0x7fff), ...simd(174)],
    ...[...get(T), ...i32(16), ...simd(173), ...splat32(1), ...V_AND, ...simd(174)],
    ...[...i32(16), ...simd(173)],
  ];
}

/** Products of bytes: of their low and high halves as 16 bits, of which the low byte is kept. */
function multiplyBytes(): Code {
  const low = [...get(T), ...get(U), ...simd(156), ...splat32(0x00ff00ff), ...V_AND];
  const high = [...get(T), ...get(U), ...simd(157), ...splat32(0x00ff00ff), ...V_AND];
  return [...set(U), ...set(T), ...low, ...high, ...simd(102)];
}

/** The larger (or smaller) of 64-bit lanes; `bias` turns unsigned order into signed order. */
function select64(larger: boolean, bias: Code): Code {
  const biased = (local: number) => [...get(local), ...bias, ...bias.length > 0 ? V_XOR : []];
  const greater = [...biased(T), ...biased(U), ...simd(217)]; // i64x2.gt_s
  return [...set(U), ...set(T), ...get(larger ? T : U), ...get(larger ? U : T), ...greater, ...V_SELECT];
}
