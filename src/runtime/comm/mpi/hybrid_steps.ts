/**
 * Collectives in two levels: within each host by shared memory, between one rank of each host, its leader, by MPI. So each byte
 * leaves a host once, however many ranks are there. What gains nothing by that goes by MPI alone.
 */
import type { Buf, CommDType, ReduceOpName, View } from "../buffers.ts";
import type { CollectiveSteps, Counts, SendRecv } from "../collective_steps.ts";
import type { Steps } from "../collectives.ts";
import type { Communicator } from "../communicator.ts";
import type { AnyWork } from "../work.ts";
import { HostBuffer } from "./host_arena.ts";
import type { HybridWaiting } from "./hybrid_waiting.ts";
import { type Wire, wireOf } from "./wire.ts";

/** The communicators of one rank. */
export interface Levels {
  /** All ranks, by MPI. */
  readonly all: Communicator;
  /** The ranks of this host, in the order of the group's ranks; the first is the leader. */
  readonly host: Communicator;
  /** The leaders, in the order of `hosts`; null at the others. */
  readonly leaders: Communicator | null;
  /** The group's ranks on each host. */
  readonly hosts: readonly (readonly number[])[];
}

const FLOATS: readonly CommDType[] = ["f32", "f64", "f16", "bf16", "f8e4m3fn", "f8e5m2"];

/** The engine of one group. */
export class HybridSteps implements CollectiveSteps {
  #x: HybridWaiting;
  #l: Levels;
  /** Index of each rank's host, and its place there. */
  #hostOf: readonly number[];

  constructor(waiting: HybridWaiting, levels: Levels) {
    this.#x = waiting;
    this.#l = levels;
    this.#hostOf = levels.all.ranks.map((_, rank) => levels.hosts.findIndex((members) => members.includes(rank)));
  }

  *barrier(): Steps {
    const { host, leaders, hosts } = this.#l;
    yield* this.#wait(host.barrier(this.#limit));
    if (hosts.length === 1) return;
    if (leaders !== null) yield* this.#wait(leaders.barrier(this.#limit));
    yield* this.#wait(host.barrier(this.#limit));
  }

  *broadcast(view: View, root: number): Steps {
    const { leaders, host, hosts } = this.#l, from = this.#hostOf[root]!, here = this.#hostOf[this.#l.all.rank];
    const buf = bufOf(view);
    if (here === from) yield* this.#wait(host.broadcast(buf, hosts[from]!.indexOf(root), this.#limit));
    if (hosts.length === 1) return;
    if (leaders !== null) yield* this.#wait(leaders.broadcast(buf, from, this.#limit));
    if (here !== from) yield* this.#wait(host.broadcast(buf, 0, this.#limit));
  }

  *allReduce(o: SendRecv & { readonly op: ReduceOpName }): Steps {
    const { host, leaders, hosts } = this.#l;
    if (hosts.length === 1) {
      return yield* this.#wait(host.allReduce(bufOf(o.send), o.op, { recv: bufOf(o.recv), ...this.#limit }));
    }
    const wire = floatWire(o.send.dtype, o.op);
    if (wire?.encode === undefined && o.send.bytes !== o.recv.bytes) o.recv.bytes.set(o.send.bytes);
    const memory = wire?.encode?.(o.send.bytes) ?? o.recv.bytes, { buf, op } = reduced(o.send, memory, wire, o.op);
    yield* this.#wait(host.reduce(buf, 0, op, this.#limit));
    if (leaders !== null) {
      yield* this.#wait(leaders.allReduce(buf, op, this.#limit));
      wire?.decode?.(memory, o.recv.bytes, this.#l.all.size);
    }
    yield* this.#wait(host.broadcast(bufOf(o.recv), 0, this.#limit));
  }

  *reduce(
    o: { readonly send: View; readonly recv: View | undefined; readonly op: ReduceOpName; readonly root: number },
  ): Steps {
    const { host, leaders, hosts } = this.#l, to = this.#hostOf[o.root]!, place = hosts[to]!.indexOf(o.root);
    const here = this.#hostOf[this.#l.all.rank];
    if (hosts.length === 1) {
      const recv = o.recv && { recv: bufOf(o.recv) };
      return yield* this.#wait(host.reduce(bufOf(o.send), o.root, o.op, { ...recv, ...this.#limit }));
    }
    const wire = floatWire(o.send.dtype, o.op), memory = wire?.encode?.(o.send.bytes) ?? o.send.bytes.slice();
    const { buf, op } = reduced(o.send, memory, wire, o.op);
    yield* this.#wait(host.reduce(buf, 0, op, this.#limit));
    if (leaders !== null) yield* this.#wait(leaders.reduce(buf, to, op, this.#limit));
    if (here !== to) return;
    // The leader has it; the root may be another rank of its host.
    yield* this.#wait(host.broadcast(buf, 0, this.#limit));
    if (host.rank !== place) return;
    if (wire?.encode === undefined) o.recv!.bytes.set(memory);
    wire?.decode?.(wire.encode === undefined ? o.recv!.bytes : memory, o.recv!.bytes, this.#l.all.size);
  }

  *allGather(o: SendRecv & Counts): Steps {
    const { host, leaders, hosts } = this.#l, counts = [...o.counts];
    if (hosts.length === 1) {
      return yield* this.#wait(host.allGather(bufOf(o.send), bufOf(o.recv), { counts, ...this.#limit }));
    }
    const { itemBytes } = o.send, total = (ranks: readonly number[]) => ranks.reduce((sum, r) => sum + counts[r]!, 0);
    const mine = hosts[this.#hostOf[this.#l.all.rank]!]!, isLeader = leaders !== null;
    const ours = isLeader ? new Uint8Array(total(mine) * itemBytes) : null;
    yield* this.#wait(host.gather(
      bufOf(o.send),
      ours && { data: ours, dtype: o.send.dtype },
      0,
      { counts: mine.map((r) => counts[r]!), ...this.#limit },
    ));
    if (ours !== null) {
      const byHost = new Uint8Array(o.recv.bytes.length);
      yield* this.#wait(leaders!.allGather(
        { data: ours, dtype: o.send.dtype },
        { data: byHost, dtype: o.send.dtype },
        { counts: hosts.map(total), ...this.#limit },
      ));
      const starts = counts.map((_, r) => total(Array.from({ length: r }, (_, q) => q)) * itemBytes);
      let from = 0;
      for (const rank of hosts.flat()) {
        const end = from + counts[rank]! * itemBytes;
        o.recv.bytes.set(byHost.subarray(from, end), starts[rank]!);
        from = end;
      }
    }
    yield* this.#wait(host.broadcast(bufOf(o.recv), 0, this.#limit));
  }

  *gather(
    o: Counts & { readonly send: View; readonly recv: View | undefined; readonly root: number },
  ): Steps {
    const recv = o.recv === undefined ? null : bufOf(o.recv);
    yield* this.#wait(this.#flat.gather(bufOf(o.send), recv, o.root, { counts: o.counts, ...this.#limit }));
  }

  *scatter(
    o: Counts & { readonly send: View | undefined; readonly recv: View; readonly root: number },
  ): Steps {
    const send = o.send === undefined ? null : bufOf(o.send);
    yield* this.#wait(this.#flat.scatter(send, bufOf(o.recv), o.root, { counts: o.counts, ...this.#limit }));
  }

  *reduceScatter(o: SendRecv & Counts & { readonly op: ReduceOpName }): Steps {
    const options = { counts: o.counts, ...this.#limit };
    yield* this.#wait(this.#flat.reduceScatter(bufOf(o.send), bufOf(o.recv), o.op, options));
  }

  *allToAll(o: SendRecv & { readonly sendCounts: readonly number[]; readonly recvCounts: readonly number[] }): Steps {
    const { sendCounts, recvCounts } = o;
    const options = { sendCounts, recvCounts, ...this.#limit };
    yield* this.#wait(this.#flat.allToAll(bufOf(o.send), bufOf(o.recv), options));
  }

  *scan(o: SendRecv & { readonly op: ReduceOpName; readonly exclusive: boolean }): Steps {
    const options = { recv: bufOf(o.recv), exclusive: o.exclusive, ...this.#limit };
    yield* this.#wait(this.#flat.scan(bufOf(o.send), o.op, options));
  }

  /** Who does what is not done in two levels. */
  get #flat(): Communicator {
    return this.#l.hosts.length === 1 ? this.#l.host : this.#l.all;
  }

  get #limit(): { readonly timeoutMs: number } {
    return { timeoutMs: this.#x.timeoutMs };
  }

  *#wait(work: AnyWork): Steps {
    this.#x.start(work);
    while (!this.#x.passed()) yield;
  }
}

/** What floats become before they are added on a host, so that they are rounded and divided only once, at the end. */
function floatWire(dtype: CommDType, op: ReduceOpName): Wire | undefined {
  return FLOATS.includes(dtype) && (op === "sum" || op === "prod" || op === "avg") ? wireOf(dtype, op) : undefined;
}

function reduced(
  view: View,
  memory: Uint8Array,
  wire: Wire | undefined,
  op: ReduceOpName,
): { readonly buf: Buf; readonly op: ReduceOpName } {
  const dtype = wire === undefined ? view.dtype : wire.type as CommDType; // f32 or f64
  return { buf: { data: memory, dtype }, op: wire?.op ?? op };
}

/** The view as a communicator beneath takes it; symmetric memory only where all its ranks are on this host. */
function bufOf(view: View): Buf {
  const { bytes: data, dtype, symmetric } = view;
  return symmetric instanceof HostBuffer ? { data, dtype, symmetric: symmetric.inner } : { data, dtype };
}
