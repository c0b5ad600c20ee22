/** summary.json: how a job went, for programs. Pure. */
import { type AttemptResult, isStopped } from "./attempt.ts";
import type { Placement, Verdict } from "./coordinator.ts";
import { explain, type RankOutcome } from "./outcome.ts";

/** What a summary is made of. */
export interface SummaryInput {
  readonly placement: Placement;
  readonly result: AttemptResult;
  readonly verdict: Verdict;
  readonly attempt: number;
  /** When the job began, ms since 1970. */
  readonly startedAt: number;
  readonly elapsedMs: number;
  readonly command: readonly string[];
  /** How long each phase of the start took, in ms. */
  readonly startMs: Readonly<Record<string, number>>;
}

/** The content of summary.json. Times of ranks are ms since the job's start. */
export interface Summary {
  readonly job: string;
  readonly exitCode: number;
  readonly state: "succeeded" | "failed" | "stopped";
  readonly started: string;
  readonly elapsedMs: number;
  /** The phases of the start, in ms: `meet` the other nodes, `prepare` the program, `spawn` the ranks. */
  readonly startMs: Readonly<Record<string, number>>;
  readonly worldSize: number;
  readonly node: number;
  readonly nnodes: number;
  /** How often the ranks were started, less one. */
  readonly restarts: number;
  readonly command: readonly string[];
  readonly stop: string | null;
  readonly cause: SummaryCause | null;
  readonly ranks: readonly SummaryRank[];
}

/** What failed first. */
export interface SummaryCause {
  readonly rank: number | null;
  readonly host: string | null;
  readonly kind: string;
  readonly message: string;
  readonly code: number;
  readonly signal: string | null;
  readonly atMs: number | null;
  readonly stack: readonly string[];
}

/** How a rank of this host ended. */
export interface SummaryRank {
  readonly rank: number;
  readonly pid: number;
  readonly kind: string;
  readonly code: number;
  readonly signal: string | null;
  readonly endedMs: number;
  readonly message: string | null;
}

/** The summary of a job that has ended. */
export function summarize(input: SummaryInput): Summary {
  const { placement, result, verdict } = input;
  const stop = result.stop?.kind ?? null;
  return {
    job: placement.jobId,
    exitCode: verdict.code,
    state: verdict.code === 0 ? "succeeded" : isStopped(result.stop) ? "stopped" : "failed",
    started: new Date(input.startedAt).toISOString(),
    elapsedMs: Math.round(input.elapsedMs),
    startMs: input.startMs,
    worldSize: placement.worldSize,
    node: placement.nodeRank,
    nnodes: placement.nnodes,
    restarts: input.attempt,
    command: input.command,
    stop,
    cause: causeOf(result, verdict),
    ranks: result.outcomes.map(rankOf),
  };
}

function causeOf(result: AttemptResult, verdict: Verdict): SummaryCause | null {
  const { cause, stop } = result;
  const notice = verdict.notice ?? (stop?.kind === "abort" ? stop.notice : undefined);
  if (notice !== undefined && notice.rank !== cause?.rank) {
    const { message, code, rank = null, host = null, details = [] } = notice;
    return {
      rank,
      host,
      kind: rank === null ? "abort" : "remote",
      message,
      code,
      signal: null,
      atMs: null,
      stack: details,
    };
  }
  if (cause === undefined) return null;
  const why = explain(cause);
  return {
    rank: cause.rank,
    host: cause.host,
    kind: cause.signal !== null ? "signal" : cause.record?.kind ?? "exit",
    message: why.headline,
    code: cause.code,
    signal: cause.signal,
    atMs: Math.round(cause.endedMs),
    stack: why.details,
  };
}

function rankOf(o: RankOutcome): SummaryRank {
  const message = o.kind === "done" ? null : o.record?.message ?? (o.kind === "failed" ? explain(o).headline : null);
  return {
    rank: o.rank,
    pid: o.pid,
    kind: o.kind,
    code: o.code,
    signal: o.signal,
    endedMs: Math.round(o.endedMs),
    message,
  };
}
