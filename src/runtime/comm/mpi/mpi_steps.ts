/** The collectives by MPI's nonblocking calls. */
import type { Handle } from "../../../ffi/mpi.ts";
import { InputError } from "../../../core/errors.ts";
import type { ReduceOpName, View } from "../buffers.ts";
import { bytesView, type CollectiveSteps, type Counts, type SendRecv } from "../collective_steps.ts";
import { countsThatDiffer, type Steps } from "../collectives.ts";
import { isPairOp } from "../operations.ts";
import { makeJsReducer } from "../reduce_js.ts";
import type { MpiGroup } from "./mpi_group.ts";
import { type Wire, wireOf } from "./wire.ts";

/** Elements of one call: MPI counts in ints. */
const MOST = 2 ** 30;
/** Bytes of what ranks tell each other before a checked collective. */
const CALL_BYTES = 256;

/** Memory as calls take it. */
type Bytes = Uint8Array<ArrayBuffer>;

/** The engine of one group. */
export class MpiSteps implements CollectiveSteps {
  #g: MpiGroup;

  constructor(group: MpiGroup) {
    this.#g = group;
  }

  *barrier(): Steps {
    yield* this.#agree();
    const { symbols } = this.#g.runtime;
    yield* this.#call("MPI_Ibarrier", symbols.MPI_Ibarrier(this.#g.comm, this.#g.request), []);
  }

  *broadcast(view: View, root: number): Steps {
    yield* this.#agree();
    const { symbols } = this.#g.runtime, type = this.#moved(view.itemBytes);
    for (const piece of pieces(view.bytes, view.itemBytes)) {
      const bytes = pinned(piece), count = bytes.length / view.itemBytes;
      yield* this.#call(
        "MPI_Ibcast",
        symbols.MPI_Ibcast(bytes, count, type, root, this.#g.comm, this.#g.request),
        bytes,
      );
    }
  }

  *allReduce(o: SendRecv & { readonly op: ReduceOpName }): Steps {
    yield* this.#agree();
    if (isPairOp(o.op)) return yield* this.#reduceGathered(o.send, o.recv, o.op);
    const wire = wireOf(o.send.dtype, o.op), memory = prepare(wire, o.send, o.recv);
    const { symbols, library } = this.#g.runtime, { type, op } = this.#handles(wire);
    for (const piece of pieces(memory, wire.itemBytes)) {
      const bytes = pinned(piece), count = bytes.length / wire.itemBytes;
      yield* this.#call(
        "MPI_Iallreduce",
        symbols.MPI_Iallreduce_in_place(library.inPlace, bytes, count, type, op, this.#g.comm, this.#g.request),
        bytes,
      );
    }
    wire.decode?.(memory, o.recv.bytes, this.#g.size);
  }

  *reduce(
    o: { readonly send: View; readonly recv: View | undefined; readonly op: ReduceOpName; readonly root: number },
  ): Steps {
    yield* this.#agree();
    if (isPairOp(o.op)) return yield* this.#reduceGathered(o.send, o.recv, o.op);
    const wire = wireOf(o.send.dtype, o.op), { symbols, library } = this.#g.runtime, { type, op } = this.#handles(wire);
    const { comm, request } = this.#g, root = o.root;
    const memory = o.recv === undefined ? wire.encode?.(o.send.bytes) ?? o.send.bytes : prepare(wire, o.send, o.recv);
    for (const piece of pieces(memory, wire.itemBytes)) {
      const bytes = pinned(piece), count = bytes.length / wire.itemBytes;
      const code = o.recv === undefined
        ? symbols.MPI_Ireduce(bytes, null, count, type, op, root, comm, request)
        : symbols.MPI_Ireduce_in_place(library.inPlace, bytes, count, type, op, root, comm, request);
      yield* this.#call("MPI_Ireduce", code, bytes);
    }
    if (o.recv !== undefined) wire.decode?.(memory, o.recv.bytes, this.#g.size);
  }

  *scan(
    o: SendRecv & { readonly op: ReduceOpName; readonly exclusive: boolean },
  ): Steps {
    yield* this.#agree();
    const { rank, comm, request } = this.#g, ranks = o.exclusive ? rank : rank + 1;
    if (isPairOp(o.op)) return yield* this.#reduceGathered(o.send, ranks > 0 ? o.recv : undefined, o.op, ranks);
    const wire = wireOf(o.send.dtype, o.op), { symbols, library } = this.#g.runtime, { type, op } = this.#handles(wire);
    // The result of an exclusive scan is undefined on rank 0, so it may not get what is the caller's.
    const memory = o.exclusive ? (wire.encode?.(o.send.bytes) ?? o.send.bytes.slice()) : prepare(wire, o.send, o.recv);
    for (const piece of pieces(memory, wire.itemBytes)) {
      const bytes = pinned(piece), count = bytes.length / wire.itemBytes;
      const code = o.exclusive
        ? symbols.MPI_Iexscan_in_place(library.inPlace, bytes, count, type, op, comm, request)
        : symbols.MPI_Iscan_in_place(library.inPlace, bytes, count, type, op, comm, request);
      yield* this.#call(o.exclusive ? "MPI_Iexscan" : "MPI_Iscan", code, bytes);
    }
    if (ranks === 0) return;
    if (wire.encode === undefined && o.exclusive) o.recv.bytes.set(memory);
    wire.decode?.(wire.encode === undefined ? o.recv.bytes : memory, o.recv.bytes, ranks);
  }

  *reduceScatter(o: SendRecv & Counts & { readonly op: ReduceOpName }): Steps {
    yield* this.#agree();
    const { rank, size, comm, request } = this.#g, { send, recv, counts } = o;
    if (isPairOp(o.op)) {
      const all = yield* this.#gatherCopies(send), { start, end } = blockOf(counts, rank, send.itemBytes);
      const reducer = makeJsReducer(send.dtype, o.op);
      return reducer(recv.bytes, all.map((bytes) => bytes.subarray(start, end)));
    }
    const wire = wireOf(send.dtype, o.op), { symbols } = this.#g.runtime, { type, op } = this.#handles(wire);
    const separate = wire.encode === undefined && overlaps(send.bytes, recv.bytes);
    const input = pinned(wire.encode?.(send.bytes) ?? (separate ? send.bytes.slice() : send.bytes));
    const output = pinned(wire.encode === undefined ? recv.bytes : new Uint8Array(recv.count * wire.itemBytes));
    const ints = this.#ints(counts, size);
    yield* this.#call(
      "MPI_Ireduce_scatter",
      symbols.MPI_Ireduce_scatter(input, output, ints, type, op, comm, request),
      [input, output, ints],
    );
    wire.decode?.(output, recv.bytes, size);
  }

  *allGather(o: SendRecv & Counts): Steps {
    yield* this.#agree();
    yield* this.#allGather(o);
  }

  *gather(
    o: Counts & { readonly send: View; readonly recv: View | undefined; readonly root: number },
  ): Steps {
    yield* this.#agree();
    const { symbols, library } = this.#g.runtime, { comm, request, rank, size } = this.#g, { root, counts } = o;
    const type = this.#moved(o.send.itemBytes), own = blockOf(counts, rank, o.send.itemBytes);
    const lengths = this.#ints(counts, size), starts = this.#starts(counts);
    const send = pinned(o.send.bytes), count = o.send.count;
    if (o.recv === undefined) {
      const code = symbols.MPI_Igatherv(send, count, type, null, lengths, starts, type, root, comm, request);
      return yield* this.#call("MPI_Igatherv", code, [send, lengths, starts]);
    }
    const recv = pinned(o.recv.bytes);
    recv.set(send, own.start); // nothing moves if it is there
    const code = symbols.MPI_Igatherv_in_place(
      library.inPlace,
      count,
      type,
      recv,
      lengths,
      starts,
      type,
      root,
      comm,
      request,
    );
    yield* this.#call("MPI_Igatherv", code, [recv, lengths, starts]);
  }

  *scatter(
    o: Counts & { readonly send: View | undefined; readonly recv: View; readonly root: number },
  ): Steps {
    yield* this.#agree();
    const { symbols, library } = this.#g.runtime, { comm, request, rank, size } = this.#g, { root, counts } = o;
    const type = this.#moved(o.recv.itemBytes), own = blockOf(counts, rank, o.recv.itemBytes);
    const lengths = this.#ints(counts, size), starts = this.#starts(counts), count = o.recv.count;
    if (o.send === undefined) {
      const recv = pinned(o.recv.bytes);
      const code = symbols.MPI_Iscatterv(null, lengths, starts, type, recv, count, type, root, comm, request);
      return yield* this.#call("MPI_Iscatterv", code, [recv, lengths, starts]);
    }
    const send = pinned(o.send.bytes);
    const code = symbols.MPI_Iscatterv_in_place(
      send,
      lengths,
      starts,
      type,
      library.inPlace,
      count,
      type,
      root,
      comm,
      request,
    );
    yield* this.#call("MPI_Iscatterv", code, [send, lengths, starts]);
    o.recv.bytes.set(send.subarray(own.start, own.end));
  }

  *allToAll(
    o: SendRecv & { readonly sendCounts: readonly number[]; readonly recvCounts: readonly number[] },
  ): Steps {
    yield* this.#agree();
    yield* this.#agreeOnCounts(o.sendCounts, o.recvCounts);
    const { symbols } = this.#g.runtime, { comm, request, size } = this.#g;
    const type = this.#moved(o.send.itemBytes);
    const send = pinned(overlaps(o.send.bytes, o.recv.bytes) ? o.send.bytes.slice() : o.send.bytes);
    const recv = pinned(o.recv.bytes);
    const [out, into] = [this.#ints(o.sendCounts, size), this.#ints(o.recvCounts, size)];
    const [from, to] = [this.#starts(o.sendCounts), this.#starts(o.recvCounts)];
    const code = symbols.MPI_Ialltoallv(send, out, from, type, recv, into, to, type, comm, request);
    yield* this.#call("MPI_Ialltoallv", code, [send, recv, out, into, from, to]);
  }

  *#allGather(o: SendRecv & Counts): Steps {
    const { symbols, library } = this.#g.runtime, { comm, request, rank, size } = this.#g;
    const type = this.#moved(o.send.itemBytes), own = blockOf(o.counts, rank, o.send.itemBytes), n = o.send.count;
    const recv = pinned(o.recv.bytes), { inPlace } = library;
    recv.set(o.send.bytes, own.start); // nothing moves if it is there
    if (o.counts.every((count) => count === n) && n * size <= MOST) {
      const code = symbols.MPI_Iallgather_in_place(inPlace, n, type, recv, n, type, comm, request);
      return yield* this.#call("MPI_Iallgather", code, recv);
    }
    const lengths = this.#ints(o.counts, size), starts = this.#starts(o.counts);
    const code = symbols.MPI_Iallgatherv_in_place(inPlace, n, type, recv, lengths, starts, type, comm, request);
    yield* this.#call("MPI_Iallgatherv", code, [recv, lengths, starts]);
  }

  /** Reduces what MPI cannot: all ranks get all elements, and those that want the result reduce the first `ranks`. */
  *#reduceGathered(send: View, recv: View | undefined, op: ReduceOpName, ranks = this.#g.size): Steps {
    const all = yield* this.#gatherCopies(send);
    if (recv !== undefined) makeJsReducer(send.dtype, op)(recv.bytes, all.slice(0, ranks));
  }

  *#gatherCopies(send: View): Steps<Uint8Array[]> {
    const { size } = this.#g, n = send.bytes.length, bytes = new Uint8Array(n * size);
    const recv = { ...send, bytes, count: send.count * size, symmetric: undefined };
    yield* this.#allGather({ send, recv, counts: Array.from({ length: size }, () => send.count) });
    return Array.from({ length: size }, (_, r) => bytes.subarray(r * n, (r + 1) * n));
  }

  /** Waits for the request that `call` has filled; `memory` must stay where it is until then. */
  *#call(call: string, code: number, memory: unknown): Steps {
    this.#g.start(code, call, memory);
    while (!this.#g.passed()) yield;
  }

  /** In checked groups: all ranks tell each other what they call, before MPI matches what does not fit. */
  *#agree(): Steps {
    const { checked, size, rank, what } = this.#g;
    if (!checked || size === 1) return;
    const all = new Uint8Array(size * CALL_BYTES), own = new Uint8Array(CALL_BYTES);
    new TextEncoder().encodeInto(what, own);
    all.set(own, rank * CALL_BYTES);
    const { symbols, library } = this.#g.runtime, { byte } = library.handles;
    const code = symbols.MPI_Iallgather_in_place(
      library.inPlace,
      CALL_BYTES,
      byte,
      all,
      CALL_BYTES,
      byte,
      this.#g.comm,
      this.#g.request,
    );
    yield* this.#call("MPI_Iallgather", code, all);
    const calls = Array.from({ length: size }, (_, r) => {
      return new TextDecoder().decode(all.subarray(r * CALL_BYTES, (r + 1) * CALL_BYTES)).replace(/\0+$/, "");
    });
    if (calls.every((c) => c === calls[0])) return;
    this.#g.mismatch(calls.map((c, r) => `rank ${r} ${c}`));
  }

  /** The same for what ranks send each other in an exchange of all with all, which each knows for itself only. */
  *#agreeOnCounts(sendCounts: readonly number[], recvCounts: readonly number[]): Steps {
    if (!this.#g.checked || this.#g.size === 1) return;
    const own = Float64Array.from([...sendCounts, ...recvCounts]);
    const all = yield* this.#gatherCopies(bytesView(new Uint8Array(own.buffer)));
    const text = countsThatDiffer(all.map((bytes) => new Float64Array(bytes.slice().buffer)));
    if (text !== undefined) this.#g.mismatch([text]);
  }

  #handles(wire: Wire): { readonly type: Handle; readonly op: Handle } {
    const { handles } = this.#g.runtime.library;
    return { type: handles[wire.type], op: handles[wire.op] };
  }

  /** The type of elements that are moved only. */
  #moved(itemBytes: number): Handle {
    return this.#g.runtime.library.handles[MOVED[itemBytes]!];
  }

  /** @throws {InputError} If MPI's ints cannot count that far. */
  #ints(counts: readonly number[], size: number): Int32Array<ArrayBuffer> {
    const total = counts.reduce((a, b) => a + b, 0);
    if (total > 2 ** 31 - 1) {
      throw new InputError(`Cannot move ${total} elements of ${size} ranks in one call: MPI counts in 32 bits`, {
        hint: "move them in parts, or as elements of more bytes",
      });
    }
    const ints = new Int32Array(new ArrayBuffer(4 * counts.length));
    ints.set(counts);
    return ints;
  }

  #starts(counts: readonly number[]): Int32Array<ArrayBuffer> {
    const starts = new Int32Array(new ArrayBuffer(4 * counts.length));
    for (let r = 1; r < counts.length; r++) starts[r] = starts[r - 1]! + counts[r - 1]!;
    return starts;
  }
}

const MOVED: Readonly<Record<number, "u8" | "u16" | "u32" | "u64">> = { 1: "u8", 2: "u16", 4: "u32", 8: "u64" };

/** The memory in which `send` is reduced: its wire form, or `recv`, into which it is copied first. */
function prepare(wire: Wire, send: View, recv: View): Uint8Array {
  if (wire.encode !== undefined) return wire.encode(send.bytes);
  if (!same(send.bytes, recv.bytes)) recv.bytes.set(send.bytes);
  return recv.bytes;
}

/** Parts of at most `elements` elements; one at least, so that ranks always meet. */
export function* pieces(bytes: Uint8Array, itemBytes: number, elements = MOST): Generator<Uint8Array> {
  const most = elements * itemBytes;
  if (bytes.length <= most) return yield bytes;
  for (let start = 0; start < bytes.length; start += most) yield bytes.subarray(start, start + most);
}

/**
 * `bytes` where they stay: V8 keeps short arrays among its objects, and moves them, until somebody asks for their buffer. Empty
 * ones get an address of their own, since MPICH refuses an input and an output at the same one.
 */
export function pinned(bytes: Uint8Array): Bytes {
  if (bytes.length === 0) return new Uint8Array(new ArrayBuffer(8), 0, 0);
  void bytes.buffer;
  return bytes as Bytes;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.buffer === b.buffer && a.byteOffset === b.byteOffset && a.length === b.length;
}

function overlaps(a: Uint8Array, b: Uint8Array): boolean {
  return a.buffer === b.buffer && a.byteOffset < b.byteOffset + b.length && b.byteOffset < a.byteOffset + a.length;
}

function blockOf(counts: readonly number[], rank: number, itemBytes: number): { start: number; end: number } {
  const start = counts.slice(0, rank).reduce((a, b) => a + b, 0) * itemBytes;
  return { start, end: start + counts[rank]! * itemBytes };
}
