/**
 * Runs a job: makes its run id and its store, starts its ranks, ends them together, restarts them if asked, and says what happened.
 *
 *     const code = await launch({ program: { kind: "deno", script: "train.ts" }, nproc: 4 });
 */
import { UnavailableError, UsageError } from "../src/core/errors.ts";
import { Attempt, type AttemptResult, isStopped, type StopReason } from "./attempt.ts";
import { jobTempDir, killLeftovers, remove, removeSharedMemory, removeStale, systemTempDir } from "./cleanup.ts";
import type { LaunchConfig, OutputTarget } from "./config.ts";
import { type Coordinator, LocalCoordinator, type Placement, type Verdict } from "./coordinator.ts";
import { newRunId, oomKills } from "./host.ts";
import { type RankOutputOptions, rankTakers } from "./job_output.ts";
import type { LogFiles } from "./log_files.ts";
import { nodePlace } from "./node_place.ts";
import { OutputSink } from "./output.ts";
import { checkProgram, programHost } from "./program_check.ts";
import { type CommandLine, rankEnv } from "./rank_env.ts";
import type { RankStart } from "./rank_process.ts";
import { describeResources, ownDevice, rankCommands, resolveRankCount } from "./resources.ts";
import { SignalRelay } from "./signals.ts";
import { graceWithin } from "./time_left.ts";
import { exitCode, mayRestart } from "./verdict.ts";

export type { LaunchConfig } from "./config.ts";

/** Where a launcher writes; default the process's own streams. */
export interface LaunchIo {
  readonly stdout?: OutputTarget;
  readonly stderr?: OutputTarget;
}

const LINGER_WARNING_MS = 60_000;
const GRACE_MS = 30_000;
const STARTUP_MS = 300_000;
/** How long a job that failed waits for whoever reads its output, in ms. */
const SLOW_READER_MS = 2_000;

/**
 * Runs the job that `config` describes and resolves to its exit code (docs/exit-codes.md) when nothing of it is left.
 *
 * @throws {UsageError} If the job cannot be started: an unknown script, ranks that do not exist, no GPU.
 * @throws {ProgramError} If a program of `exec` cannot be run. @throws {UnavailableError} If this host lacks what the job asks for.
 * @throws {ShardwiseError} If several nodes do not meet.
 */
export async function launch(config: LaunchConfig, io: LaunchIo = {}): Promise<number> {
  const job = new Job(config, io);
  try {
    return await job.run();
  } finally {
    await job[Symbol.asyncDispose]();
  }
}

/** A job of this host, from its first rank's start to the last line of its report. */
class Job implements AsyncDisposable {
  readonly #config: LaunchConfig;
  readonly #base = Deno.env.toObject();
  readonly #started = performance.now();
  readonly #startedAt = Date.now();
  readonly #nproc: number;
  readonly #runId = newRunId();
  readonly #temp: string;
  readonly #host = Deno.hostname();
  readonly #stdout: OutputSink;
  readonly #stderr: OutputSink;
  readonly #signals: SignalRelay;
  readonly #folders: RankOutputOptions["folders"] = new Map();
  #current: Attempt | undefined;
  /** How long each phase of the start took, in ms. */
  readonly #phases: Record<string, number> = {};
  #health: Disposable | undefined;
  #attempts = 0;
  #spawned = false;
  #concluding = false;
  /** The first stop by a signal or the time limit: nothing is started after it. */
  #stopped: StopReason | undefined;
  /** A stop that came while there were no ranks, before the first attempt or between two. */
  #early: StopReason | undefined;
  readonly #interrupted = Promise.withResolvers<StopReason>();
  #coordinator: Coordinator | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #logs: LogFiles | undefined;
  #oomBefore = 0;

  constructor(config: LaunchConfig, io: LaunchIo) {
    this.#config = config;
    checkProgram(config.program, programHost(config.env?.PATH ?? this.#base.PATH));
    this.#nproc = resolveRankCount(config.nproc ?? 1);
    this.#stdout = new OutputSink(io.stdout ?? Deno.stdout, () => {
      if (config.onClosedOutput === "stop") this.#stop({ kind: "unread" });
    });
    this.#stderr = new OutputSink(io.stderr ?? Deno.stderr);
    this.#temp = jobTempDir(systemTempDir(), this.#runId);
    try {
      Deno.mkdirSync(this.#temp, { mode: 0o700 });
    } catch (cause) {
      throw new UnavailableError(`Cannot make a temporary folder in ${systemTempDir()}`, {
        cause,
        hint: "set TMPDIR to a folder that you can write",
      });
    }
    this.#signals = new SignalRelay({
      stop: (signal) => {
        // Ranks that are being ended for another reason already had their time.
        if (this.#current?.stopping) this.#current.kill();
        this.#stop({ kind: "signal", signal });
      },
      hurry: () => this.#current?.kill(),
      notify: (signal) => this.#current?.forward(signal),
    }, { stop: config.stopSignals, notify: config.notifySignals });
  }

  async run(): Promise<number> {
    const { timeoutMs, healthPort } = this.#config;
    if (healthPort !== undefined) {
      const { serveHealth } = await import("./health.ts");
      const server = this.#health = serveHealth(healthPort, () => ({
        job: this.#runId,
        state: this.#current === undefined ? "starting" : this.#current.stopping ? "ending" : "running",
        attempt: this.#attempts,
        running: this.#current?.running() ?? [],
        elapsedMs: Math.round(performance.now() - this.#started),
      }));
      this.#say(`health at http://${this.#host}:${server.port}/`);
    }
    if (timeoutMs !== undefined) this.#timer = setTimeout(() => this.#stop({ kind: "timeout" }), timeoutMs);
    const coordinator = this.#coordinator = await this.#meet();
    if (coordinator === undefined) return await this.#neverStarted();
    this.#phase("meet");
    coordinator.onStop((reason) => this.#stop(reason));
    const say = (line: string) => this.#config.verbose && this.#say(line);
    const { command, threads } = await rankCommands(this.#config, this.#nproc, say);
    this.#phase("prepare");
    for (const line of describeResources({ ...this.#base, ...this.#config.env }, threads)) say(line);
    for (let attempt = 0;; attempt++) {
      const placement = await coordinator.begin(attempt);
      // Other nodes hear of it by the ends of this node's ranks.
      if (attempt === 0 && placement.nnodes === 1 && this.#stopped !== undefined) return await this.#neverStarted();
      this.#requireRanks(placement.worldSize);
      if (this.#config.logDir !== undefined) await this.#openLogs(this.#config.logDir, placement);
      const ranks = command.map((line, local) => this.#rank(line, local, threads[local]!, placement, attempt));
      const result = await this.#attempt(ranks, coordinator, attempt);
      const code = exitCode(result);
      // Restarts are counted by node 0. Where all ranks have ended well, those of another node may still have to start again.
      const left = placement.nodeRank > 0 || attempt < (this.#config.maxRestarts ?? 0);
      const again = left && this.#stopped === undefined;
      const here = { code, restart: again && (code === 0 || mayRestart(result, code)) };
      // A stop from now on is for the nodes whose ranks still run.
      this.#concluding = true;
      const verdict = await coordinator.conclude(attempt, result, here);
      this.#concluding = false;
      // What is said from now on is for the next attempt.
      this.#current = undefined;
      this.#tidy();
      if (!verdict.restart) return await this.#close({ placement, result, verdict, attempt });
      const { causeLine } = await import("./report.ts");
      this.#say(
        `attempt ${attempt} failed: ${causeLine(result, verdict.notice)}; restarting (${attempt + 1}${
          this.#config.maxRestarts === undefined ? "" : ` of ${this.#config.maxRestarts}`
        })`,
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    this.#health?.[Symbol.dispose]();
    this.#signals[Symbol.dispose]();
    await this.#coordinator?.[Symbol.asyncDispose]();
    this.#logs?.[Symbol.dispose]();
    this.#tidy();
    remove(this.#temp);
  }

  /** The exit code of a job that was stopped before it had ranks. */
  async #neverStarted(): Promise<number> {
    const stop = this.#stopped;
    if (stop?.kind !== "unread") {
      this.#say(
        `stopped ${stop?.kind === "signal" ? `by ${stop.signal}` : "by --timeout"} before any rank was started`,
      );
    }
    await this.#stderr.drain(SLOW_READER_MS);
    return exitCode({ outcomes: [], cause: undefined, stop });
  }

  /** @throws {UsageError} If an option names ranks that the job does not have. */
  #requireRanks(worldSize: number): void {
    const { stdin, showRanks = [] } = this.#config;
    const beyond = (flag: string, rank: number) => {
      if (rank < worldSize) return;
      throw new UsageError(`Cannot use ${flag} with rank ${rank}: the job has rank 0 to ${worldSize - 1}`);
    };
    if (typeof stdin === "number") beyond("--stdin", stdin);
    for (const rank of showRanks) beyond("--show-ranks", rank);
  }

  /** Undefined if the job was stopped while nodes waited for each other. */
  async #meet(): Promise<Coordinator | undefined> {
    const place = nodePlace(this.#config, this.#base);
    if (place.nnodes === 1) {
      const port = /^tcp:.*:(\d+)$/.exec(place.rdzv ?? "")?.[1];
      return new LocalCoordinator(this.#runId, this.#nproc, {
        port: Number(port ?? 0),
        say: (line) => this.#say(line),
      });
    }
    const { joinNodes } = await import("./nodes.ts");
    const joining = joinNodes({
      place,
      runId: this.#runId,
      host: this.#host,
      nproc: this.#nproc,
      startupTimeoutMs: this.#config.startupTimeoutMs ?? STARTUP_MS,
      graceMs: this.#config.graceMs ?? GRACE_MS,
      say: (line) => this.#say(line),
    });
    const first = await Promise.race([joining, this.#interrupted.promise.then(() => undefined)]);
    if (first === undefined) joining.then((coordinator) => coordinator[Symbol.asyncDispose](), () => {});
    return first;
  }

  async #openLogs(dir: string, placement: Placement): Promise<void> {
    if (this.#logs !== undefined) return;
    const { LogFiles } = await import("./log_files.ts");
    this.#logs = new LogFiles({ dir, jobId: placement.jobId, tee: this.#config.tee, say: (line) => this.#say(line) });
    this.#say(`logs in ${this.#logs.folder}`);
  }

  #rank(line: CommandLine, localRank: number, threads: number, placement: Placement, attempt: number): RankStart {
    const rank = placement.firstRank + localRank;
    const errorFile = `${this.#logs?.rankFolder(attempt, rank) ?? this.#temp}/${
      this.#logs === undefined ? `${attempt}-${rank}` : "error"
    }.json`;
    const place = {
      ...placement,
      rank,
      localRank,
      localWorldSize: this.#nproc,
      runId: this.#runId,
      attempt,
      restartsLeft: Math.max(0, (this.#config.maxRestarts ?? 0) - attempt),
      errorFile,
      threads,
    };
    const reader = this.#config.stdin ?? (placement.worldSize === 1 ? 0 : "none");
    const output = {
      config: this.#config,
      stdout: this.#stdout,
      stderr: this.#stderr,
      host: this.#host,
      folders: this.#folders,
    };
    return {
      rank,
      localRank,
      ...line,
      env: rankEnv(this.#base, place, { ...ownDevice(this.#config, localRank), ...this.#config.env }),
      errorFile,
      stdin: reader === rank ? "inherit" : "null",
      ...rankTakers(output, { rank, localRank, attempt }, this.#logs),
    };
  }

  async #attempt(ranks: readonly RankStart[], coordinator: Coordinator, number: number): Promise<AttemptResult> {
    const { lingerMs, verbose } = this.#config;
    let linger: ReturnType<typeof setTimeout> | undefined;
    const attempt = new Attempt({
      ranks,
      host: this.#host,
      graceMs: () => this.#grace(),
      onFailure: this.#config.onFailure ?? "abort",
      now: () => performance.now() - this.#started,
      onCause: (cause) => coordinator.cause(cause),
      onDone: (rank) => {
        coordinator.done(rank);
        linger ??= setTimeout(() => {
          const ms = lingerMs ?? LINGER_WARNING_MS;
          const running = attempt.running();
          if (running.length === 0) return;
          const message = `rank ${rank} ended normally ${Math.round(ms / 1000)} s ago, and rank ${
            running.join(",")
          } still run`;
          if (lingerMs !== undefined) this.#stop({ kind: "linger", message });
          else this.#say(message);
        }, lingerMs ?? LINGER_WARNING_MS);
      },
    });
    this.#current = attempt;
    this.#spawned = true;
    if (number === 0) this.#phase("spawn");
    this.#attempts = number;
    if (number === 0) {
      if (verbose) {
        this.#say(
          `job ${this.#runId}: ${ranks.length} ranks started after ${
            Math.round(performance.now() - this.#started)
          } ms (${Object.entries(this.#phases).map(([phase, ms]) => `${phase} ${ms}`).join(", ")})`,
        );
      }
      this.#oomBefore = oomKills();
      for (const path of removeStale(systemTempDir())) if (verbose) this.#say(`removed ${path}, left by a dead job`);
      // Whoever kills `deno task` or mpirun means the job.
      await import("./parent.ts").then((parent) => parent.endWithParent()).catch(() => {});
    }
    const early = this.#stopped ?? this.#early;
    this.#early = undefined;
    if (early !== undefined) attempt.stop(early);
    const result = await attempt.finish();
    clearTimeout(linger);
    return result;
  }

  async #close(
    end: { placement: Placement; result: AttemptResult; verdict: Verdict; attempt: number },
  ): Promise<number> {
    const { verdict } = end, elapsedMs = performance.now() - this.#started;
    if (this.#logs !== undefined) {
      const { summarize } = await import("./summary.ts");
      const { program, args = [] } = this.#config;
      const command = [program.kind === "deno" ? program.script : program.command, ...args];
      const name = end.placement.nodeRank === 0 ? "summary.json" : `summary.node${end.placement.nodeRank}.json`;
      this.#logs.writeSummary(
        name,
        summarize({ ...end, startedAt: this.#startedAt, elapsedMs, command, startMs: this.#phases }),
      );
    }
    // A pager may take its time over good news, until somebody has enough; a failed job should not wait for one.
    if (verdict.code !== 0) await this.#stdout.drain(SLOW_READER_MS);
    else await Promise.race([this.#stdout.drain(600_000), this.#interrupted.promise]);
    // As other programs end whose reader has gone, it says nothing.
    const isUnread = end.result.cause === undefined && end.result.stop?.kind === "unread";
    if (verdict.code !== 0 && !(isUnread && !this.#config.verbose)) {
      const { closingLines } = await import("./report.ts");
      const lines = closingLines({
        result: end.result,
        notice: verdict.notice,
        runId: end.placement.jobId,
        code: verdict.code,
        elapsedMs,
        graceMs: end.result.graceMs ?? this.#config.graceMs ?? GRACE_MS,
        logDir: this.#logs?.folder,
        oomKills: oomKills() - this.#oomBefore,
        attempts: end.attempt + 1,
      });
      for (const line of lines) this.#stderr.line(line);
    } else if (this.#config.verbose) {
      this.#say(`job ${this.#runId} succeeded after ${(elapsedMs / 1000).toFixed(3)} s`);
    }
    await this.#stderr.drain(SLOW_READER_MS);
    return verdict.code;
  }

  #stop(reason: StopReason): void {
    if (isStopped(reason)) {
      this.#stopped ??= reason;
      this.#interrupted.resolve(reason);
      if (this.#concluding) this.#coordinator?.interrupt(exitCode({ outcomes: [], cause: undefined, stop: reason }));
    }
    if (this.#current === undefined) this.#early ??= reason;
    else this.#current.stop(reason);
  }

  /** The grace period of a stop now, and a word if a time limit shortens it. */
  #grace(): number {
    const asked = this.#config.graceMs ?? GRACE_MS, given = graceWithin(asked, this.#base, Date.now());
    if (given < asked) {
      this.#say(
        `ranks have ${(given / 1000).toFixed(1)} s to end, not ${asked / 1000}: Slurm's time limit comes first`,
      );
    }
    return given;
  }

  /** Notes that a phase of the start is over; the next one begins. */
  #phase(name: string): void {
    const before = Object.values(this.#phases).reduce((sum, ms) => sum + ms, 0);
    this.#phases[name] = Math.round(performance.now() - this.#started - before);
  }

  #tidy(): void {
    if (this.#spawned) killLeftovers(this.#runId);
    removeSharedMemory(this.#runId);
  }

  #say(line: string): void {
    this.#stderr.line(`shardwise: ${line}`);
  }
}
