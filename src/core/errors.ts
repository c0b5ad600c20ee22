/**
 * The errors that Shardwise throws.
 *
 * Every message names the attempted action and the value that was found; `hint` says what the reader can do now. Wrap a
 * foreign error with `{ cause }`. A command line prints `message`, then `hint`; see {@linkcode describeError}.
 */

/** What an error may carry beside its message. */
export interface ErrorDetails {
  /** What the reader can do now, as a clause: `pass --tokenizer tokenizer.json`. */
  readonly hint?: string;
  /** The error that led to this one. */
  readonly cause?: unknown;
}

/** The base of all errors that name a problem of the user's input or of the job, not a bug in Shardwise. */
export class ShardwiseError extends Error {
  /** What the reader can do now. */
  readonly hint: string | undefined;

  /** An error that says what was attempted and what was found. */
  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.hint = details.hint;
  }
}

/** A file that is missing, malformed, truncated, or of a kind that we do not read. */
export class FormatError extends ShardwiseError {}

/** Shapes or dtypes of a graph that do not fit together. */
export class ShapeError extends ShardwiseError {}

/** A graph that breaks an invariant of the IR. */
export class GraphError extends ShardwiseError {}

/** An input that a caller gave by a wrong name, dtype or shape. */
export class InputError extends ShardwiseError {}

/** A plan that cannot be made or does not fit the graph. */
export class PlanError extends ShardwiseError {}

/** A command line that cannot be understood. */
export class UsageError extends ShardwiseError {}

/** Something that this machine or this engine does not have. */
export class UnavailableError extends ShardwiseError {}

/** An inference engine that refuses a model or fails on its inputs. */
export class EngineError extends ShardwiseError {}

/** What the system says of a file, without its number and call: `no such file or directory`. */
export function systemReason(error: unknown): string {
  const [line] = (error instanceof Error ? error.message : String(error)).split("\n");
  const [, text] = /^(.*) \(os error \d+\)/.exec(line!) ?? [];
  return text === undefined ? line! : text[0]!.toLowerCase() + text.slice(1);
}

/** The error for a file or folder that cannot be written. */
export function cannotWrite(path: string, cause: unknown): FormatError {
  return new FormatError(`Cannot write ${path}: ${systemReason(cause)}`, {
    hint: "name a place that can be written, with room for it",
    cause,
  });
}

/**
 * The message, the causes' messages and the hint of `error`, each on a line of its own; what a command line prints. A cause that
 * the message tells already is left out.
 */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const lines = [error.message];
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    const reason = systemReason(cause);
    if (!lines.some((line) => line.includes(reason))) lines.push(`  because: ${reason}`);
  }
  if (error instanceof ShardwiseError && error.hint !== undefined) lines.push(`  hint: ${error.hint}`);
  return lines.join("\n");
}

/** Closes a `switch` over a union: does not compile while a case is missing. */
export function unreachable(value: never): never {
  throw new Error(`Unreachable case: ${JSON.stringify(value)}`);
}
