/** The last thing on the screen after a failure: at most 40 lines that say which rank failed, why, and what to do. Pure. */
import { type AttemptResult, isStopped } from "./attempt.ts";
import type { AbortNotice } from "./abort_notice.ts";
import { explain, type RankOutcome } from "./outcome.ts";
import { rankRanges } from "./rank_ranges.ts";
import { userError } from "./verdict.ts";

/** What a report is made of. */
export interface ReportInput {
  readonly result: AttemptResult;
  readonly runId: string;
  readonly code: number;
  readonly elapsedMs: number;
  readonly graceMs: number;
  readonly logDir?: string | undefined;
  readonly oomKills?: number;
  /** How often the ranks were started. */
  readonly attempts?: number;
  /** What ended the job, if that came from elsewhere. */
  readonly notice?: AbortNotice | undefined;
}

const MOST_LINES = 40;
const MOST_WIDTH = 400;

/** What a failed job ends with on stderr: a clean error of the user's and its hint, or the report. */
export function closingLines(input: ReportInput): string[] {
  const user = userError(input.result)?.record ?? (input.notice?.user ? input.notice : undefined);
  if (user === undefined) return finalReport(input);
  return [`error: ${user.message}`, ...(user.hint === undefined ? [] : [`hint: ${user.hint}`])];
}

/** The report's lines. */
export function finalReport(input: ReportInput): string[] {
  const { result, code } = input;
  const { stop, outcomes } = result;
  const notice = input.notice ?? (stop?.kind === "abort" ? stop.notice : undefined);
  // What ended the whole job outranks what failed here afterwards.
  const cause = notice === undefined || notice.rank === result.cause?.rank ? result.cause : undefined;
  const stopped = cause === undefined && (notice === undefined ? isStopped(stop) : notice.stopped === true);
  const attempts = (input.attempts ?? 1) > 1 ? `, attempt ${input.attempts}` : "";
  const logs = input.logDir === undefined ? "" : `   logs: ${input.logDir}`;
  const head = `shardwise: job ${input.runId} ${stopped ? "STOPPED" : "FAILED"} after ${
    seconds(input.elapsedMs)
  }${attempts}  (exit ${code})${logs}`;
  const body: string[] = [];
  let hint: string | undefined;
  if (cause !== undefined) {
    const why = explain(cause, input.oomKills);
    hint = why.hint;
    body.push(`  cause   ${who(cause)}  ${why.headline}   +${seconds(cause.endedMs)}`);
    for (const line of why.details) body.push(`          ${line}`);
    if (cause.record?.lastCollective !== undefined) {
      body.push(`          last collective: ${cause.record.lastCollective}`);
    }
  } else if (notice !== undefined) {
    hint = notice.hint;
    const from = notice.rank === undefined
      ? ""
      : `rank ${notice.rank}${notice.host === undefined ? "" : ` (${notice.host})`}  `;
    body.push(`  cause   ${from}${notice.message}`);
    for (const line of notice.details ?? []) body.push(`          ${line}`);
  } else {
    body.push(`  cause   ${stopText(stop)}`);
  }
  const failedToo = outcomes.filter((o) => o.kind === "failed" && o.rank !== cause?.rank);
  for (const other of failedToo.slice(0, 4)) {
    body.push(`  failed  ${who(other)}  ${explain(other).headline}   +${seconds(other.endedMs)}`);
  }
  if (failedToo.length > 4) body.push(`  failed  ${failedToo.length - 4} more: rank ${ranges(failedToo.slice(4))}`);
  group(
    body,
    "victims",
    outcomes.filter((o) => o.kind === "victim" && o.rank !== cause?.rank),
    (list) => list[0]!.record?.message ?? "lost a peer",
  );
  group(body, "stopped", outcomes.filter((o) => o.kind === "stopped"), () => "by the launcher");
  group(
    body,
    "killed",
    outcomes.filter((o) => o.kind === "killed"),
    () => result.hurried ? "by SIGKILL, on request" : `did not end within ${seconds(input.graceMs)} of SIGTERM`,
  );
  group(body, "done", outcomes.filter((o) => o.kind === "done"), () => "ended normally");
  const next = hint === undefined ? [] : [`  next    ${hint}`];
  const room = MOST_LINES - 1 - body.length - next.length - 1;
  const tail = cause === undefined ? [] : cause.tail.slice(-Math.max(0, Math.min(15, room)));
  const shown = tail.length === 0
    ? []
    : [`  rank ${cause!.rank} ${cause!.tailOf} (last ${tail.length} lines):`, ...tail.map((line) => `    ${line}`)];
  return [head, ...body, ...shown, ...next].slice(0, MOST_LINES).map((line) =>
    line.length > MOST_WIDTH ? line.slice(0, MOST_WIDTH) + "…" : line
  );
}

/** The cause in one line; `notice` is what ended the job, if that came from elsewhere. */
export function causeLine(result: AttemptResult, notice?: AbortNotice): string {
  if (result.cause !== undefined) return `rank ${result.cause.rank}: ${explain(result.cause).headline}`;
  if (notice === undefined) return stopText(result.stop);
  return notice.rank === undefined ? notice.message : `rank ${notice.rank}: ${notice.message}`;
}

function group(
  body: string[],
  label: string,
  list: readonly RankOutcome[],
  text: (list: readonly RankOutcome[]) => string,
): void {
  if (list.length > 0) body.push(`  ${label.padEnd(7)} rank ${ranges(list)}  ${text(list)}`);
}

function ranges(outcomes: readonly RankOutcome[]): string {
  return rankRanges(outcomes.map((o) => o.rank));
}

function who(o: RankOutcome): string {
  return `rank ${o.rank} (${o.host}, local ${o.localRank}, pid ${o.pid})`;
}

function stopText(stop: AttemptResult["stop"]): string {
  switch (stop?.kind) {
    case "signal":
      return `the launcher received ${stop.signal}`;
    case "unread":
      return "nobody reads the output";
    case "timeout":
      return "the job ran longer than --timeout";
    case "linger":
      return stop.message;
    case "abort":
      return stop.notice.message;
    default:
      return "unknown";
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 3 : 1)} s`;
}
