/**
 * All-reduce of a few numbers: a step's loss, a flag, a norm. Here the machinery around the reduction costs more than the
 * barrier, so there is none: no work, no generator, no views; typed arrays over staging that are made once, and a loop. For
 * a few kilobytes the loop is the usual one, without the rest.
 */
import type { CommDType, ReduceOp, ReduceOpName, View } from "./buffers.ts";
import { encodeOperation, type OperationCode } from "./control_block.ts";
import type { Meeting } from "./meeting.ts";
import type { Reducer } from "./reduce_js.ts";

/** Most elements that go this way. */
const MAX_COUNT = 32;

type Numbers = Float32Array | Float64Array | Int32Array;
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
  /** Staging of all ranks, for each parity. */
  readonly slots: readonly [Numbers[], Numbers[]];
  readonly codes: ReadonlyMap<string, OperationCode>[];
}

/** The short way of one group. */
export class TinyAllReduce {
  #x: Meeting;
  #lanes = new Map<unknown, Lane>();
  #sources: [Uint8Array[], Uint8Array[]] | undefined;

  constructor(meeting: Meeting) {
    this.#x = meeting;
  }

  /** Reduces `data` in place, blocking; false, and nothing done, if it is not for this way. @throws {CommunicatorError} */
  run(data: unknown, op: ReduceOp, timeoutMs: number): boolean {
    if (op !== "sum" && op !== "max" && op !== "min") return false;
    if (!(data instanceof Float32Array || data instanceof Float64Array || data instanceof Int32Array)) return false;
    const n = data.length;
    if (n > MAX_COUNT) return false;
    const lane = this.#lanes.get(data.constructor) ?? this.#makeLane(data);
    const x = this.#x, slots = lane.slots[x.parity], mine = slots[x.rank]!, combine = COMBINE[lane.dtype][op];
    x.begin(lane.codes[n]!.get(op)!, timeoutMs);
    for (let i = 0; i < n; i++) mine[i] = data[i]!;
    x.arrive();
    x.waitSync();
    for (let i = 0; i < n; i++) {
      let result = slots[0]![i]!;
      for (let r = 1; r < slots.length; r++) result = combine(result, slots[r]![i]!);
      data[i] = Number.isNaN(result) ? NaN : result;
    }
    x.flip();
    x.end();
    return true;
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
    x.arrive();
    x.waitSync();
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
    const [dtype, array] = data instanceof Float32Array
      ? ["f32", Float32Array] as const
      : data instanceof Float64Array
      ? ["f64", Float64Array] as const
      : ["i32", Int32Array] as const;
    const view = (bytes: Uint8Array) => new array(bytes.buffer as ArrayBuffer, bytes.byteOffset, MAX_COUNT);
    const [even, odd] = this.#sources ??= this.#makeSources();
    const codes = Array.from({ length: MAX_COUNT + 1 }, (_, count) =>
      new Map(["sum", "max", "min"].map((reduceOp) => [
        reduceOp,
        encodeOperation({ verb: "allReduce", dtype, reduceOp, root: -1, count }),
      ])));
    const lane: Lane = { dtype, slots: [even.map(view), odd.map(view)], codes };
    this.#lanes.set(data.constructor, lane);
    return lane;
  }
}
