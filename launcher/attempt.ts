/**
 * One generation of a job's ranks on this host: started together, watched, and ended together.
 *
 * The first abnormal end is frozen as the cause. A victim (a rank that ended because it lost another) is no cause: its end opens a
 * short wait for the one that it lost. After that every rank gets CONT and TERM, and KILL when the grace period is over.
 */
import { UnavailableError } from "../src/core/errors.ts";
import type { ErrorRecord } from "../src/core/exit_report.ts";
import type { AbortNotice } from "./abort_notice.ts";
import { isFailure, ownEnd, type RankOutcome } from "./outcome.ts";
import { RankProcess, type RankStart } from "./rank_process.ts";

/** Why the ranks are being ended. */
export type StopReason =
  | { readonly kind: "failure" }
  | { readonly kind: "signal"; readonly signal: string }
  | { readonly kind: "timeout" }
  /** Nobody reads the job's output any more, and nothing else was wanted of it. */
  | { readonly kind: "unread" }
  | { readonly kind: "linger"; readonly message: string }
  /** Another node, or a client of the store, asked for it. */
  | { readonly kind: "abort"; readonly notice: AbortNotice };

/** Whether a user, a reader or a time limit ended the ranks, so that nothing failed. */
export function isStopped(reason: StopReason | undefined): boolean {
  return reason?.kind === "signal" || reason?.kind === "timeout" || reason?.kind === "unread";
}

/** What an attempt needs to know. */
export interface AttemptOptions {
  readonly ranks: readonly RankStart[];
  readonly host: string;
  /** From SIGTERM to SIGKILL, asked for when ranks are ended. */
  readonly graceMs: () => number;
  readonly onFailure: "abort" | "continue";
  /** ms since the job's start. */
  readonly now: () => number;
  /** Called once, when the cause of a failure is known. */
  readonly onCause?: (cause: RankOutcome) => void;
  /** Called for every rank that ends with 0 by itself. */
  readonly onDone?: (rank: number) => void;
}

/** How an attempt went. */
export interface AttemptResult {
  readonly outcomes: readonly RankOutcome[];
  /** The first cause of a failure here; undefined if there was none. */
  readonly cause: RankOutcome | undefined;
  /** Why ranks were ended, if they were. */
  readonly stop: StopReason | undefined;
  /** Whether somebody asked to kill ranks before the grace period was over. */
  readonly hurried?: boolean;
  /** The grace period that ranks were given, if they were ended. */
  readonly graceMs?: number | undefined;
}

/** How long the ends of victims wait for the end of the rank that they lost, in ms. */
const VICTIM_PATIENCE = 500;
/** Signals by which others end processes. */
const TOLD_TO_END: ReadonlySet<string> = new Set(["SIGTERM", "SIGINT", "SIGHUP"]);
/** How long after a rank ended by one of them the launcher's own may come, in ms. */
const COMPANY_MS = 300;
/**
 * How long the others have to notice a failure by themselves before they are ended, in ms: a rank that waits for the one that failed
 * then says in which collective, and leaves the dump of its flight recorder, which one that is ended by a signal cannot.
 */
const NOTICE_MS = 250;

/** A running generation. */
export class Attempt {
  readonly ranks: RankProcess[] = [];
  readonly #options: AttemptOptions;
  readonly #outcomes: RankOutcome[] = [];
  #cause: RankOutcome | undefined;
  #stop: StopReason | undefined;
  #termSent = false;
  #killSent = false;
  #hurried = false;
  #graceMs: number | undefined;
  #graceTimer: ReturnType<typeof setTimeout> | undefined;
  #victimTimer: ReturnType<typeof setTimeout> | undefined;
  #noticeTimer: ReturnType<typeof setTimeout> | undefined;

  /** Starts all ranks. @throws {UnavailableError} If one cannot be started; those before it are killed. */
  constructor(options: AttemptOptions) {
    this.#options = options;
    for (const start of options.ranks) {
      try {
        this.ranks.push(new RankProcess(start));
      } catch (cause) {
        for (const rank of this.ranks) rank.signal("SIGKILL");
        throw new UnavailableError(`Cannot start rank ${start.rank} (${start.command})`, {
          cause,
          hint: "see whether the program exists, and how many processes this user may have (ulimit -u)",
        });
      }
    }
  }

  /** Whether ranks are being ended. */
  get stopping(): boolean {
    return this.#stop !== undefined;
  }

  /** The ranks that still run. */
  running(): number[] {
    return this.ranks.filter((rank) => rank.running).map((rank) => rank.rank);
  }

  /** Resolves when all ranks have ended and all their output was taken. */
  async finish(): Promise<AttemptResult> {
    await Promise.all(this.ranks.map((rank) => this.#watch(rank)));
    clearTimeout(this.#graceTimer);
    clearTimeout(this.#victimTimer);
    clearTimeout(this.#noticeTimer);
    const cause = this.#cause ?? this.#outcomes.find(isFailure) ??
      (this.#stop === undefined || this.#stop.kind === "failure"
        ? this.#outcomes.find((o) => o.kind === "victim")
        : undefined);
    if (this.#cause === undefined && cause !== undefined) this.#options.onCause?.(cause);
    const outcomes = this.#outcomes.sort((a, b) => a.rank - b.rank);
    return { outcomes, cause, stop: this.#stop, hurried: this.#hurried, graceMs: this.#graceMs };
  }

  /** Ends all ranks. The first reason stands. */
  stop(reason: StopReason): void {
    if (this.#stop !== undefined) return;
    this.#stop = reason;
    this.#termSent = true;
    for (const rank of this.ranks) rank.release();
    // A stopped process takes no TERM, so it is continued first.
    this.#signalAll("SIGCONT");
    this.#signalAll("SIGTERM");
    this.#graceMs = this.#options.graceMs();
    this.#graceTimer = setTimeout(() => this.#kill(), this.#graceMs);
  }

  /** Kills all ranks now, whatever is left of the grace period. */
  kill(): void {
    this.#hurried = true;
    this.#kill();
  }

  #kill(): void {
    this.#killSent = true;
    this.#signalAll("SIGKILL");
  }

  /** Passes a signal on to all ranks that run. */
  forward(signal: Deno.Signal): void {
    for (const rank of this.ranks) if (rank.running) rank.signal(signal);
  }

  #signalAll(signal: Deno.Signal): void {
    for (const rank of this.ranks) if (rank.running || this.#open.has(rank)) rank.signal(signal);
  }

  /** Ranks whose streams are open although they have ended: their children live. */
  readonly #open = new Set<RankProcess>();

  async #watch(rank: RankProcess): Promise<void> {
    this.#open.add(rank);
    const end = await rank.ended;
    const endedMs = this.#options.now();
    const record = end.code === 0 ? undefined : rank.record();
    // A rank that failed and hung in its exit was ended by the alarm that the preload had set: its own code is what counts.
    const alarmed = end.signal === "SIGALRM" && record !== undefined;
    const { code, signal } = alarmed ? { code: record.code ?? 1, signal: null } : end;
    // A scheduler that ends a job signals ranks and launcher alike; which of them hears it first says nothing.
    if (signal !== null && TOLD_TO_END.has(signal) && !this.stopping) await this.#company();
    const kind = this.#kindOf(code, signal, record);
    // The cause is frozen now; the lines it wrote last come with the outcome.
    const early = this.#outcome(rank, kind, { code, signal, endedMs, record });
    if (!this.stopping) this.#react(early);
    else if (kind === "failed" && this.#cause === undefined) this.#freeze(early);
    await rank.finished;
    this.#open.delete(rank);
    const outcome = this.#outcome(rank, kind, { code, signal, endedMs, record });
    if (this.#cause?.rank === rank.rank) this.#cause = outcome;
    this.#outcomes.push(outcome);
  }

  /** Resolves when the ranks are being ended, or when it is clear that only one of them was told to. */
  async #company(): Promise<void> {
    const until = this.#options.now() + COMPANY_MS;
    while (!this.stopping && this.#options.now() < until) await new Promise((done) => setTimeout(done, 10));
  }

  #kindOf(code: number, signal: string | null, record: ErrorRecord | undefined): RankOutcome["kind"] {
    if (!this.stopping) return ownEnd(code, record);
    if (code === 0) return "stopped";
    if (signal === "SIGKILL" && this.#killSent) return "killed";
    if (signal === "SIGTERM" && this.#termSent) return "stopped";
    if (signal !== null && TOLD_TO_END.has(signal) && isStopped(this.#stop)) return "stopped";
    // Its own end came while ours was on the way: it may be what others were victims of.
    const crashed = signal !== null || record?.kind === "exception" || record?.kind === "collective";
    if (this.#stop?.kind === "failure" && crashed && this.#cause === undefined) return ownEnd(code, record);
    return record?.kind === "victim" ? "victim" : "stopped";
  }

  #react(outcome: RankOutcome): void {
    if (outcome.kind === "done") return this.#options.onDone?.(outcome.rank);
    if (this.#options.onFailure === "continue") {
      if (outcome.kind === "failed" && this.#cause === undefined) this.#freeze(outcome);
      return;
    }
    if (outcome.kind === "victim") {
      this.#victimTimer ??= setTimeout(() => this.stopping || this.stop({ kind: "failure" }), VICTIM_PATIENCE);
      return;
    }
    // The cause is frozen; a failure that comes while the others take notice is one of its consequences.
    if (this.#cause !== undefined) return;
    this.#freeze(outcome);
    this.#noticeTimer = setTimeout(() => this.stop({ kind: "failure" }), NOTICE_MS);
  }

  #freeze(cause: RankOutcome): void {
    this.#cause = cause;
    this.#options.onCause?.(cause);
  }

  #outcome(
    rank: RankProcess,
    kind: RankOutcome["kind"],
    end: Pick<RankOutcome, "code" | "signal" | "endedMs" | "record">,
  ): RankOutcome {
    const stderr = kind === "done" ? [] : rank.stderrTail.lines(40);
    const tailOf = stderr.length > 0 ? "stderr" : "stdout";
    return {
      rank: rank.rank,
      localRank: rank.localRank,
      host: this.#options.host,
      pid: rank.pid,
      kind,
      ...end,
      tail: stderr.length > 0 || kind === "done" ? stderr : rank.stdoutTail.lines(15),
      tailOf,
    };
  }
}
