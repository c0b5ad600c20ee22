/** One line on a terminal that says how far the loading of a model is, and is gone when it is done. */
import type { OnProgress } from "../core/progress.ts";

/** Where the line is written, and what time it is. */
export interface ProgressIo {
  /** Writes text as it is. */
  readonly write: (text: string) => void;
  /** ms. */
  readonly now: () => number;
}

/** Between two updates of the same phase, in ms: a terminal is slower than small segments. */
const CALM_MS = 50;
/** To the line's start, and nothing after it. */
const CLEAR = "\r\x1b[K";

/** The line. Disposing it removes it; results and errors come after that. */
export class ProgressLine implements Disposable {
  readonly #io: ProgressIo | undefined;
  #phase: string | undefined;
  #shownAt = 0;

  /** Without `io` nothing is shown. */
  constructor(io: ProgressIo | undefined) {
    this.#io = io;
  }

  /** What loading calls. */
  readonly onProgress: OnProgress = (phase, done, total) => {
    if (this.#io === undefined) return;
    const now = this.#io.now();
    if (phase === this.#phase && done !== total && now - this.#shownAt < CALM_MS) return;
    this.#phase = phase;
    this.#shownAt = now;
    this.#io.write(`${CLEAR}${total === undefined ? `${phase}…` : `${phase} ${done}/${total}`}`);
  };

  /** Removes the line, if one is shown. */
  [Symbol.dispose](): void {
    if (this.#phase !== undefined) this.#io?.write(CLEAR);
    this.#phase = undefined;
  }
}

/**
 * The line of this rank: shown by rank 0 only, and only if the launcher says that its stderr is a terminal.
 *
 * @example
 * ```ts ignore
 * using line = progressLine(comm);
 * await using model = await parallelizeModel("model.onnx", { comm, onProgress: line.onProgress });
 * ```
 */
export function progressLine(comm: { readonly rank: number }): ProgressLine {
  const watched = comm.rank === 0 && Deno.env.get("SHARDWISE_STDERR_TTY") === "1" && Deno.env.get("TERM") !== "dumb";
  const encoder = new TextEncoder();
  return new ProgressLine(
    watched
      ? { write: (text) => void Deno.stderr.writeSync(encoder.encode(text)), now: () => performance.now() }
      : undefined,
  );
}
