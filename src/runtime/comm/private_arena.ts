/** Memory of engines whose ranks share none: each rank has its own, and cannot read the others'. */
import { type ArenaMark, requireRoom, type SymmetricArena, type SymmetricBuffer } from "./arena.ts";
import { CommunicatorError } from "./errors.ts";

/** Plain memory; a mark is how many buffers there are. */
export class PrivateArena implements SymmetricArena {
  #rank: number;
  #backend: string;
  #buffers: SymmetricBuffer[] = [];

  /** `backend`: what joins the ranks, for messages. */
  constructor(rank: number, backend: string) {
    this.#rank = rank;
    this.#backend = backend;
  }

  get partBytes(): number {
    return this.#buffers.reduce((sum, buffer) => sum + buffer.byteLength, 0);
  }

  /** Takes memory of which `peer` gives this rank's own. @throws {CommunicatorError} If the host has no more; from `peer`, for any other rank. */
  alloc(bytes: number): SymmetricBuffer {
    requireRoom(bytes, 1);
    const local = new Uint8Array(bytes);
    const peer = (rank: number) => {
      if (rank === this.#rank) return local;
      throw new CommunicatorError(`Cannot read the memory of rank ${rank}: ${this.#backend} joins the ranks`, {
        hint: "send it, or run all ranks on one host and use the backend shm",
      });
    };
    const buffer = { byteLength: bytes, local, peer, memory: undefined };
    this.#buffers.push(buffer);
    return buffer;
  }

  mark(): ArenaMark {
    return { chunk: 0, used: this.#buffers.length };
  }

  reset(mark: ArenaMark): void {
    this.#buffers.length = mark.used;
  }

  [Symbol.dispose](): void {
    this.#buffers = [];
  }
}
