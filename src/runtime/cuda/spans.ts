/** Memory of one arena, given out and taken back in the order of the program: the lowest gap that is large enough. */
const ALIGNMENT = 256;

/** Which parts of an arena are in use. */
export class Spans {
  /** Gaps below the end, in order of their offset. */
  #gaps: { from: number; to: number }[] = [];
  #end = 0;
  #size = 0;

  /** Bytes that the arena must have. */
  get size(): number {
    return this.#size;
  }

  /** The offset of `bytes` of memory that nobody else has until it is given back. */
  take(bytes: number): number {
    const wanted = aligned(bytes);
    const index = this.#gaps.findIndex((g) => g.to - g.from >= wanted);
    if (index >= 0) {
      const gap = this.#gaps[index]!, from = gap.from;
      gap.from += wanted;
      if (gap.from === gap.to) this.#gaps.splice(index, 1);
      return from;
    }
    // The last gap may reach to the end and be too small.
    const last = this.#gaps.at(-1);
    const from = last && last.to === this.#end ? this.#gaps.pop()!.from : this.#end;
    this.#end = from + wanted;
    this.#size = Math.max(this.#size, this.#end);
    return from;
  }

  /** Gives back what `take` gave. */
  give(offset: number, bytes: number): void {
    const gap = { from: offset, to: offset + aligned(bytes) };
    const at = this.#gaps.findIndex((g) => g.from >= gap.to);
    const next = at < 0 ? undefined : this.#gaps[at], before = at < 0 ? this.#gaps.at(-1) : this.#gaps[at - 1];
    if (before && before.to === gap.from) {
      before.to = gap.to;
      if (next && next.from === before.to) {
        before.to = next.to;
        this.#gaps.splice(at, 1);
      }
    } else if (next && next.from === gap.to) next.from = gap.from;
    else this.#gaps.splice(at < 0 ? this.#gaps.length : at, 0, gap);
  }
}

function aligned(bytes: number): number {
  return Math.max(ALIGNMENT, Math.ceil(bytes / ALIGNMENT) * ALIGNMENT);
}
