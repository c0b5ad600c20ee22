/**
 * The collectives over an {@linkcode Meeting}, each a generator that yields where it has to wait for other ranks, so that
 * one text serves blocking and asynchronous callers.
 *
 * Every element is reduced in the order of ranks, by one rank or by each for itself, never along a ring or tree; so the
 * bits are the same on every rank and at every run. `bytes` are of plain arrays, copied through staging in pieces, or of
 * symmetric memory, reduced where they lie.
 */
import { ARENA_ALIGNMENT } from "./arena.ts";
import type { View } from "./buffers.ts";
import { type Meeting, SLOT_BYTES } from "./meeting.ts";
import type { Reducer } from "./reduce_js.ts";

/** A collective under way. */
export type Steps<T = void> = Generator<void, T, void>;

/** Up to this many bytes every rank reduces everything, from staging: one barrier instead of two or three. */
export const SMALL_BYTES = 16 * 1024;

/** What the nearest cache holds of each of two ranks at once. */
const NEAR_BYTES = 16 * 1024;

/** All have arrived. */
export function* barrier(x: Meeting): Steps {
  x.arrive();
  while (!x.passed()) yield;
}

/** `view` of `root` becomes everybody's. */
export function* broadcast(x: Meeting, view: View, root: number): Steps {
  const bytes = view.bytes;
  let start = 0;
  do {
    const piece = bytes.subarray(start, start + SLOT_BYTES);
    if (x.rank === root) x.mine.set(piece);
    x.arrive();
    while (!x.passed()) yield;
    if (x.rank !== root) piece.set(x.slot(root).subarray(0, piece.length));
    x.flip();
    start += SLOT_BYTES;
  } while (start < bytes.length);
}

/** Reduces `send` of all ranks into `recv` of `root`, or of all where `root` is undefined. Both have equally many bytes. */
export function* reduce(
  x: Meeting,
  o: { send: View; recv: View | undefined; root?: number; reducer: Reducer },
): Steps {
  if (o.root === undefined && o.send.symmetric !== undefined && o.send.bytes.length > SMALL_BYTES) {
    return yield* reduceSymmetric(x, { ...o, recv: o.recv! });
  }
  const { send, recv, root, reducer } = o;
  const wanted = recv !== undefined && (root === undefined || root === x.rank);
  const n = send.bytes.length;
  if (n <= SMALL_BYTES) {
    x.mine.set(send.bytes);
    x.arrive();
    while (!x.passed()) yield;
    if (wanted) reducer(recv.bytes, slots(x, 0, n));
    x.flip();
    return;
  }
  for (let start = 0; start < n; start += SLOT_BYTES) {
    const piece = send.bytes.subarray(start, start + SLOT_BYTES), mine = shareOf(piece.length, x.rank, x.size);
    put(x.mine, piece.subarray(0, mine.start), 0);
    put(x.mine, piece.subarray(mine.end), mine.end);
    x.arrive();
    while (!x.passed()) yield;
    // This rank's own share comes to its slot, is reduced and leaves it while it is in the nearest cache.
    for (let at = mine.start; at < mine.end; at += NEAR_BYTES) {
      const end = Math.min(mine.end, at + NEAR_BYTES), own = x.mine.subarray(at, end);
      own.set(piece.subarray(at, end));
      reducer(own, slots(x, at, end));
      if (wanted) recv.bytes.set(own, start + at);
    }
    x.arrive();
    while (!x.passed()) yield;
    for (let r = 0; wanted && r < x.size; r++) {
      if (r === x.rank) continue;
      const share = shareOf(piece.length, r, x.size);
      put(recv.bytes, x.slot(r).subarray(share.start, share.end), start + share.start);
    }
    x.flip();
  }
}

/**
 * All-reduce of symmetric memory. In place: each rank reduces its share in its own buffer, then copies the others' shares from
 * theirs; a last barrier lets everybody write again. Into plain memory, shares travel through staging.
 */
function* reduceSymmetric(x: Meeting, o: { send: View; recv: View; reducer: Reducer }): Steps {
  const { send, recv, reducer } = o;
  const n = send.bytes.length;
  const peers = (start: number, end: number) =>
    Array.from({ length: x.size }, (_, r) => send.symmetric!.peer(r).subarray(start, end));
  x.arrive();
  while (!x.passed()) yield;
  const target = recv.symmetric;
  if (target === undefined) {
    for (let start = 0; start < n; start += SLOT_BYTES) {
      const length = Math.min(SLOT_BYTES, n - start);
      const mine = shareOf(length, x.rank, x.size);
      reducer(x.mine.subarray(mine.start, mine.end), peers(start + mine.start, start + mine.end));
      x.arrive();
      while (!x.passed()) yield;
      for (let r = 0; r < x.size; r++) {
        const share = shareOf(length, r, x.size);
        recv.bytes.set(x.slot(r).subarray(share.start, share.end), start + share.start);
      }
      x.flip();
    }
    return;
  }
  const mine = shareOf(n, x.rank, x.size);
  reducer(target.local.subarray(mine.start, mine.end), peers(mine.start, mine.end));
  x.arrive();
  while (!x.passed()) yield;
  for (let i = 1; i < x.size; i++) {
    const r = (x.rank + i) % x.size, share = shareOf(n, r, x.size);
    target.local.set(target.peer(r).subarray(share.start, share.end), share.start);
  }
  x.arrive();
  while (!x.passed()) yield;
}

/** Block `r` of all ranks, `counts[r]` elements, reduced into `recv` of rank `r`. */
export function* reduceScatter(
  x: Meeting,
  o: { send: View; recv: View; counts: readonly number[]; reducer: Reducer },
): Steps {
  const { send, recv, reducer } = o;
  const blocks = blocksOf(o.counts, send.itemBytes);
  for (const piece of pieces(blocks, x.size)) {
    for (let r = 0; r < x.size; r++) {
      const part = cut(blocks[r]!, piece);
      put(x.mine, send.bytes.subarray(part.start, part.end), r * piece.length);
    }
    x.arrive();
    while (!x.passed()) yield;
    const own = cut(blocks[x.rank]!, piece), length = own.end - own.start, at = x.rank * piece.length;
    if (length > 0) reducer(recv.bytes.subarray(piece.start, piece.start + length), slots(x, at, at + length));
    x.flip();
  }
}

/** `send` of all ranks, `counts[r]` elements each, one after the other in `recv` of `root`, or of all where it is undefined. */
export function* gather(
  x: Meeting,
  o: { send: View; recv: View | undefined; counts: readonly number[]; root?: number },
): Steps {
  const { send, recv, root } = o;
  const blocks = blocksOf(o.counts, send.itemBytes);
  const wanted = recv !== undefined && (root === undefined || root === x.rank);
  for (const piece of pieces(blocks, 1)) {
    const own = cut(blocks[x.rank]!, piece);
    x.mine.set(send.bytes.subarray(piece.start, piece.start + own.end - own.start));
    x.arrive();
    while (!x.passed()) yield;
    for (let r = 0; wanted && r < x.size; r++) {
      const part = cut(blocks[r]!, piece);
      put(recv.bytes, x.slot(r).subarray(0, part.end - part.start), part.start);
    }
    x.flip();
  }
}

/** Block `r` of `send` of `root`, `counts[r]` elements, into `recv` of rank `r`. */
export function* scatter(
  x: Meeting,
  o: { send: View | undefined; recv: View; counts: readonly number[]; root: number },
): Steps {
  const { send, recv, root } = o;
  const blocks = blocksOf(o.counts, recv.itemBytes);
  for (const piece of pieces(blocks, x.size)) {
    for (let r = 0; send !== undefined && r < x.size; r++) {
      const part = cut(blocks[r]!, piece);
      put(x.mine, send.bytes.subarray(part.start, part.end), r * piece.length);
    }
    x.arrive();
    while (!x.passed()) yield;
    const own = cut(blocks[x.rank]!, piece), at = x.rank * piece.length;
    put(recv.bytes, x.slot(root).subarray(at, at + own.end - own.start), piece.start);
    x.flip();
  }
}

/** Block `r` of `send`, `sendCounts[r]` elements, to rank `r`; what came from rank `r`, `recvCounts[r]`, in order in `recv`. */
export function* allToAll(
  x: Meeting,
  o: { send: View; recv: View; sendCounts: readonly number[]; recvCounts: readonly number[] },
): Steps {
  const { send, recv } = o;
  const most = yield* agreeOnCounts(x, o);
  const from = blocksOf(o.sendCounts, send.itemBytes), to = blocksOf(o.recvCounts, send.itemBytes);
  for (const piece of pieces([{ start: 0, end: most * send.itemBytes }], x.size)) {
    for (let r = 0; r < x.size; r++) {
      const part = cut(from[r]!, piece);
      put(x.mine, send.bytes.subarray(part.start, part.end), r * piece.length);
    }
    x.arrive();
    while (!x.passed()) yield;
    for (let r = 0; r < x.size; r++) {
      const part = cut(to[r]!, piece), at = x.rank * piece.length;
      put(recv.bytes, x.slot(r).subarray(at, at + part.end - part.start), part.start);
    }
    x.flip();
  }
}

/**
 * Counts are each rank's own, so all tell each other theirs. The largest, which decides how many pieces everybody makes.
 *
 * @throws {CollectiveMismatch} At every rank alike, if one expects other than what another sends it.
 */
function* agreeOnCounts(
  x: Meeting,
  { sendCounts, recvCounts }: { sendCounts: readonly number[]; recvCounts: readonly number[] },
): Steps<number> {
  const counts = (slot: Uint8Array) => new Float64Array(slot.buffer, slot.byteOffset, 2 * x.size);
  const mine = counts(x.mine);
  mine.set(sendCounts);
  mine.set(recvCounts, x.size);
  x.arrive();
  while (!x.passed()) yield;
  const all = Array.from({ length: x.size }, (_, r) => counts(x.slot(r))), text = countsThatDiffer(all);
  if (text !== undefined) throw x.disagree(text);
  const most = Math.max(...all.flatMap((own) => [...own.subarray(0, x.size)]));
  x.flip();
  return most;
}

/**
 * Where what one rank sends another in an allToAll is not what that one expects of it, in words; undefined where all fits. `all`: of
 * each rank, its counts for all, then those of all.
 */
export function countsThatDiffer(all: readonly Float64Array[]): string | undefined {
  const size = all.length;
  for (let from = 0; from < size; from++) {
    for (let to = 0; to < size; to++) {
      const sent = all[from]![to]!, expected = all[to]![size + from]!;
      if (sent === expected) continue;
      return `in allToAll rank ${from} sends ${sent} elements to rank ${to}, which expects ${expected} of it`;
    }
  }
  return undefined;
}

/** `send` of ranks 0 to this one (`exclusive`: to the one before), reduced into `recv`; exclusive rank 0 keeps its `recv`. */
export function* scan(x: Meeting, o: { send: View; recv: View; exclusive: boolean; reducer: Reducer }): Steps {
  const { send, recv, exclusive, reducer } = o;
  const n = send.bytes.length;
  let start = 0;
  do {
    const piece = send.bytes.subarray(start, start + SLOT_BYTES);
    x.mine.set(piece);
    x.arrive();
    while (!x.passed()) yield;
    const sources = slots(x, 0, piece.length).slice(0, exclusive ? x.rank : x.rank + 1);
    if (sources.length > 0) reducer(recv.bytes.subarray(start, start + piece.length), sources);
    x.flip();
    start += SLOT_BYTES;
  } while (start < n);
}

/** The part of `bytes` that `rank` reduces: equal shares, aligned, the last ones shorter. */
function shareOf(bytes: number, rank: number, size: number): { readonly start: number; readonly end: number } {
  const share = Math.ceil(bytes / size / ARENA_ALIGNMENT) * ARENA_ALIGNMENT;
  return { start: Math.min(bytes, rank * share), end: Math.min(bytes, (rank + 1) * share) };
}

interface Range {
  readonly start: number;
  readonly end: number;
}

/** Bytes `start` to `end` of all ranks' slots. */
function slots(x: Meeting, start: number, end: number): Uint8Array[] {
  const all = new Array<Uint8Array>(x.size);
  for (let r = 0; r < all.length; r++) all[r] = x.slot(r).subarray(start, end);
  return all;
}

/** Where blocks of `counts` elements lie one after the other, in bytes. */
function blocksOf(counts: readonly number[], itemBytes: number): Range[] {
  let end = 0;
  return counts.map((count) => ({ start: end, end: end += count * itemBytes }));
}

/** The pieces in which blocks travel when `perSlot` of them share a slot; at least one, so that ranks always meet. */
function* pieces(
  blocks: readonly Range[],
  perSlot: number,
): Generator<{ start: number; length: number }> {
  const longest = Math.max(0, ...blocks.map((b) => b.end - b.start));
  // Aligned, so that neither elements nor pairs of them are cut.
  const length = Math.floor(SLOT_BYTES / perSlot / ARENA_ALIGNMENT) * ARENA_ALIGNMENT;
  for (let start = 0; start === 0 || start < longest; start += length) yield { start, length };
}

/** The part of `block` that travels in `piece`. */
function cut(block: Range, piece: { start: number; length: number }): Range {
  const start = Math.min(block.end, block.start + piece.start);
  return { start, end: Math.min(block.end, start + piece.length) };
}

/** `set`, but nothing may be put anywhere: ranks whose block has ended take part in the last pieces without any bytes. */
function put(target: Uint8Array, source: Uint8Array, at: number): void {
  if (source.length > 0) target.set(source, at);
}
