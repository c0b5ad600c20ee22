/** What is said to the whole job when it is aborted: by a node whose rank failed, or by a rank that asks for the end. Pure. */
import type { RankOutcome } from "./outcome.ts";
import { explain } from "./outcome.ts";

/** Who failed and why, short enough to be pushed to every client. */
export interface AbortNotice {
  readonly message: string;
  /** The job's exit code. */
  readonly code: number;
  readonly rank?: number;
  readonly host?: string;
  readonly details?: readonly string[];
  readonly hint?: string;
  /** The message is a clean error of the user's. */
  readonly user?: boolean;
  /** Nothing failed: a user or a time limit ended the job. */
  readonly stopped?: boolean;
}

const LONGEST = 2000;

/** The notice of a rank's failure; `code` is the job's exit code for it. */
export function noticeOf(cause: RankOutcome, code: number): AbortNotice {
  const why = explain(cause);
  return {
    message: (cause.record?.kind === "user" ? cause.record.message : why.headline).slice(0, LONGEST),
    code,
    rank: cause.rank,
    host: cause.host,
    details: why.details,
    ...(why.hint === undefined ? {} : { hint: why.hint }),
    ...(cause.record?.kind === "user" ? { user: true } : {}),
  };
}

/** A notice from a client's text. Anything but a well-formed notice is taken as the message of one. */
export function parseAbort(text: string): AbortNotice {
  try {
    const found = JSON.parse(text) as Record<string, unknown>;
    const code = Number.isInteger(found.code) && (found.code as number) > 0 && (found.code as number) < 256
      ? found.code as number
      : 1;
    if (typeof found.message !== "string") return { message: text.slice(0, LONGEST), code };
    const details = Array.isArray(found.details) ? found.details.filter((d) => typeof d === "string").slice(0, 10) : [];
    return {
      message: found.message.slice(0, LONGEST),
      code,
      details,
      ...(Number.isInteger(found.rank) ? { rank: found.rank as number } : {}),
      ...(typeof found.host === "string" ? { host: found.host.slice(0, 200) } : {}),
      ...(typeof found.hint === "string" ? { hint: found.hint.slice(0, LONGEST) } : {}),
      ...(found.user === true ? { user: true } : {}),
      ...(found.stopped === true ? { stopped: true } : {}),
    };
  } catch {
    return { message: text.slice(0, LONGEST), code: 1 };
  }
}
