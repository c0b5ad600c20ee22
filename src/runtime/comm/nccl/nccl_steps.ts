/** The collectives of host arrays by NCCL: up to the GPU, through NCCL, and back, all in one stream. */
import { NCCL_ENUM } from "../../../ffi/nccl.ts";
import type { ReduceOpName, View } from "../buffers.ts";
import type { CollectiveSteps, Counts, SendRecv } from "../collective_steps.ts";
import type { Steps } from "../collectives.ts";
import { makeJsReducer } from "../reduce_js.ts";
import type { NcclGroup } from "./nccl_group.ts";
import { ncclWireOf } from "./nccl_wire.ts";
import { Staging } from "./staging.ts";

/** Bytes that travel at once where a collective can be cut. */
const PIECE = 32 * 2 ** 20;
const BYTE = NCCL_ENUM.ncclUint8;

interface Block {
  readonly start: number;
  readonly bytes: number;
}

/** The engine of one group. */
export class NcclSteps implements CollectiveSteps, Disposable {
  #g: NcclGroup;
  #staging: Staging;

  constructor(group: NcclGroup) {
    this.#g = group;
    this.#staging = new Staging(group.process.driver);
  }

  [Symbol.dispose](): void {
    this.#staging[Symbol.dispose]();
  }

  *barrier(): Steps {
    yield* this.#g.meet();
    if (this.#g.watch.meets) return;
    // Members that cannot be seen are met by a byte.
    const { nccl } = this.#g.process, s = this.#g.guard(() => this.#staging.reserve(1));
    yield* this.#through(
      s,
      { up: [[Uint8Array.of(0), 0]], down: [], name: "ncclAllReduce" },
      () => nccl.raw.ncclAllReduce(s.device, s.device, 1n, BYTE, NCCL_ENUM.ncclSum, this.#g.comm, this.#g.stream.value),
    );
  }

  *broadcast(view: View, root: number): Steps {
    yield* this.#g.meet();
    const { nccl } = this.#g.process, { rank, stream } = this.#g;
    for (const piece of pieces(view.bytes)) {
      const s = this.#g.guard(() => this.#staging.reserve(piece.length));
      const way = rank === root
        ? { up: [[piece, 0]] as const, down: [] }
        : { up: [], down: [{ start: 0, bytes: piece.length }] };
      yield* this.#through(
        s,
        { ...way, name: "ncclBroadcast" },
        () => nccl.raw.ncclBroadcast(s.device, s.device, BigInt(piece.length), BYTE, root, this.#g.comm, stream.value),
      );
      if (rank !== root) piece.set(s.bytes.subarray(0, piece.length));
    }
  }

  *allReduce(o: SendRecv & { readonly op: ReduceOpName }): Steps {
    yield* this.#g.meet();
    yield* this.#reduce(o.send, o.recv, o.op);
  }

  *reduce(
    o: { readonly send: View; readonly recv: View | undefined; readonly op: ReduceOpName; readonly root: number },
  ): Steps {
    yield* this.#g.meet();
    yield* this.#reduce(o.send, o.recv, o.op, o.root);
  }

  *scan(o: SendRecv & { readonly op: ReduceOpName; readonly exclusive: boolean }): Steps {
    yield* this.#g.meet();
    const ranks = o.exclusive ? this.#g.rank : this.#g.rank + 1;
    yield* this.#reduceGathered(o.send, ranks > 0 ? o.recv : undefined, o.op, ranks);
  }

  *reduceScatter(o: SendRecv & Counts & { readonly op: ReduceOpName }): Steps {
    yield* this.#g.meet();
    const { send, recv, counts } = o, { rank, size, stream } = this.#g, { nccl } = this.#g.process;
    const wire = ncclWireOf(send.dtype, o.op);
    if (wire === undefined) {
      const all = send.bytes.slice(), result = { ...send, bytes: all };
      yield* this.#reduceGathered(send, result, o.op, size);
      const own = blocksOf(counts, send.itemBytes)[rank]!;
      return recv.bytes.set(all.subarray(own.start, own.start + own.bytes));
    }
    const bytes = wire.encode?.(send.bytes) ?? send.bytes,
      blocks = blocksOf(counts, wire.itemBytes),
      own = blocks[rank]!;
    if (bytes.length > 0) {
      const s = this.#g.guard(() => this.#staging.reserve(bytes.length)), { type, op } = wire;
      const at = (block: Block) => s.device + BigInt(block.start);
      const even = counts.every((count) => count === counts[0]);
      const way = { up: [[bytes, 0]] as const, down: [own], name: even ? "ncclReduceScatter" : "ncclReduce" };
      yield* this.#through(s, way, () => {
        const { comm } = this.#g;
        if (even) {
          return nccl.raw.ncclReduceScatter(s.device, at(own), BigInt(counts[0]!), type, op, comm, stream.value);
        }
        return this.#group(
          blocks.flatMap((b, root) =>
            counts[root] === 0
              ? []
              : [() => nccl.raw.ncclReduce(at(b), at(b), BigInt(counts[root]!), type, op, root, comm, stream.value)]
          ),
        );
      });
      const result = s.bytes.subarray(own.start, own.start + own.bytes);
      if (wire.encode !== undefined) return wire.decode?.(result.slice(), recv.bytes, size);
      recv.bytes.set(result);
    }
    if (wire.encode === undefined) wire.decode?.(recv.bytes, recv.bytes, size);
  }

  *allGather(o: SendRecv & Counts): Steps {
    yield* this.#g.meet();
    yield* this.#allGather(o.send.bytes, o.recv.bytes, blocksOf(o.counts, o.send.itemBytes));
  }

  *gather(o: Counts & { readonly send: View; readonly recv: View | undefined; readonly root: number }): Steps {
    yield* this.#g.meet();
    const blocks = blocksOf(o.counts, o.send.itemBytes), { rank } = this.#g, own = blocks[rank]!;
    const recvs = o.recv === undefined
      ? []
      : blocks.map((b, from) => ({ ...b, peer: from })).filter((b) => b.peer !== rank);
    const sends = rank === o.root ? [] : [{ start: 0, bytes: own.bytes, peer: o.root }];
    const received = yield* this.#exchange(o.send.bytes, sends, recvs);
    if (o.recv === undefined) return;
    const mine = o.send.bytes.slice(); // it may lie in what is written now
    for (const { start, bytes, peer } of received) o.recv.bytes.set(bytes, blocks[peer]!.start + start);
    o.recv.bytes.set(mine, own.start);
  }

  *scatter(o: Counts & { readonly send: View | undefined; readonly recv: View; readonly root: number }): Steps {
    yield* this.#g.meet();
    const blocks = blocksOf(o.counts, o.recv.itemBytes), { rank } = this.#g, own = blocks[rank]!;
    const sends = o.send === undefined
      ? []
      : blocks.map((b, to) => ({ ...b, peer: to })).filter((b) => b.peer !== rank);
    const recvs = rank === o.root ? [] : [{ start: 0, bytes: own.bytes, peer: o.root }];
    const received = yield* this.#exchange(o.send?.bytes ?? new Uint8Array(), sends, recvs);
    if (o.send !== undefined) o.recv.bytes.set(o.send.bytes.slice(own.start, own.start + own.bytes));
    for (const { bytes } of received) o.recv.bytes.set(bytes);
  }

  *allToAll(
    o: SendRecv & { readonly sendCounts: readonly number[]; readonly recvCounts: readonly number[] },
  ): Steps {
    yield* this.#g.meetWithCounts(o.sendCounts, o.recvCounts);
    const out = blocksOf(o.sendCounts, o.send.itemBytes), into = blocksOf(o.recvCounts, o.send.itemBytes);
    const { rank } = this.#g, own = out[rank]!;
    const others = (blocks: readonly Block[]) =>
      blocks.map((b, peer) => ({ ...b, peer })).filter((b) => b.peer !== rank);
    const received = yield* this.#exchange(o.send.bytes, others(out), others(into));
    const mine = o.send.bytes.slice(own.start, own.start + own.bytes);
    for (const { bytes, peer } of received) o.recv.bytes.set(bytes, into[peer]!.start);
    o.recv.bytes.set(mine, into[rank]!.start);
  }

  /** Reduces `send` of all into `recv` of `root`, or of all where it is undefined. */
  *#reduce(send: View, recv: View | undefined, name: ReduceOpName, root?: number): Steps {
    const wire = ncclWireOf(send.dtype, name), { size, stream } = this.#g, { nccl } = this.#g.process;
    if (wire === undefined) return yield* this.#reduceGathered(send, recv, name, size);
    const from = wire.encode?.(send.bytes) ?? send.bytes, to = wire.encode === undefined ? recv?.bytes : from;
    for (const piece of pieces(from)) {
      const start = piece.byteOffset - from.byteOffset, count = BigInt(piece.length / wire.itemBytes);
      const s = this.#g.guard(() => this.#staging.reserve(piece.length)), { type, op } = wire;
      const down = recv === undefined ? [] : [{ start: 0, bytes: piece.length }];
      yield* this.#through(
        s,
        { up: [[piece, 0]], down, name: root === undefined ? "ncclAllReduce" : "ncclReduce" },
        () => {
          const { comm } = this.#g;
          if (root === undefined) {
            return nccl.raw.ncclAllReduce(s.device, s.device, count, type, op, comm, stream.value);
          }
          return nccl.raw.ncclReduce(s.device, s.device, count, type, op, root, comm, stream.value);
        },
      );
      if (recv !== undefined) {
        to!.set(s.bytes.subarray(0, piece.length), start);
      }
    }
    if (recv !== undefined) wire.decode?.(to!, recv.bytes, size);
  }

  /** Reduces what NCCL cannot: all ranks get all elements, and those that want the result reduce the first `ranks`. */
  *#reduceGathered(send: View, recv: View | undefined, op: ReduceOpName, ranks: number): Steps {
    const { size } = this.#g, reducer = makeJsReducer(send.dtype, op);
    const length = Math.max(16, Math.floor(PIECE / size / 16) * 16); // whole pairs of any dtype
    for (let start = 0; start < send.bytes.length; start += length) {
      const piece = send.bytes.subarray(start, start + length), n = piece.length, all = new Uint8Array(n * size);
      yield* this.#allGather(piece, all, Array.from({ length: size }, (_, r) => ({ start: r * n, bytes: n })));
      const sources = Array.from({ length: ranks }, (_, r) => all.subarray(r * n, (r + 1) * n));
      if (recv !== undefined) reducer(recv.bytes.subarray(start, start + n), sources);
    }
  }

  *#allGather(send: Uint8Array, recv: Uint8Array, blocks: readonly Block[]): Steps {
    const { rank, size, stream } = this.#g, { nccl } = this.#g.process, own = blocks[rank]!;
    if (recv.length === 0) return;
    if (blocks.some((b) => b.bytes !== own.bytes)) {
      const others = Array.from({ length: size }, (_, r) => r).filter((r) => r !== rank);
      const received = yield* this.#exchange(
        send,
        others.map((peer) => ({ start: 0, bytes: own.bytes, peer })),
        others.map((peer) => ({ ...blocks[peer]!, peer })),
      );
      const mine = send.slice();
      for (const { bytes, peer } of received) recv.set(bytes, blocks[peer]!.start);
      return recv.set(mine, own.start);
    }
    const s = this.#g.guard(() => this.#staging.reserve(recv.length));
    const way = { up: [[send, own.start]] as const, down: [{ start: 0, bytes: recv.length }], name: "ncclAllGather" };
    const from = s.device + BigInt(own.start), count = BigInt(own.bytes);
    yield* this.#through(s, way, () => nccl.raw.ncclAllGather(from, s.device, count, BYTE, this.#g.comm, stream.value));
    recv.set(s.bytes.subarray(0, recv.length));
  }

  /** Blocks of `send` to peers, and what they send: each one's bytes, in memory that the next collective uses again. */
  *#exchange(
    send: Uint8Array,
    sends: readonly (Block & { readonly peer: number })[],
    recvs: readonly (Block & { readonly peer: number })[],
  ): Steps<{ start: number; bytes: Uint8Array; peer: number }[]> {
    const { stream } = this.#g, { nccl } = this.#g.process;
    const base = Math.ceil(send.length / 256) * 256;
    let end = base;
    const places = recvs.map(({ bytes, peer }) => ({ start: (end += bytes) - bytes, bytes, peer }));
    const busy = (b: Block) => b.bytes > 0;
    if (!sends.some(busy) && !places.some(busy)) {
      return places.map(({ peer }) => ({ start: 0, bytes: new Uint8Array(), peer }));
    }
    const s = this.#g.guard(() => this.#staging.reserve(end));
    const up: readonly (readonly [Uint8Array, number])[] = sends.some(busy) ? [[send, 0]] : [];
    yield* this.#through(s, { up, down: [{ start: base, bytes: end - base }], name: "ncclGroupEnd" }, () => {
      const { comm } = this.#g, at = (b: Block) => s.device + BigInt(b.start);
      return this.#group([
        ...sends.filter(busy).map((b) => () =>
          nccl.raw.ncclSend(at(b), BigInt(b.bytes), BYTE, b.peer, comm, stream.value)
        ),
        ...places.filter(busy).map((b) => () =>
          nccl.raw.ncclRecv(at(b), BigInt(b.bytes), BYTE, b.peer, comm, stream.value)
        ),
      ]);
    });
    return places.map(({ start, bytes, peer }) => ({ start: 0, bytes: s.bytes.subarray(start, start + bytes), peer }));
  }

  /** Calls that belong together; the status of the first that fails, or of the end. */
  #group(calls: readonly (() => number)[]): number {
    const { raw } = this.#g.process.nccl;
    raw.ncclGroupStart();
    const failed = calls.map((call) => call()).find((status) => status !== 0 && status !== NCCL_ENUM.ncclInProgress);
    const status = raw.ncclGroupEnd();
    return failed ?? status;
  }

  /** Uploads, calls NCCL by `enqueue`, downloads, and waits until all is done. */
  *#through(
    s: Staging,
    way: {
      readonly up: readonly (readonly [Uint8Array, number])[];
      readonly down: readonly Block[];
      readonly name: string;
    },
    enqueue: () => number,
  ): Steps {
    const stream = this.#g.stream.value;
    this.#g.guard(() => way.up.forEach(([bytes, at]) => s.upload(bytes, at, stream)));
    yield* this.#g.call(way.name, enqueue);
    this.#g.guard(() => way.down.forEach(({ start, bytes }) => s.download(start, bytes, stream)));
    yield* this.#g.settle();
  }
}

function* pieces(bytes: Uint8Array): Generator<Uint8Array> {
  for (let start = 0; start < bytes.length; start += PIECE) yield bytes.subarray(start, start + PIECE);
}

/** Where blocks of `counts` elements lie one after the other. */
function blocksOf(counts: readonly number[], itemBytes: number): Block[] {
  let end = 0;
  return counts.map((count) => {
    const bytes = count * itemBytes;
    return { start: (end += bytes) - bytes, bytes };
  });
}
