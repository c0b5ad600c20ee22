/**
 * A symmetric arena: memory of which every rank of a group has an equal part, in which every rank can read all parts.
 *
 * All ranks allocate and reset in the same order with the same sizes; so a buffer lies at the same offset in every rank's
 * part, and `peer(r)` is known without asking. The arena grows by chunks (shared files that hold one part per rank), which
 * the first rank that needs one makes and the others open; nobody waits for a slower rank. Pages take memory when they are
 * touched, not when they are allocated.
 *
 * The bytes are the caller's to synchronise: write `local`, meet at a barrier, read `peer(r)`, and write again only when
 * another barrier has shown that all have read.
 */
import type { FileDescriptor, Libc } from "../../ffi/libc.ts";
import { printBytes } from "../../plan/units.ts";
import type { AddressWindow, MappedRange } from "./address_window.ts";
import { CHUNK_BEING_MADE, CHUNK_FAILED, CHUNK_NONE, type ControlBlock, MAX_CHUNKS } from "./control_block.ts";
import { InputError } from "../../core/errors.ts";
import { CollectiveMismatch, CommunicatorError } from "./errors.ts";
import { makeAnonymousSegment, openAnonymousSegment } from "./shared_segment.ts";

/** Buffers start at multiples of this many bytes. */
export const ARENA_ALIGNMENT = 64;
const FIRST_CHUNK_BYTES = 1 << 20;
const PAGE = 4096;

/** Equal buffers of all ranks, at the same offset of each rank's part. */
export interface SymmetricBuffer {
  /** Bytes of one rank's buffer. */
  readonly byteLength: number;
  /** This rank's buffer, 64-byte aligned; the view is the same object at every call. */
  readonly local: Uint8Array<ArrayBuffer>;
  /** The buffer of `rank`, a rank of the group; for reading, between barriers. */
  peer(rank: number): Uint8Array<ArrayBuffer>;
  /** The WebAssembly memory that holds all of them, and a rank's address there; undefined where they are outside. */
  readonly memory: WebAssembly.Memory | undefined;
}

/** A point to which {@linkcode Arena.reset} returns. */
export interface ArenaMark {
  /** Number of the chunk. */
  readonly chunk: number;
  /** Bytes of it that are taken. */
  readonly used: number;
}

/** Memory of which each rank of a group has an equal part. */
export interface SymmetricArena extends Disposable {
  /** Bytes that each rank's part holds, used or not. */
  readonly partBytes: number;
  /**
   * Takes `bytes` in every rank's part; all ranks call it in the same order with the same `bytes`. The bytes are zero where
   * they were never used before.
   *
   * @throws {CollectiveMismatch} If another rank asked for another size. @throws {CommunicatorError} If the host has no more.
   */
  alloc(bytes: number): SymmetricBuffer;
  /** The present fill. */
  mark(): ArenaMark;
  /** Gives back all that was allocated since `mark`; all ranks do it at the same point of their order. Chunks stay mapped. */
  reset(mark: ArenaMark): void;
}

/** What an arena stands on. */
export interface ArenaOptions {
  readonly libc: Libc;
  readonly window: AddressWindow;
  readonly control: ControlBlock;
  readonly rank: number;
  /** For the files' names, as tools show them. */
  readonly label: string;
  /** Entries of the control block's table that are this arena's: from `first` on, `count` of them. */
  readonly chunks: { readonly first: number; readonly count: number };
  /** What to do while another rank makes a chunk: throws when there is no hope. */
  readonly check: () => void;
}

interface Chunk {
  readonly range: MappedRange;
  readonly partBytes: number;
  /** Open in the rank that made it, for those who come later. */
  readonly file: FileDescriptor | undefined;
}

/** This rank's view of the arena. */
export class Arena implements SymmetricArena {
  #o: ArenaOptions;
  #chunks: Chunk[] = [];
  #current = 0;
  #used = 0;

  constructor(options: ArenaOptions) {
    this.#o = options;
  }

  get partBytes(): number {
    return this.#chunks.reduce((sum, chunk) => sum + chunk.partBytes, 0);
  }

  alloc(bytes: number): SymmetricBuffer {
    requireRoom(bytes, this.#o.control.size);
    const need = Math.max(ARENA_ALIGNMENT, Math.ceil(bytes / ARENA_ALIGNMENT) * ARENA_ALIGNMENT);
    while (this.#current < this.#chunks.length && this.#used + need > this.#chunks[this.#current]!.partBytes) {
      this.#current++;
      this.#used = 0;
    }
    if (this.#current === this.#chunks.length) this.#grow(need);
    const chunk = this.#chunks[this.#current]!, offset = this.#used;
    this.#used += need;
    return new ArenaBuffer(chunk, { rank: this.#o.rank, size: this.#o.control.size, offset, bytes });
  }

  mark(): ArenaMark {
    return { chunk: this.#current, used: this.#used };
  }

  reset(mark: ArenaMark): void {
    this.#current = mark.chunk;
    this.#used = mark.used;
  }

  [Symbol.dispose](): void {
    for (const chunk of this.#chunks) {
      chunk.range[Symbol.dispose]();
      chunk.file?.[Symbol.dispose]();
    }
    this.#chunks = [];
    this.#current = this.#used = 0;
  }

  #grow(need: number): void {
    const { control, chunks, libc, window, label } = this.#o;
    const index = this.#chunks.length;
    if (index >= chunks.count) {
      throw new CommunicatorError(`Cannot grow the shared arena: it has grown ${index} times already`, {
        hint: "allocate the largest shapes first, or reset to a mark between runs",
      });
    }
    const partBytes = Math.ceil(Math.max(need, FIRST_CHUNK_BYTES, this.partBytes) / PAGE) * PAGE;
    const entry = chunks.first + index, bytes = partBytes * control.size;
    let file: FileDescriptor | undefined;
    if (control.claimChunk(entry)) {
      try {
        file = makeAnonymousSegment(libc, `shardwise-${label}-${index}`, bytes);
        const range = window.map(file, bytes);
        control.publishChunk(entry, { pid: Deno.pid, fd: file.fd, pages: partBytes / PAGE });
        this.#chunks.push({ range, partBytes, file });
      } catch (error) {
        control.failChunk(entry);
        file?.[Symbol.dispose]();
        throw error;
      }
      return;
    }
    const found = this.#awaitChunk(entry);
    if (found.pages * PAGE !== partBytes) {
      throw new CollectiveMismatch(
        `Cannot grow the shared arena: this rank needs ${partBytes} bytes, but the rank of pid ${found.pid} made ${
          found.pages * PAGE
        }`,
        { hint: "allocate the same sizes in the same order on all ranks" },
      );
    }
    using opened = this.#openChunk(found);
    this.#chunks.push({ range: window.map(opened, bytes), partBytes, file: undefined });
  }

  #openChunk(chunk: { pid: number; fd: number }): FileDescriptor {
    try {
      return openAnonymousSegment(this.#o.libc, chunk.pid, chunk.fd);
    } catch (error) {
      this.#o.check(); // says so if that rank is gone
      throw new CommunicatorError(`Cannot open the shared memory of process ${chunk.pid}`, {
        hint: "run all ranks as one user and in one pid namespace, with /proc mounted",
        cause: error,
      });
    }
  }

  /** Making a chunk takes microseconds, so sleeping short is enough. */
  #awaitChunk(entry: number): { pid: number; fd: number; pages: number } {
    const { control, libc, check } = this.#o;
    const nap = new Int32Array(1);
    for (let round = 0;; round++) {
      const chunk = control.chunk(entry);
      if (chunk.state === CHUNK_FAILED) {
        throw new CommunicatorError("Cannot grow the shared arena: another rank could not make the shared file");
      }
      if (chunk.state !== CHUNK_BEING_MADE && chunk.state !== CHUNK_NONE) return chunk;
      if (round > 100) libc.futexWait(nap, 0, 1);
      if (round % 100 === 99) check();
    }
  }
}

/** Entries for the communicator's own staging memory and its messages, and for the public arena. */
export const STAGING_CHUNKS = { first: 0, count: 3 } as const;
export const MESSAGE_CHUNKS = { first: 3, count: 1 } as const;
export const ARENA_CHUNKS = { first: 4, count: MAX_CHUNKS - 4 } as const;

/**
 * The kernel promises any amount, and ends the process that touches a page too many; so what no host could hold is refused here, on
 * all ranks alike.
 *
 * @throws {InputError} Unless `bytes` is an amount. @throws {CommunicatorError} If `ranks` times as much is more than the host has.
 */
export function requireRoom(bytes: number, ranks: number): void {
  if (Number.isNaN(bytes) || bytes < 0) throw new InputError(`Cannot allocate ${bytes} bytes of shared memory`);
  const { total } = Deno.systemMemoryInfo(), need = bytes * ranks;
  if (need <= total) return;
  const each = ranks === 1 ? "" : ` on each of ${ranks} ranks (${printBytes(need)})`;
  throw new CommunicatorError(
    `Cannot allocate ${printBytes(bytes)}${each}: this host has ${printBytes(total)} of memory`,
    {
      hint: "allocate less, or run on more hosts",
    },
  );
}

class ArenaBuffer implements SymmetricBuffer {
  readonly byteLength: number;
  readonly local: Uint8Array<ArrayBuffer>;
  readonly memory: WebAssembly.Memory | undefined;
  #views: Uint8Array<ArrayBuffer>[];

  constructor(chunk: Chunk, o: { rank: number; size: number; offset: number; bytes: number }) {
    const { range, partBytes } = chunk;
    this.byteLength = o.bytes;
    this.memory = range.memory;
    this.#views = Array.from(
      { length: o.size },
      (_, r) => new Uint8Array(range.buffer, range.byteOffset + r * partBytes + o.offset, o.bytes),
    );
    this.local = this.#views[o.rank]!;
  }

  peer(rank: number): Uint8Array<ArrayBuffer> {
    const view = this.#views[rank];
    if (view === undefined) {
      throw new RangeError(`Cannot use ${rank} as a rank: expected 0 to ${this.#views.length - 1}`);
    }
    return view;
  }
}
