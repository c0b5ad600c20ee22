/** The collectives of an engine, each as steps that a queue takes; and collectives of bytes made of them. */
import type { ReduceOpName, View } from "./buffers.ts";
import type { Steps } from "./collectives.ts";

/** One input and one output of equally many elements, which may be the same memory. */
export interface SendRecv {
  readonly send: View;
  readonly recv: View;
}

/** Elements of each rank. */
export interface Counts {
  readonly counts: readonly number[];
}

/** What an engine does for each verb. Arguments are checked already; a view is undefined where the rank takes no part in it. */
export interface CollectiveSteps {
  readonly barrier: () => Steps;
  readonly broadcast: (view: View, root: number) => Steps;
  readonly allReduce: (o: SendRecv & { readonly op: ReduceOpName }) => Steps;
  /** `recv` is undefined but at the root. */
  readonly reduce: (
    o: { readonly send: View; readonly recv: View | undefined; readonly op: ReduceOpName; readonly root: number },
  ) => Steps;
  readonly allGather: (o: SendRecv & Counts) => Steps;
  /** `recv` is undefined but at the root. */
  readonly gather: (
    o: Counts & { readonly send: View; readonly recv: View | undefined; readonly root: number },
  ) => Steps;
  /** `send` is undefined but at the root. */
  readonly scatter: (
    o: Counts & { readonly send: View | undefined; readonly recv: View; readonly root: number },
  ) => Steps;
  readonly reduceScatter: (o: SendRecv & Counts & { readonly op: ReduceOpName }) => Steps;
  readonly allToAll: (
    o: SendRecv & { readonly sendCounts: readonly number[]; readonly recvCounts: readonly number[] },
  ) => Steps;
  readonly scan: (o: SendRecv & { readonly op: ReduceOpName; readonly exclusive: boolean }) => Steps;
}

/** Which rank of how many. */
export interface Place {
  readonly rank: number;
  readonly size: number;
}

/** The bytes of all ranks, of any length each; at `root` only, or at all where it is undefined. */
export function* gatherBytes(
  engine: CollectiveSteps,
  place: Place,
  payload: Uint8Array,
  root?: number,
): Steps<Uint8Array[]> {
  const lengths = yield* exchangeLengths(engine, place, payload.length);
  const wanted = root === undefined || root === place.rank;
  const all = wanted ? new Uint8Array(sum(lengths)) : undefined;
  const send = bytesView(payload), recv = all && bytesView(all);
  if (root === undefined) yield* engine.allGather({ send, recv: recv!, counts: lengths });
  else yield* engine.gather({ send, recv, counts: lengths, root });
  if (all === undefined) return [];
  let end = 0;
  return lengths.map((length) => all.subarray(end, end += length));
}

/** The bytes of `root`, at all ranks. */
export function* broadcastBytes(
  engine: CollectiveSteps,
  place: Place,
  payload: Uint8Array,
  root: number,
): Steps<Uint8Array> {
  const length = new Float64Array([payload.length]);
  yield* engine.broadcast(bytesView(new Uint8Array(length.buffer)), root);
  const bytes = place.rank === root ? payload : new Uint8Array(length[0]!);
  yield* engine.broadcast(bytesView(bytes), root);
  return bytes;
}

/** `payloads[r]` of `root` at rank `r`. */
export function* scatterBytes(
  engine: CollectiveSteps,
  place: Place,
  payloads: readonly Uint8Array[] | undefined,
  root: number,
): Steps<Uint8Array> {
  const lengths = new Float64Array(place.size);
  payloads?.forEach((p, r) => lengths[r] = p.length);
  yield* engine.broadcast(bytesView(new Uint8Array(lengths.buffer)), root);
  const recv = new Uint8Array(lengths[place.rank]!);
  let send: View | undefined;
  if (payloads !== undefined) {
    const all = new Uint8Array(sum([...lengths]));
    let end = 0;
    for (const payload of payloads) all.set(payload, (end += payload.length) - payload.length);
    send = bytesView(all);
  }
  yield* engine.scatter({ send, recv: bytesView(recv), counts: [...lengths], root });
  return recv;
}

/** Bytes as collectives take them. */
export function bytesView(bytes: Uint8Array): View {
  return { bytes, dtype: "u8", itemBytes: 1, count: bytes.length, symmetric: undefined };
}

function* exchangeLengths(engine: CollectiveSteps, place: Place, length: number): Steps<number[]> {
  const own = new Float64Array([length]), all = new Float64Array(place.size);
  yield* engine.allGather({
    send: bytesView(new Uint8Array(own.buffer)),
    recv: bytesView(new Uint8Array(all.buffer)),
    counts: Array.from(all, () => 8),
  });
  return [...all];
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
