/** The shared memory of one host, seen from a group of several hosts: peers are ranks of that group. */
import type { ArenaMark, SymmetricArena, SymmetricBuffer } from "../arena.ts";
import { CommunicatorError } from "../errors.ts";

/** Memory of each rank of a host. */
export class HostBuffer implements SymmetricBuffer {
  readonly byteLength: number;
  readonly local: Uint8Array<ArrayBuffer>;
  readonly memory: SymmetricBuffer["memory"];
  /** The same, as the host's own communicator knows it. */
  readonly inner: SymmetricBuffer;
  #here: readonly number[];

  /** `here`: the group's ranks on this host, in the order of the host's ranks. */
  constructor(inner: SymmetricBuffer, here: readonly number[]) {
    this.byteLength = inner.byteLength;
    this.local = inner.local;
    this.memory = inner.memory;
    this.inner = inner;
    this.#here = here;
  }

  /** @throws {CommunicatorError} If `rank` is on another host. */
  peer(rank: number): Uint8Array<ArrayBuffer> {
    const place = this.#here.indexOf(rank);
    if (place >= 0) return this.inner.peer(place);
    throw new CommunicatorError(`Cannot read the memory of rank ${rank}: it is on another host`, {
      hint: `send it; the ranks of this host are ${this.#here.join(", ")}`,
    });
  }
}

/** An arena of one host. */
export class HostArena implements SymmetricArena {
  #inner: SymmetricArena;
  #here: readonly number[];

  /** `here`: the group's ranks on this host, in the order of the host's ranks. */
  constructor(inner: SymmetricArena, here: readonly number[]) {
    this.#inner = inner;
    this.#here = here;
  }

  get partBytes(): number {
    return this.#inner.partBytes;
  }

  alloc(bytes: number): HostBuffer {
    return new HostBuffer(this.#inner.alloc(bytes), this.#here);
  }

  mark(): ArenaMark {
    return this.#inner.mark();
  }

  reset(mark: ArenaMark): void {
    this.#inner.reset(mark);
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }
}
