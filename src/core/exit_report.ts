/**
 * How a rank tells its launcher why it ends: an error file, whose path the launcher passes as SHARDWISE_ERROR_FILE, and an exit
 * code. The launcher prints the first cause once; a rank that runs without a launcher prints it itself.
 */
import { describeError, ShardwiseError } from "./errors.ts";
import { EXIT, isUserErrorCode } from "./exit_codes.ts";

/** What an error file holds, as JSON. */
export interface ErrorRecord {
  /**
   * `exception`: thrown and not caught. `exit`: the program called `Deno.exit`. `user`: a clean error of the user's, without a stack.
   * `victim`: this rank ends because another was lost. `collective`: a collective timed out or did not match.
   */
  readonly kind: "exception" | "exit" | "user" | "victim" | "collective";
  readonly message: string;
  readonly name?: string;
  readonly stack?: string;
  readonly hint?: string;
  /** The rank that was lost, of a victim. */
  readonly lost?: number;
  /** The last collective of the rank and its state: `tp#allReduce seq 411 f16[4096] done`. */
  readonly lastCollective?: string;
  /** The exit code that goes with the record. */
  readonly code?: number;
  /** Wall clock, ms since 1970. */
  readonly time: number;
}

/** Writes `record` where the launcher looks for it; false without a launcher, or if the file cannot be written. */
export function writeErrorRecord(record: ErrorRecord): boolean {
  try {
    const path = Deno.env.get("SHARDWISE_ERROR_FILE");
    if (path === undefined || path === "") return false;
    Deno.writeTextFileSync(path, JSON.stringify(record));
    return true;
  } catch {
    // A full disk or a missing permission must not hide the error itself: the launcher then shows the end of stderr.
    return false;
  }
}

/**
 * Ends this rank with a clean error of the user's: a wrong file, option or input. The launcher prints `message` and `hint` once,
 * without a crash report, when all failing ranks report the same, and returns `code`.
 *
 * @param code In [2, 63].
 */
export function reportUserError(error: unknown, code = 2): never {
  const message = error instanceof Error ? describeError(withoutHint(error)) : String(error);
  const hint = error instanceof ShardwiseError ? error.hint : undefined;
  const end = isUserErrorCode(code) ? code : 2;
  leave({ kind: "user", message, ...(hint === undefined ? {} : { hint }), code: end, time: Date.now() }, end);
}

/** Ends this rank because rank `lost` is gone. The launcher does not take a victim for the cause. No collective may run after this. */
export function reportVictim(details: { lost?: number; message: string; lastCollective?: string }): never {
  leave({ kind: "victim", ...details, code: EXIT.victim, time: Date.now() }, EXIT.victim);
}

/** Ends this rank because a collective timed out or did not match; `message` names the missing ranks or the difference. */
export function reportCollectiveFailure(details: { message: string; hint?: string; lastCollective?: string }): never {
  leave({ kind: "collective", ...details, code: EXIT.collective, time: Date.now() }, EXIT.collective);
}

function leave(record: ErrorRecord, code: number): never {
  if (!writeErrorRecord(record)) {
    const lines = `error: ${record.message}\n${record.hint === undefined ? "" : `hint: ${record.hint}\n`}`;
    try {
      Deno.stderr.writeSync(new TextEncoder().encode(lines));
    } catch {
      // Nobody reads stderr any more.
    }
  }
  Deno.exit(code);
}

/** `error` for {@linkcode describeError} without its own hint, which goes into a field of its own. */
function withoutHint(error: Error): Error {
  return error instanceof ShardwiseError && error.hint !== undefined
    ? new Error(error.message, error.cause === undefined ? undefined : { cause: error.cause })
    : error;
}
