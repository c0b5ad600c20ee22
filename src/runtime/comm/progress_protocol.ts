/** What a communicator and its progress thread tell each other: jobs by message, what became of them by shared words. */
import type { CommDType, ReduceOp } from "./buffers.ts";
import * as errors from "./errors.ts";

/** How the thread joins its group. */
export interface ProgressStart {
  readonly kind: "start";
  readonly runId: string;
  readonly name: string;
  readonly rank: number;
  readonly ranks: readonly number[];
  readonly localRank: number;
  readonly localWorldSize: number;
  readonly cores: number;
  readonly timeoutMs: number;
  readonly directory: string | undefined;
  /** Words, see {@linkcode PROGRESS_WORDS}, then the text of an error. */
  readonly shared: SharedArrayBuffer;
}

/** One all-reduce; buffers by address, since threads of a process see the same memory. */
export interface ProgressJob {
  readonly kind: "job";
  readonly send: bigint;
  readonly recv: bigint;
  readonly bytes: number;
  readonly dtype: CommDType;
  readonly op: ReduceOp;
  readonly timeoutMs: number;
}

/** What the thread is told. */
export type ProgressMessage = ProgressStart | ProgressJob | { readonly kind: "leave" };

/**
 * Words of the shared memory: jobs done; bytes of the error's text, 0 while there is none; whether the communicator gave up,
 * which a thread that is blocked can hear of by no message.
 */
export const DONE = 0, ERROR_BYTES = 1, GIVEN_UP = 2, PROGRESS_WORDS = 3;
/** Bytes of the shared memory. */
export const SHARED_BYTES = PROGRESS_WORDS * 4 + 16384;

/** `error` as text that {@linkcode reviveError} reads. */
export function errorText(error: unknown): string {
  const { name, message, hint, rank, missing, lastCollective } = error as errors.PeerLost & errors.CollectiveTimeout;
  return JSON.stringify({ name, message: `${message}`.slice(0, 8000), hint, rank, missing, lastCollective });
}

/** The error that `text` tells of, of its own class. */
export function reviveError(text: string): errors.CommunicatorError {
  const { name, message, hint, rank, missing, lastCollective } = JSON.parse(text);
  const details = hint === undefined ? {} : { hint };
  const error = make();
  error.lastCollective = lastCollective;
  return error;

  function make(): errors.CommunicatorError {
    switch (name) {
      case "CollectiveMismatch":
        return new errors.CollectiveMismatch(message, details);
      case "CollectiveTimeout":
        return new errors.CollectiveTimeout(message, missing, details);
      case "PeerLost":
        return new errors.PeerLost(message, rank, details);
      case "CollectiveAborted":
        return new errors.CollectiveAborted(message, rank, details);
      case "RendezvousError":
        return new errors.RendezvousError(message, details);
      default:
        return new errors.CommunicatorError(`A background collective failed: ${name}: ${message}`, details);
    }
  }
}
