/**
 * All-reduce of a few numbers: a step's loss, a flag, a norm. Here the machinery around the reduction costs more than the
 * barrier, so there is none: no work, no generator, no views; typed arrays over shared memory that are made once, and a loop.
 * Up to 16 bytes lie beside the flags, on the lines that the barrier fetches from the other cores anyway. What is more, up to
 * a few kilobytes, goes through staging, and the loop is WebAssembly, with views and codes kept by count. Other dtypes and
 * operations go the usual way, without works and generators.
 */
import type { CommDType, ReduceOp, ReduceOpName, View } from "./buffers.ts";
import { SMALL_BYTES } from "./collectives.ts";
import { ASIDE_BYTES, encodeOperation, type OperationCode } from "./control_block.ts";
import type { Meeting } from "./meeting.ts";
import type { Reducer } from "./reduce_js.ts";
import type { ScratchReducer } from "./reduce_wasm.ts";

const TINY_OPS = ["sum", "max", "min"] as const;
const OP_KEYS: Readonly<Record<TinyOp, number>> = { sum: 0, max: 1, min: 2 };

type Numbers = Float32Array | Float64Array | Int32Array;
type NumbersConstructor = new (buffer: ArrayBuffer, offset: number, length: number) => Numbers;
type TinyDType = Extract<CommDType, "f32" | "f64" | "i32">;
type TinyOp = Extract<ReduceOpName, "sum" | "max" | "min">;

// The same results as the long way: rounded after every step, and one and the same NaN.
// deno-fmt-ignore
const COMBINE: Readonly<Record<TinyDType, Readonly<Record<TinyOp, (a: number, b: number) => number>>>> = {
  f32: { sum: (a, b) => Math.fround(a + b), max: (a, b) => Math.max(a, b), min: (a, b) => Math.min(a, b) },
  f64: { sum: (a, b) => a + b, max: (a, b) => Math.max(a, b), min: (a, b) => Math.min(a, b) },
  i32: { sum: (a, b) => (a + b) | 0, max: (a, b) => (a > b ? a : b), min: (a, b) => (a < b ? a : b) },
};

interface Lane {
  readonly dtype: TinyDType;
  readonly itemBytes: number;
  /** The places beside all ranks' flags, for each parity of barriers. */
  readonly aside: readonly [Numbers[], Numbers[]];
  /** By count, then by the key of the operation. */
  readonly codes: readonly (readonly OperationCode[])[];
  /** What larger ones need, by count and operation. */
  readonly larger: Map<number, Larger>;
}

/** All-reduces of one count and operation, with everything made that can be made before. */
interface Larger {
  readonly op: TinyOp;
  readonly code: OperationCode;
  readonly reducer: ScratchReducer;
  /** This rank's part of staging, and all ranks' addresses, for each parity. */
  readonly mine: readonly [Numbers, Numbers];
  readonly addresses: readonly [number[], number[]];
  readonly result: Numbers;
}

/** Most entries of `Lane.larger`; whoever has more sizes than that pays for making them again. */
const MAX_LARGER = 64;

/** The short way of one group. */
export class TinyAllReduce {
  #x: Meeting;
  #lanes = new Map<unknown, Lane>();
  #sources: [Uint8Array[], Uint8Array[]] | undefined;

  constructor(meeting: Meeting) {
    this.#x = meeting;
  }

  /** Reduces `data` in place, blocking; false, and nothing done, if it is not for this way. @throws {CommunicatorError} */
  run(buffer: unknown, op: ReduceOp, timeoutMs: number): boolean {
    if (op !== "sum" && op !== "max" && op !== "min") return false;
    const data = numbersOf(buffer);
    if (data === undefined) return false;
    const n = data.length;
    if (data.byteLength > SMALL_BYTES) return false;
    const lane = this.#lanes.get(data.constructor) ?? this.#makeLane(data);
    if (data.byteLength > ASIDE_BYTES) return this.#runLarger(lane, data, op, timeoutMs);
    const x = this.#x, places = lane.aside[x.nextParity], mine = places[x.rank]!, combine = COMBINE[lane.dtype][op];
    x.begin(lane.codes[n]![OP_KEYS[op]]!, timeoutMs);
    for (let i = 0; i < n; i++) mine[i] = data[i]!;
    x.meetSync();
    for (let i = 0; i < n; i++) {
      let result = places[0]![i]!;
      for (let r = 1; r < places.length; r++) result = combine(result, places[r]![i]!);
      data[i] = Number.isNaN(result) ? NaN : result;
    }
    x.end();
    return true;
  }

  #runLarger(lane: Lane, data: Numbers, op: TinyOp, timeoutMs: number): boolean {
    const key = data.length * 4 + OP_KEYS[op];
    const larger = lane.larger.get(key) ?? this.#makeLarger(lane, data, op, key);
    if (larger === undefined) return false;
    const x = this.#x, parity = x.parity;
    x.begin(larger.code, timeoutMs);
    larger.mine[parity].set(data);
    x.meetSync();
    larger.reducer.reduce(larger.addresses[parity], data.length * lane.itemBytes);
    data.set(larger.result);
    x.flip();
    x.end();
    return true;
  }

  #makeLarger(lane: Lane, data: Numbers, op: TinyOp, key: number): Larger | undefined {
    const [even, odd] = this.#sources ??= this.#makeSources(), { dtype, larger } = lane, count = data.length;
    const reducer = [...larger.values()].find((l) => l.op === op)?.reducer ??
      this.#x.reducers.intoScratch(dtype, op, even[0]!.buffer);
    if (reducer === undefined) return undefined;
    const array = data.constructor as NumbersConstructor;
    const view = (bytes: { readonly buffer: ArrayBufferLike; readonly byteOffset: number }) =>
      new array(bytes.buffer as ArrayBuffer, bytes.byteOffset, count);
    const addresses = (slots: readonly Uint8Array[]) => slots.map((slot) => slot.byteOffset);
    const made: Larger = {
      op,
      code: encodeOperation({ verb: "allReduce", dtype, reduceOp: op, root: -1, count }),
      reducer,
      mine: [view(even[this.#x.rank]!), view(odd[this.#x.rank]!)],
      addresses: [addresses(even), addresses(odd)],
      result: view(reducer.scratch),
    };
    if (larger.size >= MAX_LARGER) larger.clear();
    larger.set(key, made);
    return made;
  }

  /**
   * Reduces up to a slot of bytes in place, blocking: more than a few numbers, but too few to share the work.
   *
   * @throws {CommunicatorError}
   */
  runSmall(
    view: View,
    o: { readonly code: OperationCode; readonly reducer: Reducer; readonly timeoutMs: number },
  ): void {
    const x = this.#x;
    const sources = (this.#sources ??= this.#makeSources())[x.parity];
    x.begin(o.code, o.timeoutMs);
    sources[x.rank]!.set(view.bytes);
    x.meetSync();
    o.reducer(view.bytes, sources); // as many bytes of them as there are of the destination
    x.flip();
    x.end();
  }

  #makeSources(): [Uint8Array[], Uint8Array[]] {
    const all = () => Array.from({ length: this.#x.size }, (_, r) => this.#x.slot(r));
    const now = all();
    this.#x.flip();
    const other = all();
    this.#x.flip();
    return this.#x.parity === 0 ? [now, other] : [other, now];
  }

  #makeLane(data: Numbers): Lane {
    const array = data.constructor as NumbersConstructor;
    const dtype = data instanceof Float32Array ? "f32" : data instanceof Float64Array ? "f64" : "i32";
    const itemBytes = data.BYTES_PER_ELEMENT, x = this.#x, most = ASIDE_BYTES / itemBytes;
    const codes = Array.from(
      { length: most + 1 },
      (_, count) =>
        TINY_OPS.map((reduceOp) => encodeOperation({ verb: "allReduce", dtype, reduceOp, root: -1, count })),
    );
    const view = (bytes: Uint8Array<ArrayBuffer>) => new array(bytes.buffer, bytes.byteOffset, most);
    const beside = Array.from({ length: x.size }, (_, r) => x.aside(r).map(view));
    const aside: Lane["aside"] = [beside.map((both) => both[0]!), beside.map((both) => both[1]!)];
    const lane: Lane = { dtype, itemBytes, aside, codes, larger: new Map() };
    this.#lanes.set(data.constructor, lane);
    return lane;
  }
}

/** The numbers of `buffer`, if they are of a dtype that goes this way. */
function numbersOf(buffer: unknown): Numbers | undefined {
  if (buffer instanceof Float32Array || buffer instanceof Float64Array || buffer instanceof Int32Array) return buffer;
  const { data, dtype } = buffer as { readonly data?: unknown; readonly dtype?: unknown };
  if (data instanceof Float32Array && dtype === "f32") return data;
  if (data instanceof Float64Array && dtype === "f64") return data;
  return data instanceof Int32Array && dtype === "i32" ? data : undefined;
}
