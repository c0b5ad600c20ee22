/**
 * The words that all ranks of a group share, apart from tensor data: who is here, who has arrived, what each is doing,
 * and whether somebody gave up. All are 32-bit and read and written by `Atomics`; a fresh, zeroed file is a valid block,
 * so nobody has to initialise it.
 *
 *     line 0   magic, size of the group, ranks attached, abort kind, abort culprit
 *     line 1   bell (a futex), sleepers
 *     chunks   64 × { state, pid, fd, bytes / 4096 }   shared files that a rank of the group made, see arena.ts
 *     ranks    size × 256 bytes: arrival flag, fingerprints and a few numbers (a line of their own) · identity · two operation records
 *     reasons  size × 256 bytes of text: why a rank stopped the group
 *
 * Lines are 128 bytes, because the prefetcher of x86_64 fetches 64-byte lines in pairs.
 */
import type { DType } from "../../core/dtype.ts";
import type { ProcessIdentity } from "./process_identity.ts";

const MAGIC = 0x53575348; // "SWSH"
const LINE = 32; // words
const CHUNK_WORDS = 4, RANK_WORDS = 64;
const BELL = LINE, SLEEPERS = LINE + 1, CHUNKS = 2 * LINE;
const ASIDE = 8, IDENTITY = 16, RECORD = 32, RECORD_WORDS = 16;
/** Where a record's list of counts begins, and how many of them it holds. */
const COUNTS = 7, COUNTS_HELD = RECORD_WORDS - COUNTS - 2;
/** Bytes for what a rank that stops the group has to say; the first is the length. */
const REASON_BYTES = 256;

/** Bytes that fit beside a rank's flag for each of two barriers: what is left of its 64-byte line. */
export const ASIDE_BYTES = 16;

/** How many shared files a group can make. */
export const MAX_CHUNKS = 64;
const RANKS = CHUNKS + MAX_CHUNKS * CHUNK_WORDS;

/** Bytes of the control block of a group of `size`. */
export function controlBlockBytes(size: number): number {
  return (RANKS + size * RANK_WORDS) * 4 + size * REASON_BYTES;
}

/** What one rank does at a collective; what all ranks must agree on. */
export interface OperationRecord {
  readonly seq: number;
  readonly verb: string;
  readonly dtype: DType | undefined;
  readonly reduceOp: string | undefined;
  readonly root: number;
  /** Elements; -1 where ranks may differ. */
  readonly count: number;
  /** Elements of each rank, where they differ and all ranks must name the same. */
  readonly counts?: CountList | undefined;
}

/** A list of counts, as records hold it: its beginning, and what tells it from others. */
export interface CountList {
  readonly length: number;
  readonly hash: number;
  /** The first ones, as many as a record has room for. */
  readonly first: readonly number[];
}

/** Where a rank is in its life. */
export const ABSENT = 0, ATTACHED = 1, LEFT = 2;
/** Why a group stopped. */
export const ABORT_KINDS = ["", "mismatch", "timeout", "lost", "left", "user"] as const;
/** One of them. */
export type AbortKind = Exclude<(typeof ABORT_KINDS)[number], "">;
/** States of a chunk's entry. */
export const CHUNK_NONE = 0, CHUNK_BEING_MADE = 1, CHUNK_READY = 2, CHUNK_FAILED = 3;

/** Words by which records name verbs, dtypes and operations; positions are the codes. */
const WORDS: string[] = [
  "",
  ..."barrier broadcast allReduce reduce allGather gather scatter reduceScatter allToAll scan send recv close".split(
    " ",
  ),
  ..."f32 f64 f16 bf16 i8 u8 i16 u16 i32 u32 i64 u64 bool".split(" "),
  ..."sum prod max min avg band bor bxor land lor lxor minloc maxloc preMulSum f8e4m3fn f8e5m2".split(" "),
  // Collectives of values, and those that make groups, are others than the ones they are made of.
  ..."objects.broadcast objects.allGather objects.gather objects.scatter split splitByHost mesh".split(" "),
];
const CODES = new Map(WORDS.map((word, code) => [word, code]));

/** The shared words, typed. */
export class ControlBlock {
  /** All words, for the barrier's hot path. */
  readonly words: Int32Array<ArrayBuffer>;
  readonly size: number;
  /** Futex word that wakes all sleepers, and how many there are. */
  readonly bell: Int32Array;

  constructor(buffer: ArrayBuffer, byteOffset: number, size: number) {
    this.words = new Int32Array(buffer, byteOffset, controlBlockBytes(size) / 4);
    this.size = size;
    this.bell = this.words.subarray(BELL, BELL + 1);
  }

  /** Word of a rank's arrival flag; its two fingerprints follow at + 2 and + 3, and its core at + 4. */
  flagIndex(rank: number): number {
    return RANKS + rank * RANK_WORDS;
  }

  /** The bytes beside the flag of `rank` for barriers of even and of odd number. */
  aside(rank: number): readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] {
    const { buffer, byteOffset } = this.words, at = byteOffset + 4 * (this.flagIndex(rank) + ASIDE);
    return [new Uint8Array(buffer, at, ASIDE_BYTES), new Uint8Array(buffer, at + ASIDE_BYTES, ASIDE_BYTES)];
  }

  /** Index of the bell's and the sleepers' words. */
  get bellIndex(): number {
    return BELL;
  }
  get sleepersIndex(): number {
    return SLEEPERS;
  }

  /** Writes the group's size, or finds what another rank wrote: false if that differs. */
  claim(): boolean {
    const words = this.words;
    Atomics.compareExchange(words, 1, 0, this.size);
    Atomics.compareExchange(words, 0, 0, MAGIC);
    return Atomics.load(words, 0) === MAGIC && Atomics.load(words, 1) === this.size;
  }

  /** Whether another program's bytes are here. */
  get foreign(): boolean {
    const magic = Atomics.load(this.words, 0);
    return magic !== 0 && magic !== MAGIC;
  }

  /** Enters `rank`. The caller holds the segment's lock and has seen that nobody is entered. */
  register(rank: number, who: ProcessIdentity): void {
    const at = this.flagIndex(rank) + IDENTITY;
    Atomics.store(this.words, at + 1, who.startTime);
    Atomics.store(this.words, at + 2, ATTACHED);
    Atomics.store(this.words, at, who.pid);
  }

  /** Counts this rank as attached; returns how many are now. */
  attach(): number {
    return Atomics.add(this.words, 2, 1) + 1;
  }

  /** How many have attached. */
  get attached(): number {
    return Atomics.load(this.words, 2);
  }

  /** Who `rank` is; undefined until it has registered. */
  identity(rank: number): ProcessIdentity | undefined {
    const at = this.flagIndex(rank) + IDENTITY;
    const pid = Atomics.load(this.words, at);
    return pid === 0 ? undefined : { pid, startTime: Atomics.load(this.words, at + 1) };
  }

  /** Where `rank` is in its life: `ABSENT`, `ATTACHED`, `LEFT`. */
  presence(rank: number): number {
    return Atomics.load(this.words, this.flagIndex(rank) + IDENTITY + 2);
  }

  /** Notes that `rank` closed its communicator. */
  leave(rank: number): void {
    Atomics.store(this.words, this.flagIndex(rank) + IDENTITY + 2, LEFT);
  }

  /** Writes what `rank` does as its operation `seq`; the record of the one before stays readable. */
  record(rank: number, seq: number, op: OperationCode): void {
    const words = this.words, at = this.flagIndex(rank) + RECORD + (seq & 1) * RECORD_WORDS;
    words[at + 1] = op.verb;
    words[at + 2] = op.dtype;
    words[at + 3] = op.reduceOp;
    words[at + 4] = op.root;
    words[at + 5] = op.countLow;
    words[at + 6] = op.countHigh;
    const counts = op.counts;
    words[at + COUNTS] = counts === undefined ? 0 : counts.length;
    if (counts !== undefined) {
      words[at + COUNTS + 1] = counts.hash;
      counts.first.forEach((count, i) => words[at + COUNTS + 2 + i] = count);
    }
    Atomics.store(words, at, seq);
  }

  /** The last operation that `rank` recorded; undefined before its first. */
  lastRecord(rank: number): OperationRecord | undefined {
    const [a, b] = [this.#read(rank, 0), this.#read(rank, 1)];
    const last = ((a.seq - b.seq) | 0) > 0 ? a : b;
    return last.seq === 0 ? undefined : last;
  }

  /** The record of operation `seq` of `rank`, if it is still there. */
  recordOf(rank: number, seq: number): OperationRecord | undefined {
    const found = this.#read(rank, seq & 1);
    return found.seq === seq ? found : undefined;
  }

  #read(rank: number, parity: number): OperationRecord {
    const words = this.words, at = this.flagIndex(rank) + RECORD + parity * RECORD_WORDS;
    return {
      seq: Atomics.load(words, at),
      verb: WORDS[words[at + 1]!] ?? "?",
      dtype: (WORDS[words[at + 2]!] || undefined) as DType | undefined,
      reduceOp: WORDS[words[at + 3]!] || undefined,
      root: words[at + 4]!,
      count: words[at + 6]! * 2 ** 32 + (words[at + 5]! >>> 0),
      counts: this.#readCounts(at + COUNTS),
    };
  }

  #readCounts(at: number): CountList | undefined {
    const words = this.words, length = words[at]!;
    if (length === 0) return undefined;
    const first = Array.from({ length: Math.min(length, COUNTS_HELD) }, (_, i) => words[at + 2 + i]! >>> 0);
    return { length, hash: words[at + 1]!, first };
  }

  /** Stops the group; the first caller's reason stays. `reason`: what the others are told, if this rank is the culprit. */
  abort(kind: AbortKind, culprit: number, reason?: { readonly rank: number; readonly text: string }): void {
    const words = this.words;
    // Every rank has a place of its own for its reason, written before anybody can ask for it.
    if (reason !== undefined && this.aborted === undefined) {
      const bytes = this.#reasonOf(reason.rank);
      bytes[0] = new TextEncoder().encodeInto(reason.text, bytes.subarray(1)).written;
    }
    // The culprit first: whoever sees the kind must find it. Packed in one word, so that two callers cannot mix.
    Atomics.compareExchange(words, 3, 0, (ABORT_KINDS.indexOf(kind) << 24) | (culprit & 0xffffff));
  }

  /** Why the group stopped; undefined while it has not. */
  get aborted(): { readonly kind: AbortKind; readonly culprit: number } | undefined {
    const packed = Atomics.load(this.words, 3);
    if (packed === 0) return undefined;
    return { kind: ABORT_KINDS[packed >> 24] as AbortKind, culprit: packed & 0xffffff };
  }

  /** What `rank` said when it stopped the group, as far as there was room; empty if it said nothing. */
  reason(rank: number): string {
    const bytes = this.#reasonOf(rank);
    return new TextDecoder().decode(bytes.slice(1, 1 + bytes[0]!));
  }

  #reasonOf(rank: number): Uint8Array {
    const { buffer, byteOffset } = this.words, at = (RANKS + this.size * RANK_WORDS) * 4 + rank * REASON_BYTES;
    return new Uint8Array(buffer, byteOffset + at, REASON_BYTES);
  }

  /** Whether somebody stopped the group; cheaper than asking why. */
  get stopped(): boolean {
    return Atomics.load(this.words, 3) !== 0;
  }

  /** Index of the abort word, for waits that look at it in passing. */
  get abortIndex(): number {
    return 3;
  }

  /** Takes the making of chunk `index`: true for exactly one caller. */
  claimChunk(index: number): boolean {
    return Atomics.compareExchange(this.words, chunkAt(index), CHUNK_NONE, CHUNK_BEING_MADE) === CHUNK_NONE;
  }

  /** Tells where chunk `index` is: descriptor `fd` of process `pid`. */
  publishChunk(index: number, chunk: { pid: number; fd: number; pages: number }): void {
    const at = chunkAt(index);
    Atomics.store(this.words, at + 1, chunk.pid);
    Atomics.store(this.words, at + 2, chunk.fd);
    Atomics.store(this.words, at + 3, chunk.pages);
    Atomics.store(this.words, at, CHUNK_READY);
  }

  /** Tells that chunk `index` cannot be made. */
  failChunk(index: number): void {
    Atomics.store(this.words, chunkAt(index), CHUNK_FAILED);
  }

  /** What is known of chunk `index`. */
  chunk(index: number): { readonly state: number; readonly pid: number; readonly fd: number; readonly pages: number } {
    const at = chunkAt(index), load = (i: number) => Atomics.load(this.words, at + i);
    return { state: load(0), pid: load(1), fd: load(2), pages: load(3) };
  }
}

/** `allReduce sum f32[1024] root 0`, as messages print it. */
export function describeRecord(op: OperationRecord | undefined): string {
  return op === undefined ? "no collective yet" : `${describeOperation(op)} seq ${op.seq}`;
}

/** The same without its number. */
export function describeOperation(op: Operation): string {
  const type = op.dtype === undefined ? "" : ` ${op.dtype}${op.count >= 0 ? `[${op.count}]` : ""}`;
  // A scan has no root; what stands there says whether it is exclusive.
  const verb = op.verb === "scan" && op.root === 1 ? "exclusive scan" : op.verb;
  const root = op.root >= 0 && op.verb !== "scan" ? ` root ${op.root}` : "";
  return `${verb}${op.reduceOp ? ` ${op.reduceOp}` : ""}${type}${describeCounts(op.counts)}${root}`;
}

/** ` in blocks of 1, 2`; of lists that are too long for a record, a number that tells them apart. */
function describeCounts(counts: CountList | undefined): string {
  if (counts === undefined) return "";
  const { first, length, hash } = counts;
  const rest = length > first.length ? `, … (${length} counts, hash ${(hash >>> 0).toString(16)})` : "";
  return ` in blocks of ${first.join(", ")}${rest}`;
}

/** An operation in numbers, made once per kind of call by {@linkcode encodeOperation}. */
export interface OperationCode {
  readonly verb: number;
  readonly dtype: number;
  readonly reduceOp: number;
  readonly root: number;
  readonly countLow: number;
  readonly countHigh: number;
  readonly counts: CountList | undefined;
  /** 32 bits that differ, but for one chance in four billion, where two operations do. */
  readonly hash: number;
}

/** What an operation consists of, apart from its place in the sequence. */
export type Operation = Omit<OperationRecord, "seq">;

/** `counts` as records hold them; nothing where all are the same, which the number of elements says already. */
export function countList(counts: readonly number[] | undefined): CountList | undefined {
  if (counts === undefined || counts.every((count) => count === counts[0])) return undefined;
  return { length: counts.length, hash: hashOf(counts), first: counts.slice(0, COUNTS_HELD) };
}

/** `op` in numbers. */
export function encodeOperation(op: Operation): OperationCode {
  const verb = code(op.verb), dtype = code(op.dtype ?? ""), reduceOp = code(op.reduceOp ?? "");
  const countLow = op.count | 0, countHigh = Math.floor(op.count / 2 ** 32);
  const hash = hashOf([verb, dtype, reduceOp, op.root, countLow, countHigh, op.counts?.hash ?? 0]);
  return { verb, dtype, reduceOp, root: op.root, countLow, countHigh, counts: op.counts, hash };
}

function hashOf(numbers: readonly number[]): number {
  let hash = 0x811c9dc5;
  for (const number of numbers) {
    hash = Math.imul(hash ^ number, 0x01000193);
    hash ^= hash >>> 15;
  }
  return hash;
}

/** What `op` was made of. */
export function decodeOperation(op: OperationCode): Operation {
  return {
    verb: WORDS[op.verb]!,
    dtype: (WORDS[op.dtype] || undefined) as DType | undefined,
    reduceOp: WORDS[op.reduceOp] || undefined,
    root: op.root,
    count: op.countHigh * 2 ** 32 + (op.countLow >>> 0),
    counts: op.counts,
  };
}

/** The fingerprint of `op` as number `seq` of its group. */
export function fingerprint(seq: number, op: OperationCode): number {
  return Math.imul(seq, 0x9e3779b1) ^ op.hash;
}

function chunkAt(index: number): number {
  return CHUNKS + index * CHUNK_WORDS;
}

function code(word: string): number {
  const found = CODES.get(word);
  if (found === undefined) throw new Error(`Cannot record the operation "${word}": it has no code`);
  return found;
}
