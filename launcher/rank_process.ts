/** One rank: its process, its process group, and its two streams. */
import type { ErrorRecord } from "../src/core/exit_report.ts";
import { Tail } from "./output.ts";
import { readText } from "./host.ts";

/** How a rank's process ended. */
export interface RankEnd {
  readonly code: number;
  readonly signal: string | null;
}

/** Takes the chunks of a rank's stream; a promise slows the rank down. The last call has `undefined`. */
export type ChunkTaker = (chunk: Uint8Array | undefined) => Promise<void> | undefined;

/** What it takes to start a rank. */
export interface RankStart {
  readonly rank: number;
  readonly localRank: number;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Record<string, string>;
  readonly errorFile: string;
  readonly stdin: "inherit" | "null";
  readonly stdout: ChunkTaker;
  readonly stderr: ChunkTaker;
}

/** How long a rank's streams may stay open and silent after its end: others may hold them. In ms. */
const LAST_WORDS = 1000;

/** A rank that runs or has run. It leads a process group of its own, so that its children can be ended with it. */
export class RankProcess {
  readonly rank: number;
  readonly localRank: number;
  readonly pid: number;
  readonly stderrTail = new Tail();
  readonly stdoutTail = new Tail(4096);
  /** Resolves when the process has ended. Its output may still be on the way. */
  readonly ended: Promise<RankEnd>;
  /** Resolves when the process has ended and all its output was taken. */
  readonly finished: Promise<void>;
  #running = true;
  readonly #errorFile: string;
  readonly #readers: ReadableStreamDefaultReader<Uint8Array>[] = [];
  /** Resolves when the rank no longer waits for whoever reads its output. */
  readonly #released = Promise.withResolvers<void>();
  #patient = true;
  /** Streams that wait for a reader. */
  #waiting = 0;

  /** Starts the process. @throws {Error} If it cannot be started. */
  constructor(start: RankStart) {
    this.rank = start.rank;
    this.localRank = start.localRank;
    this.#errorFile = start.errorFile;
    const child = new Deno.Command(start.command, {
      args: [...start.args],
      env: start.env,
      clearEnv: true,
      stdin: start.stdin,
      stdout: "piped",
      stderr: "piped",
      // A session and process group of its own: the terminal's Ctrl-C reaches the launcher only.
      detached: true,
    }).spawn();
    this.pid = child.pid;
    const streams = Promise.all([
      this.#pump(child.stdout, this.stdoutTail, start.stdout),
      this.#pump(child.stderr, this.stderrTail, start.stderr),
    ]);
    this.ended = child.status.then((status) => {
      this.#running = false;
      return { code: status.code, signal: status.signal };
    });
    this.finished = this.ended.then(() => this.#settle(streams));
  }

  /** Whether the process has not ended. */
  get running(): boolean {
    return this.#running;
  }

  /** Sends `signal` to the rank and all processes of its group. */
  signal(signal: Deno.Signal): void {
    try {
      Deno.kill(-this.pid, signal);
    } catch {
      // The group has ended.
    }
  }

  /** Lets the rank write on although nobody reads: a rank that is being ended must not wait for a reader that may never come. */
  release(): void {
    this.#patient = false;
    this.#released.resolve();
  }

  /** What the rank wrote about its end. */
  record(): ErrorRecord | undefined {
    const text = readText(this.#errorFile);
    if (text === undefined) return undefined;
    try {
      const record = JSON.parse(text) as ErrorRecord;
      return typeof record?.message === "string" && typeof record.kind === "string" ? record : undefined;
    } catch {
      return undefined;
    }
  }

  async #settle(streams: Promise<unknown>): Promise<void> {
    let open = true;
    const closed = streams.then(() => void (open = false));
    // A slow reader keeps the streams open too, and what it has not read yet shall not be lost.
    do await Promise.race([closed, after(LAST_WORDS)]); while (open && this.#waiting > 0 && this.#patient);
    this.#released.resolve();
    // Children of the rank that are still there: they have no job any more.
    this.signal("SIGKILL");
    for (const reader of this.#readers) reader.cancel().catch(() => {});
    await streams;
  }

  async #pump(stream: ReadableStream<Uint8Array>, tail: Tail, take: ChunkTaker): Promise<void> {
    const reader = stream.getReader();
    this.#readers.push(reader);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        tail.push(value);
        const slow = take(value);
        if (slow !== undefined && this.#patient) {
          this.#waiting++;
          await Promise.race([slow, this.#released.promise]);
          this.#waiting--;
        }
      }
    } catch {
      // The pipe broke; what came before it was taken.
    }
    void take(undefined);
  }
}

/** Resolves after `ms`, without keeping the process alive. */
function after(ms: number): Promise<void> {
  return new Promise((resolve) => Deno.unrefTimer(setTimeout(resolve, ms)));
}
