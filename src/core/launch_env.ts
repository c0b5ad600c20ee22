/**
 * Who am I? The rank, the size of the job and where to meet, read from a record of environment variables.
 *
 * Order: Shardwise's own variables, then torchrun's, Open MPI, Hydra (MPICH, Intel MPI), a Slurm *step*, Kubernetes, and
 * else a single process. One scheme supplies every value, so that a stale variable of another cannot mix in. Two schemes that
 * differ on rank or size are an error that lists both, unless one is known to run inside the other.
 */
import { type EnvRecord, filled, number } from "./env_record.ts";
import { UsageError } from "./errors.ts";
import { fileSafe, hash12, randomHex } from "./run_id.ts";
import { schedulerEnv } from "./scheduler_env.ts";

/** Who supplied the values. */
export type LaunchScheme = "shardwise" | "torch" | "openmpi" | "hydra" | "slurm" | "kubernetes" | "single";

/** The place of this process in its job. */
export interface LaunchEnv {
  readonly scheme: LaunchScheme;
  /** This process, in [0, worldSize). */
  readonly rank: number;
  /** Processes of the job. */
  readonly worldSize: number;
  /** This process among those of its host, in [0, localWorldSize). */
  readonly localRank: number;
  /** Processes of the job on this host. */
  readonly localWorldSize: number;
  /** This host, in [0, nnodes). */
  readonly nodeRank: number;
  /** Hosts of the job. */
  readonly nnodes: number;
  /** Where rank 0 (or its launcher's store) listens. */
  readonly masterAddr: string;
  readonly masterPort: number;
  /** The job's name on this host, equal on all its ranks here, unlike those of other jobs; fit for file names. */
  readonly runId: string;
  /** How often the job was started before: 0, then 1 after the first restart, … */
  readonly attempt: number;
  /** What the launcher's store asks of its clients; undefined where no launcher hosts one. */
  readonly storeToken: string | undefined;
}

/** What a scheme's reader finds; the rest has defaults. */
export type PartialLaunchEnv =
  & Pick<LaunchEnv, "scheme" | "rank" | "worldSize">
  & { readonly [K in keyof LaunchEnv]?: LaunchEnv[K] | undefined };

/**
 * Reads the place of this process from `env`.
 *
 * @throws {UsageError} If a variable is no number or out of range, if two schemes contradict each other, or if a scheme gives no
 * address although ranks are on several hosts.
 */
export function detectLaunchEnv(env: EnvRecord): LaunchEnv {
  const own = shardwise(env);
  if (own !== undefined) return complete(own);
  const scheduler = schedulerEnv(env);
  const torch = torchEnv(env);
  if (
    torch !== undefined && scheduler !== undefined && scheduler.scheme !== "kubernetes" &&
    !filled(env, "TORCHELASTIC_RUN_ID")
  ) {
    // torchrun itself may run as a task of a scheduler, and then its ranks are more than the tasks.
    requireAgreement(torch, scheduler);
  }
  const found = torch ?? scheduler;
  if (found !== undefined) return complete(found);
  const size = number(env, "WORLD_SIZE");
  if (filled(env, "RANK") && size !== undefined && size > 1) {
    const missing = ["MASTER_ADDR", "MASTER_PORT"].filter((name) => !filled(env, name)).join(" and ");
    throw new UsageError(`Cannot join a job of ${size} ranks: RANK and WORLD_SIZE are set, but not ${missing}`, {
      hint: `set ${missing} too, or unset RANK and WORLD_SIZE to run as a single process`,
    });
  }
  return complete({ scheme: "single", rank: 0, worldSize: 1, runId: `single-${randomHex(8)}` });
}

/** How `env` names this process, in a line for `--explain-env`. */
export function describeLaunchEnv(e: LaunchEnv): string {
  return `${e.scheme}: rank ${e.rank} of ${e.worldSize}, local rank ${e.localRank} of ${e.localWorldSize}, node ${e.nodeRank} of ${e.nnodes}, ` +
    `master ${e.masterAddr}:${e.masterPort}, run ${e.runId}, attempt ${e.attempt}`;
}

function shardwise(env: EnvRecord): PartialLaunchEnv | undefined {
  const rank = number(env, "SHARDWISE_RANK");
  const worldSize = number(env, "SHARDWISE_WORLD_SIZE");
  if (rank === undefined && worldSize === undefined) return undefined;
  if (rank === undefined || worldSize === undefined) {
    const [set, missing] = rank === undefined
      ? ["SHARDWISE_WORLD_SIZE", "SHARDWISE_RANK"]
      : ["SHARDWISE_RANK", "SHARDWISE_WORLD_SIZE"];
    throw new UsageError(`Cannot join a job: ${set} is set, but ${missing} is not`, { hint: `set both or neither` });
  }
  const pick = (name: string) => number(env, `SHARDWISE_${name}`) ?? number(env, name);
  const masterAddr = env.SHARDWISE_MASTER_ADDR ?? env.MASTER_ADDR;
  const masterPort = pick("MASTER_PORT");
  return {
    scheme: "shardwise",
    rank,
    worldSize,
    localRank: pick("LOCAL_RANK"),
    localWorldSize: pick("LOCAL_WORLD_SIZE"),
    nodeRank: pick("NODE_RANK"),
    nnodes: pick("NNODES"),
    masterAddr,
    masterPort,
    runId: env.SHARDWISE_RUN_ID ?? `manual-${fileSafe(masterAddr ?? "local")}-${masterPort ?? 0}`,
    attempt: number(env, "SHARDWISE_ATTEMPT"),
    storeToken: env.SHARDWISE_STORE_TOKEN,
  };
}

/** torchrun's variables; a scheme only when all four are there. */
function torchEnv(env: EnvRecord): PartialLaunchEnv | undefined {
  if (!["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"].every((name) => filled(env, name))) return undefined;
  const worldSize = number(env, "WORLD_SIZE")!;
  const masterAddr = env.MASTER_ADDR!.trim();
  const masterPort = number(env, "MASTER_PORT")!;
  const attempt = number(env, "TORCHELASTIC_RESTART_COUNT");
  const names = [
    masterAddr,
    String(masterPort),
    String(worldSize),
    env.TORCHELASTIC_RUN_ID ?? "",
    String(attempt ?? 0),
  ];
  return {
    scheme: "torch",
    rank: number(env, "RANK")!,
    worldSize,
    localRank: number(env, "LOCAL_RANK"),
    localWorldSize: number(env, "LOCAL_WORLD_SIZE"),
    nodeRank: number(env, "GROUP_RANK") ?? number(env, "NODE_RANK"),
    nnodes: number(env, "GROUP_WORLD_SIZE") ?? number(env, "NNODES"),
    masterAddr,
    masterPort,
    runId: `torch-${names.filter((n) => n !== "").map(fileSafe).join("-")}`,
    attempt,
  };
}

function requireAgreement(a: PartialLaunchEnv, b: PartialLaunchEnv): void {
  if (a.rank === b.rank && a.worldSize === b.worldSize) return;
  const say = (e: PartialLaunchEnv) => `${e.scheme} says rank ${e.rank} of ${e.worldSize}`;
  throw new UsageError(`Cannot tell which rank this is: ${say(a)}, but ${say(b)}`, {
    hint:
      `unset the variables of the one that did not start this process (see --explain-env), or set SHARDWISE_RANK and SHARDWISE_WORLD_SIZE`,
  });
}

function complete(found: PartialLaunchEnv): LaunchEnv {
  const { rank, worldSize } = found;
  const local = found.localWorldSize;
  const nnodes = found.nnodes ?? (local !== undefined && local > 0 ? Math.ceil(worldSize / local) : 1);
  const localWorldSize = local ?? (nnodes === 1 ? worldSize : Math.ceil(worldSize / nnodes));
  const result: LaunchEnv = {
    scheme: found.scheme,
    rank,
    worldSize,
    localRank: found.localRank ?? (nnodes === 1 ? rank : rank % localWorldSize),
    localWorldSize,
    nodeRank: found.nodeRank ?? (nnodes === 1 ? 0 : Math.floor(rank / localWorldSize)),
    nnodes,
    masterAddr: found.masterAddr ?? "127.0.0.1",
    masterPort: found.masterPort ?? 61440 + hash12(found.runId ?? ""),
    runId: found.runId ?? `${found.scheme}-0`,
    attempt: found.attempt ?? 0,
    storeToken: found.storeToken,
  };
  check("rank", result.rank, "worldSize", result.worldSize, result.scheme);
  check("localRank", result.localRank, "localWorldSize", result.localWorldSize, result.scheme);
  check("nodeRank", result.nodeRank, "nnodes", result.nnodes, result.scheme);
  if (result.localWorldSize > result.worldSize) {
    throw new UsageError(
      `Cannot join a job: ${result.scheme} gives ${result.localWorldSize} ranks on this host, but only ${result.worldSize} in all`,
    );
  }
  return result;
}

function check(what: string, value: number, sizeName: string, size: number, scheme: LaunchScheme): void {
  if (value < size) return;
  throw new UsageError(`Cannot join a job: ${scheme} gives ${what} ${value} with ${sizeName} ${size}`, {
    hint: `${what} counts from 0 to ${sizeName} - 1`,
  });
}
