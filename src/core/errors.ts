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

/** The message, the causes' messages and the hint of `error`, each on a line of its own; what a command line prints. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const lines = [error.message];
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    lines.push(`  because: ${cause.message.split("\n")[0]}`);
  }
  if (error instanceof ShardwiseError && error.hint !== undefined) lines.push(`  hint: ${error.hint}`);
  return lines.join("\n");
}

/** Closes a `switch` over a union: does not compile while a case is missing. */
export function unreachable(value: never): never {
  throw new Error(`Unreachable case: ${JSON.stringify(value)}`);
}
