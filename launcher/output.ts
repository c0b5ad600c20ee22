/** The ranks' output: cut into whole lines, prefixed, queued to the launcher's own streams, and remembered for the report. */
import type { OutputTarget } from "./config.ts";

/** How many bytes may wait for a slow reader before the ranks are slowed down. */
const QUEUE_LIMIT = 1 << 20;
/** Bytes beyond these are dropped: those of ranks that are being ended, and whose output nobody reads. */
const MOST_QUEUED = 64 << 20;
/** A line longer than this is forwarded in pieces, so that memory stays bounded. */
const LINE_LIMIT = 1 << 20;
const NEWLINE = 10;
const encoder = new TextEncoder();

/** Writes to one of the launcher's streams in order, several waiting chunks at a time. A stream that nobody reads swallows the rest. */
export class OutputSink {
  readonly #target: OutputTarget;
  readonly #onBroken: () => void;
  #queue: Uint8Array[] = [];
  #bytes = 0;
  #writing: Promise<void> | undefined;
  #broken = false;

  /** `onBroken` is called once, when the reader is found to have gone. */
  constructor(target: OutputTarget, onBroken: () => void = () => {}) {
    this.#target = target;
    this.#onBroken = onBroken;
  }

  /** Whether the reader has gone. */
  get broken(): boolean {
    return this.#broken;
  }

  /** Queues `bytes`; the promise, if any, resolves when the reader has caught up. */
  write(bytes: Uint8Array): Promise<void> | undefined {
    if (this.#broken || bytes.length === 0 || this.#bytes > MOST_QUEUED) return undefined;
    this.#queue.push(bytes);
    this.#bytes += bytes.length;
    this.#writing ??= this.#flush();
    return this.#bytes > QUEUE_LIMIT ? this.#writing : undefined;
  }

  /** Queues a line of text. */
  line(text: string): void {
    void this.write(encoder.encode(text + "\n"));
  }

  /** Resolves when all is written, or after `timeoutMs`. */
  async drain(timeoutMs: number): Promise<void> {
    if (this.#writing === undefined) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, timeoutMs);
    await Promise.race([this.#writing, promise]);
    clearTimeout(timer);
  }

  async #flush(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        const bytes = concat(this.#queue);
        this.#queue = [];
        for (let at = 0; at < bytes.length;) at += await this.#target.write(bytes.subarray(at));
        this.#bytes -= bytes.length;
      }
    } catch {
      // A closed pipe: nobody wants the output, but the job's work may still matter.
      this.#broken = true;
      this.#queue = [];
      this.#onBroken();
    } finally {
      this.#writing = undefined;
    }
  }
}

/** Turns the chunks of one stream of one rank into whole lines with a prefix. Bytes are never decoded. */
export class LinePrefixer {
  readonly #prefix: () => Uint8Array;
  #carry: Uint8Array[] = [];
  #carried = 0;

  constructor(prefix: () => Uint8Array) {
    this.#prefix = prefix;
  }

  /** The lines that `chunk` completes, with prefixes; empty if it completes none. */
  push(chunk: Uint8Array): Uint8Array {
    const last = chunk.lastIndexOf(NEWLINE);
    if (last < 0) {
      this.#carry.push(chunk);
      this.#carried += chunk.length;
      return this.#carried > LINE_LIMIT ? this.#cut(" [line continues]\n") : new Uint8Array(0);
    }
    const prefix = this.#prefix();
    const parts: Uint8Array[] = [prefix, ...this.#carry];
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, start) + 1;
      parts.push(chunk.subarray(start, end));
      start = end;
      if (start > last) break;
      parts.push(prefix);
    }
    this.#carry = start < chunk.length ? [chunk.subarray(start)] : [];
    this.#carried = chunk.length - start;
    return concat(parts);
  }

  /** The unterminated rest, with a mark. */
  end(): Uint8Array {
    return this.#carried === 0 ? new Uint8Array(0) : this.#cut(" [no newline]\n");
  }

  #cut(mark: string): Uint8Array {
    const line = concat([this.#prefix(), ...this.#carry, encoder.encode(mark)]);
    this.#carry = [];
    this.#carried = 0;
    return line;
  }
}

/** The last bytes of a stream, for the report. */
export class Tail {
  readonly #limit: number;
  #chunks: Uint8Array[] = [];
  #bytes = 0;

  constructor(limit = 16 * 1024) {
    this.#limit = limit;
  }

  push(chunk: Uint8Array): void {
    const kept = chunk.length > this.#limit ? chunk.subarray(-this.#limit) : chunk;
    this.#chunks.push(kept);
    this.#bytes += kept.length;
    while (this.#bytes - this.#chunks[0]!.length >= this.#limit) this.#bytes -= this.#chunks.shift()!.length;
  }

  /** The last `count` lines, without control characters that could garble a terminal. */
  lines(count: number): string[] {
    const text = new TextDecoder().decode(concat(this.#chunks));
    // deno-lint-ignore no-control-regex
    const clean = text.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "").replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "");
    return clean.split("\n").map((line) => line.trimEnd()).filter((line) => line !== "").slice(-count);
  }
}

/** All of `parts` in one array; the part itself if there is only one. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  let length = 0;
  for (const part of parts) length += part.length;
  const all = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
