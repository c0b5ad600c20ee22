/**
 * Runs a job: makes its run id and its store, starts its ranks, ends them together, restarts them if asked, and says what happened.
 *
 *     const code = await launch({ program: { kind: "deno", script: "train.ts" }, nproc: 4 });
 */
import { UsageError } from "../src/core/errors.ts";
import { EXIT, isUserErrorCode, signalExitCode } from "../src/core/exit_codes.ts";
import { randomHex } from "../src/core/run_id.ts";
import { Attempt, type AttemptResult, type StopReason } from "./attempt.ts";
import { jobTempDir, remove, removeSharedMemory, removeStale, systemTempDir } from "./cleanup.ts";
import type { LaunchConfig, OutputTarget } from "./config.ts";
import { cpuCount, gpuCount, newRunId } from "./host.ts";
import { RankOutput } from "./job_output.ts";
import { exitCodeOf, type RankOutcome } from "./outcome.ts";
import { OutputSink } from "./output.ts";
import { rankCommand, rankEnv } from "./rank_env.ts";
import type { RankStart } from "./rank_process.ts";
import { SignalRelay } from "./signals.ts";
import { StoreServer } from "./store_server.ts";

export type { LaunchConfig } from "./config.ts";

/** Where a launcher writes; default the process's own streams. */
export interface LaunchIo {
  readonly stdout?: OutputTarget;
  readonly stderr?: OutputTarget;
}

const LINGER_WARNING_MS = 60_000;

/**
 * Runs the job that `config` describes and resolves to its exit code (docs/exit-codes.md) when nothing of it is left.
 *
 * @throws {UsageError} If the job cannot be started: an unknown script, ranks that do not exist, no GPU.
 */
export async function launch(config: LaunchConfig, io: LaunchIo = {}): Promise<number> {
  const started = performance.now();
  const now = () => performance.now() - started;
  const script = requireScript(config);
  const nproc = resolveRankCount(config.nproc ?? 1);
  const stdout = new OutputSink(io.stdout ?? Deno.stdout), stderr = new OutputSink(io.stderr ?? Deno.stderr);
  const runId = newRunId();
  const temp = jobTempDir(systemTempDir(), runId);
  Deno.mkdirSync(temp, { mode: 0o700 });
  const host = Deno.hostname();
  let current: Attempt | undefined;
  let interrupted: string | undefined;
  const stop = (reason: StopReason) => current?.stop(reason);
  const server = new StoreServer({
    hostname: "127.0.0.1",
    port: 0,
    events: { onAbort: (reason) => stop({ kind: "abort", reason }) },
  });
  const signals = new SignalRelay({
    stop: (signal) => {
      interrupted ??= signal;
      stop({ kind: "signal", signal });
    },
    notify: (signal) => current?.forward(signal),
  });
  const timeout = config.timeoutMs === undefined
    ? undefined
    : setTimeout(() => stop({ kind: "timeout" }), config.timeoutMs);
  const output = new RankOutput(config, { stdout, stderr, host, worldSize: nproc });
  const maxRestarts = config.maxRestarts ?? 0;
  try {
    for (let attempt = 0;; attempt++) {
      const token = randomHex(16);
      server.allow(token);
      const ranks: RankStart[] = [];
      const { command, args } = rankCommand(config, script);
      const base = Deno.env.toObject();
      for (let rank = 0; rank < nproc; rank++) {
        const errorFile = `${temp}/${attempt}-${rank}.json`;
        const env = rankEnv(base, {
          rank,
          worldSize: nproc,
          localRank: rank,
          localWorldSize: nproc,
          nodeRank: 0,
          nnodes: 1,
          masterAddr: "127.0.0.1",
          masterPort: server.port,
          runId,
          jobId: runId,
          attempt,
          storeToken: token,
          errorFile,
          threads: Math.max(1, Math.floor(cpuCount() / nproc)),
        }, config.env ?? {});
        const stdin = (config.stdin ?? (nproc === 1 ? 0 : "none")) === rank ? "inherit" : "null";
        ranks.push({ rank, localRank: rank, command, args, env, errorFile, stdin, ...output.takers(rank) });
      }
      let lingerTimer: ReturnType<typeof setTimeout> | undefined;
      current = new Attempt({
        ranks,
        host,
        graceMs: config.graceMs ?? 30_000,
        onFailure: config.onFailure ?? "abort",
        now,
        onCause: (cause) => server.pushAbort(JSON.stringify({ rank: cause.rank, code: cause.code })),
        onDone: (rank) => {
          server.pushLeft(rank);
          lingerTimer ??= setTimeout(() => linger(rank), config.lingerMs ?? LINGER_WARNING_MS);
        },
      });
      const linger = (rank: number) => {
        const message =
          `rank ${rank} ended normally ${Math.round((config.lingerMs ?? LINGER_WARNING_MS) / 1000)} s ago, ` +
          `and ranks ${current!.running().join(",")} still run`;
        if (config.lingerMs !== undefined) stop({ kind: "linger", message });
        else stderr.line(`shardwise: ${message}`);
      };
      if (attempt === 0) {
        if (config.verbose) {
          stderr.line(
            `shardwise: job ${runId}, ${nproc} ranks started after ${
              Math.round(now())
            } ms, store on port ${server.port}`,
          );
        }
        for (const path of removeStale(systemTempDir())) {
          if (config.verbose) stderr.line(`shardwise: removed ${path}, left by a dead job`);
        }
      }
      if (interrupted !== undefined) stop({ kind: "signal", signal: interrupted });
      const result = await current.finish();
      clearTimeout(lingerTimer);
      server.revoke(token);
      removeSharedMemory(runId);
      const code = exitCode(result);
      const mayRestart = code !== 0 && attempt < maxRestarts && result.stop?.kind !== "signal" &&
        result.stop?.kind !== "timeout" &&
        userError(result) === undefined && code !== EXIT.requeue;
      if (mayRestart) {
        const { causeLine } = await import("./report.ts");
        stderr.line(
          `shardwise: attempt ${attempt} failed: ${causeLine(result)}; restarting (${attempt + 1} of ${maxRestarts})`,
        );
        server.state.keepOnly("job/");
        server.clearAbort();
        continue;
      }
      await stdout.drain(code === 0 ? 600_000 : 5_000);
      if (code !== 0) {
        const user = userError(result);
        if (user !== undefined) {
          stderr.line(`error: ${user.record!.message}`);
          if (user.record!.hint !== undefined) stderr.line(`hint: ${user.record!.hint}`);
        } else {
          const { finalReport } = await import("./report.ts");
          for (
            const line of finalReport({ result, runId, code, elapsedMs: now(), graceMs: config.graceMs ?? 30_000 })
          ) stderr.line(line);
        }
      }
      await stderr.drain(5_000);
      return code;
    }
  } finally {
    clearTimeout(timeout);
    signals[Symbol.dispose]();
    server[Symbol.dispose]();
    removeSharedMemory(runId);
    remove(temp);
  }
}

/** The failing rank whose clean error stands for the job: there is one, and no rank failed in another way. */
function userError(result: AttemptResult): RankOutcome | undefined {
  const { cause } = result;
  if (cause?.record?.kind !== "user" || cause.signal !== null || !isUserErrorCode(cause.code)) return undefined;
  const others = result.outcomes.filter((o) => o.kind === "failed");
  return others.every((o) => o.record?.kind === "user" && o.record.message === cause.record!.message)
    ? cause
    : undefined;
}

function exitCode(result: AttemptResult): number {
  const { stop, cause } = result;
  if (cause !== undefined) return exitCodeOf(cause);
  switch (stop?.kind) {
    case "timeout":
      return EXIT.timeout;
    case "signal":
      return result.outcomes.some((o) => o.code === EXIT.requeue && o.signal === null)
        ? EXIT.requeue
        : signalExitCode(stop.signal);
    case "abort":
    case "linger":
      return 1;
    default:
      return 0;
  }
}

/** How many ranks a word means. @throws {UsageError} If GPUs are asked for and there are none. */
export function resolveRankCount(count: NonNullable<LaunchConfig["nproc"]>): number {
  if (typeof count === "number") {
    if (!Number.isInteger(count) || count < 1) {
      throw new UsageError(`Cannot start ${count} ranks: expected a whole number from 1 on`);
    }
    return count;
  }
  const gpus = count === "cpu" ? 0 : gpuCount();
  if (count === "gpu" && gpus === 0) {
    throw new UsageError("Cannot start a rank per GPU: no GPU was found", {
      hint: "use --nproc cpu, or check CUDA_VISIBLE_DEVICES and /dev/nvidia0",
    });
  }
  return gpus > 0 ? gpus : cpuCount();
}

/** The script's path, checked: N ranks that all fail to find it would say it N times. */
function requireScript(config: LaunchConfig): string {
  if (config.program.kind === "exec") return "";
  const { script } = config.program;
  if (/^(https?|file|npm|jsr|data|node):/.test(script)) return script;
  try {
    if (Deno.statSync(script).isFile) return script;
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) return script;
    throw new UsageError(`Cannot run ${JSON.stringify(script)}: there is no such file`, {
      hint: "give a TypeScript or JavaScript file, or use --exec for another program",
    });
  }
  throw new UsageError(`Cannot run ${JSON.stringify(script)}: it is no file`);
}
