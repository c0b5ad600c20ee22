/** How ranks end, in words, and which end was the first cause. Pure. */
import { EXIT, signalExitCode } from "../src/core/exit_codes.ts";
import type { ErrorRecord } from "../src/core/exit_report.ts";

/** What a rank's end is to the job. */
export type OutcomeKind =
  /** Ended with 0. */
  | "done"
  /** Ended abnormally by itself. */
  | "failed"
  /** Ended because another rank was lost. */
  | "victim"
  /** Ended by the launcher's SIGTERM. */
  | "stopped"
  /** Ended by the launcher's SIGKILL. */
  | "killed";

/** The end of a rank. Times are ms since the job's start. */
export interface RankOutcome {
  readonly rank: number;
  readonly localRank: number;
  readonly host: string;
  readonly pid: number;
  readonly kind: OutcomeKind;
  /** The exit code, or 128 + the signal's number. */
  readonly code: number;
  readonly signal: string | null;
  readonly endedMs: number;
  readonly record: ErrorRecord | undefined;
  /** The last lines of stderr, or of stdout where stderr is empty. */
  readonly tail: readonly string[];
  readonly tailOf: "stderr" | "stdout";
}

/** One line on what happened, the stack or more lines, and what to do. */
export interface Explanation {
  readonly headline: string;
  readonly details: readonly string[];
  readonly hint: string | undefined;
}

/** Whether `outcome` may be the first cause of a failure. */
export function isFailure(outcome: RankOutcome): boolean {
  return outcome.kind === "failed";
}

/** The kind of an end that the launcher did not ask for. */
export function ownEnd(code: number, record: ErrorRecord | undefined): OutcomeKind {
  if (code === 0) return "done";
  return record?.kind === "victim" || code === EXIT.victim ? "victim" : "failed";
}

/** Explains an end to the user. `oomKills` is how many processes the kernel killed for memory meanwhile. */
export function explain(outcome: RankOutcome, oomKills = 0): Explanation {
  const { record, code, signal, tail } = outcome;
  if (record !== undefined && record.kind !== "exit" && signal === null) {
    const name = record.name === undefined || record.kind !== "exception" ? "" : `${record.name}: `;
    return {
      headline: `${name}${record.message}`.split("\n")[0]!,
      details: stackLines(record.stack),
      hint: record.hint,
    };
  }
  if (outOfHeap(signal, code, tail)) {
    return {
      headline: "V8 ran out of memory",
      details: [],
      hint: "give ranks a larger heap: --deno-args=--v8-flags=--max-old-space-size=8192 (in MB)",
    };
  }
  if (signal === "SIGKILL" || (signal === null && code === 137)) {
    return {
      headline: oomKills > 0 ? "killed by the kernel: out of memory" : "killed by SIGKILL, not by the launcher",
      details: [],
      hint: oomKills > 0
        ? "use fewer ranks on this host, or give the job more memory"
        : "probably the kernel's out-of-memory killer (see dmesg), or somebody's kill -9",
    };
  }
  if (signal !== null) {
    const crash = ["SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS"].includes(signal);
    return {
      headline: crash ? `native crash: ${signal}` : `ended by ${signal}`,
      details: [],
      hint: crash ? "a native library crashed; its last words, if any, are above" : undefined,
    };
  }
  const error = errorLine(tail);
  if (error !== undefined) return { headline: error.text, details: error.details, hint: undefined };
  return {
    headline: `exited with code ${code}`,
    details: record?.kind === "exit" ? stackLines(record.stack) : [],
    hint: undefined,
  };
}

/** The launcher's exit code for the cause of a failure. */
export function exitCodeOf(outcome: RankOutcome): number {
  return outcome.signal === null ? outcome.code : signalExitCode(outcome.signal);
}

function outOfHeap(signal: string | null, code: number, tail: readonly string[]): boolean {
  if (signal === null && code < 128) return false;
  return tail.some((line) =>
    /Last few GCs|heap out of memory|JavaScript out of memory|invalid array length.*out of memory/i.test(line)
  );
}

/** Deno's own error line, of errors that no listener sees: imports and syntax. */
function errorLine(tail: readonly string[]): { text: string; details: string[] } | undefined {
  const at = tail.findLastIndex((line) => /^error: /.test(line));
  if (at < 0) return undefined;
  return {
    text: tail[at]!.replace(/^error: (Uncaught (\(in promise\) )?)?/, ""),
    details: tail.slice(at + 1).filter((line) => /^\s+at /.test(line)).slice(0, 10).map((line) => line.trim()),
  };
}

/** The frames of a stack, without those inside Deno, with paths instead of URLs. */
function stackLines(stack: string | undefined): string[] {
  return (stack ?? "").split("\n").filter((line) => /^\s+at /.test(line))
    .filter((line) => !/\((ext|node|internal):|launcher\/preload\.ts/.test(line))
    .slice(0, 10).map((line) => line.trim().replace("file://", ""));
}
