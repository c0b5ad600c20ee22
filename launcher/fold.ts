/**
 * Shows a line that several ranks print once: the first rank's at once, and then `[rank 1-7] same 12 lines as rank 0`. N copies of one
 * warning hide the line that only one rank prints.
 */
import { rankRanges } from "./rank_ranges.ts";

/** How long after a line the same line of another rank counts as a copy, in ms. */
const COPY_MS = 5_000;
/** How long copies are counted before that is said, in ms. */
const SAY_MS = 300;
/** Lines that are remembered. */
const MOST_LINES = 2_000;
const NEWLINE = 10;

/** What a folder writes with. */
export interface FolderOptions {
  /** Takes whole lines; a promise slows the rank down. */
  readonly write: (bytes: Uint8Array) => Promise<void> | undefined;
  /** What stands before a line of these ranks: `3`, or `1-7`. */
  readonly prefix: (ranks: string) => Uint8Array;
}

interface Seen {
  readonly leader: number;
  readonly at: number;
  /** The ranks that have printed it since. */
  readonly ranks: Set<number>;
}

/** Folds the lines of one stream of all ranks. */
export class LineFolder {
  readonly #options: FolderOptions;
  /** Lines by their text, oldest first. */
  readonly #seen = new Map<string, Seen>();
  /** How many lines of a rank were copies of which rank's, and not said yet: by leader, then by rank. */
  readonly #copies = new Map<number, Map<number, number>>();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #open = 0;

  constructor(options: FolderOptions) {
    this.#options = options;
  }

  /** A rank's stream, which takes whole lines; undefined is its end. */
  stream(rank: number): (lines: Uint8Array | undefined) => Promise<void> | undefined {
    this.#open++;
    return (lines) => {
      if (lines !== undefined) return this.#push(rank, lines);
      // The last stream has nobody to wait for.
      if (--this.#open === 0) this.flush();
      return undefined;
    };
  }

  /** Says what was folded. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const [leader, counts] of this.#copies) {
      for (const count of new Set(counts.values())) {
        const ranks = [...counts].filter(([, n]) => n === count).map(([rank]) => rank);
        this.#say(rankRanges(ranks), `same ${count === 1 ? "line" : `${count} lines`} as rank ${leader}\n`);
      }
    }
    this.#copies.clear();
  }

  #push(rank: number, lines: Uint8Array): Promise<void> | undefined {
    let slow: Promise<void> | undefined;
    for (let start = 0; start < lines.length;) {
      const found = lines.indexOf(NEWLINE, start);
      const end = found < 0 ? lines.length : found + 1;
      const line = lines.subarray(start, end);
      start = end;
      if (this.#isCopy(rank, line)) continue;
      // What a rank prints after its copies comes after them.
      if ([...this.#copies.values()].some((counts) => counts.has(rank))) this.flush();
      slow = this.#say(String(rank), line) ?? slow;
    }
    return slow;
  }

  #isCopy(rank: number, line: Uint8Array): boolean {
    // One character a byte: a line need not be text.
    const key = String.fromCharCode.apply(null, [...line.subarray(0, 4096)]) + line.length;
    const now = performance.now(), seen = this.#seen.get(key);
    if (seen === undefined || seen.ranks.has(rank) || now - seen.at > COPY_MS) {
      this.#seen.delete(key);
      this.#seen.set(key, { leader: rank, at: now, ranks: new Set([rank]) });
      if (this.#seen.size > MOST_LINES) this.#seen.delete(this.#seen.keys().next().value!);
      return false;
    }
    seen.ranks.add(rank);
    const counts = this.#copies.get(seen.leader) ?? new Map<number, number>();
    this.#copies.set(seen.leader, counts.set(rank, (counts.get(rank) ?? 0) + 1));
    this.#timer ??= setTimeout(() => this.flush(), SAY_MS);
    return true;
  }

  #say(ranks: string, text: string | Uint8Array): Promise<void> | undefined {
    const prefix = this.#options.prefix(ranks);
    const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
    const all = new Uint8Array(prefix.length + bytes.length);
    all.set(prefix);
    all.set(bytes, prefix.length);
    return this.#options.write(all);
  }
}
