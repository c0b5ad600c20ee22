/** Which of the job's hosts this is: from flags, else from the scheduler that started this launcher. Pure. */
import type { EnvRecord } from "../src/core/env_record.ts";
import { filled } from "../src/core/env_record.ts";
import { UsageError } from "../src/core/errors.ts";
import { schedulerEnv } from "../src/core/scheduler_env.ts";
import type { LaunchConfig } from "./config.ts";

/** This host among the job's. */
export interface NodePlace {
  readonly nodeRank: number;
  readonly nnodes: number;
  /** Where the nodes meet. Absent on one host, unless a port is asked for. */
  readonly rdzv: string | undefined;
  /** The secret of the nodes; undefined if nobody gave one. */
  readonly token: string | undefined;
  /** Who said so. */
  readonly source: string;
}

/**
 * The place of this launcher. With `srun --ntasks-per-node=1 … launch` or `mpirun -npernode 1 … launch` each task is a node.
 *
 * @throws {UsageError} If flags contradict each other or there is no place to meet.
 */
export function nodePlace(config: LaunchConfig, env: EnvRecord): NodePlace {
  const flags = config.nnodes !== undefined || config.nodeRank !== undefined;
  // A launcher that a rank starts is a job of its own, whatever started that rank's job.
  const nested = filled(env, "SHARDWISE_RANK");
  const scheduler = flags && config.nnodes === 1 || nested ? undefined : schedulerEnv(env);
  const nnodes = config.nnodes ?? scheduler?.worldSize ?? 1;
  const nodeRank = config.nodeRank ?? (scheduler?.worldSize === nnodes ? scheduler.rank : undefined);
  if (nnodes === 1) {
    if (nodeRank !== undefined && nodeRank !== 0) {
      throw new UsageError(`Cannot be node ${nodeRank} of 1`, { hint: "give --nnodes as well" });
    }
    return { nodeRank: 0, nnodes: 1, rdzv: config.rdzv, token: config.token, source: "one host" };
  }
  if (nodeRank === undefined) {
    throw new UsageError(`Cannot tell which of ${nnodes} nodes this is`, {
      hint: "give --node-rank, from 0 on the node that hosts the store",
    });
  }
  if (nodeRank >= nnodes) {
    throw new UsageError(`Cannot be node ${nodeRank} of ${nnodes}: they count from 0 to ${nnodes - 1}`);
  }
  const rdzv = config.rdzv ??
    (scheduler?.masterAddr === undefined ? undefined : `tcp://${scheduler.masterAddr}:${scheduler.masterPort}`);
  if (rdzv === undefined) {
    throw new UsageError(`Cannot find the other ${nnodes - 1} nodes: no place to meet was given`, {
      hint: "give --rdzv tcp://host-of-node-0:29500, or --rdzv file:///shared/folder",
    });
  }
  return { nodeRank, nnodes, rdzv, token: config.token ?? scheduler?.runId, source: scheduler?.scheme ?? "flags" };
}
