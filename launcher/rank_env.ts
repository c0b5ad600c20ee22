/** The environment of a rank, and the command line that starts it. */
import type { LaunchConfig } from "./config.ts";
import { ENV_TWINS } from "./options.ts";

/** Where a rank stands, and what it has to know of its job. */
export interface RankPlace {
  readonly rank: number;
  readonly worldSize: number;
  readonly localRank: number;
  readonly localWorldSize: number;
  readonly nodeRank: number;
  readonly nnodes: number;
  readonly masterAddr: string;
  readonly masterPort: number;
  readonly runId: string;
  readonly jobId: string;
  readonly attempt: number;
  /** How often the job may still be started again. */
  readonly restartsLeft: number;
  readonly storeToken: string;
  readonly errorFile: string;
  /** CPUs that this rank may count as its own. */
  readonly threads: number;
}

/** What only the launcher knows of a rank; nobody else may say it. */
export const RANK_VARIABLES: ReadonlySet<string> = new Set(
  [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "NNODES",
    "MASTER_ADDR",
    "MASTER_PORT",
  ]
    .flatMap((name) => [name, `SHARDWISE_${name}`])
    .concat(
      "SHARDWISE_RUN_ID",
      "SHARDWISE_JOB_ID",
      "SHARDWISE_ATTEMPT",
      "SHARDWISE_ERROR_FILE",
      "SHARDWISE_LAUNCHER_PID",
    )
    .concat("SHARDWISE_STORE_TOKEN", "SHARDWISE_RESTARTS_LEFT"),
);

/** The variables of a rank: `base` without the launcher's own options, and its place in the job. */
export function rankEnv(
  base: Readonly<Record<string, string>>,
  place: RankPlace,
  extra: Readonly<Record<string, string>>,
): Record<string, string> {
  const env: Record<string, string> = {};
  for (const [name, value] of Object.entries(base)) {
    // Options for this launcher are none for a launcher that a rank starts.
    if (!ENV_TWINS.has(name) && !name.startsWith("PET_") && !name.startsWith("TORCHELASTIC_")) env[name] = value;
  }
  delete env.SHARDWISE_PRELOADED;
  delete env.SHARDWISE_STDERR_TTY;
  const own: Record<string, string | number> = {
    RANK: place.rank,
    WORLD_SIZE: place.worldSize,
    LOCAL_RANK: place.localRank,
    LOCAL_WORLD_SIZE: place.localWorldSize,
    NODE_RANK: place.nodeRank,
    GROUP_RANK: place.nodeRank,
    NNODES: place.nnodes,
    MASTER_ADDR: place.masterAddr,
    MASTER_PORT: place.masterPort,
    SHARDWISE_RANK: place.rank,
    SHARDWISE_WORLD_SIZE: place.worldSize,
    SHARDWISE_LOCAL_RANK: place.localRank,
    SHARDWISE_LOCAL_WORLD_SIZE: place.localWorldSize,
    SHARDWISE_MASTER_ADDR: place.masterAddr,
    SHARDWISE_MASTER_PORT: place.masterPort,
    SHARDWISE_RUN_ID: place.runId,
    SHARDWISE_JOB_ID: place.jobId,
    SHARDWISE_ATTEMPT: place.attempt,
    SHARDWISE_RESTARTS_LEFT: place.restartsLeft,
    SHARDWISE_ERROR_FILE: place.errorFile,
    SHARDWISE_LAUNCHER_PID: Deno.pid,
    SHARDWISE_STORE_TOKEN: place.storeToken,
  };
  for (const [name, value] of Object.entries(own)) env[name] = String(value);
  // Ranks write to pipes; whether somebody watches is for progress lines only.
  if (Deno.stderr.isTerminal()) env.SHARDWISE_STDERR_TTY = "1";
  env.OMP_NUM_THREADS ??= String(place.threads);
  return { ...env, ...extra };
}

/** How a process is started. */
export interface CommandLine {
  readonly command: string;
  readonly args: readonly string[];
}

/** The executable and arguments of a rank. `flags` go before the user's own. */
export function rankCommand(config: LaunchConfig, script: string, flags: readonly string[] = []): CommandLine {
  const args = config.args ?? [];
  if (config.program.kind === "exec") {
    // Where setpriv is missing a shim of ours does the same.
    return tied({ command: config.program.command, args }) ??
      { command: Deno.execPath(), args: ["run", "-A", shim("exec_shim.ts"), config.program.command, ...args] };
  }
  const deno = config.denoArgs ?? [];
  const restricted = deno.some((flag) => /^(-P|--allow-|--deny-|--permission-set|--no-prompt)/.test(flag));
  const permissions = restricted ? ["--no-prompt"] : ["-A"];
  const line = {
    command: Deno.execPath(),
    args: ["run", ...permissions, `--preload=${shim("preload.ts")}`, ...flags, ...deno, script, ...args],
  };
  // With all permissions the preload does this itself, which is faster.
  return restricted ? tied(line) ?? line : line;
}

/** `line` by setpriv, which ties a program to its launcher before it runs; undefined where util-linux is missing. */
function tied(line: CommandLine): CommandLine | undefined {
  const setpriv = findSetpriv();
  if (setpriv === undefined) return undefined;
  return { command: setpriv, args: ["--pdeathsig", "KILL", "--", line.command, ...line.args] };
}

function findSetpriv(): string | undefined {
  for (const path of ["/usr/bin/setpriv", "/bin/setpriv"]) {
    try {
      if (Deno.statSync(path).isFile) return path;
    } catch {
      // Look in the next folder.
    }
  }
  return undefined;
}

/** A file beside this one, as a path where it is one: Deno takes URLs as well. */
function shim(name: string): string {
  const url = new URL(name, import.meta.url);
  return url.protocol === "file:" ? decodeURIComponent(url.pathname) : url.href;
}
