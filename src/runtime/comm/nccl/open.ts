/** Joins the ranks of a job by NCCL. */
import type { LaunchEnv } from "../../../core/launch_env.ts";
import type { StoreClient } from "../../../core/store_client.ts";
import type { EngineOptions } from "../engines.ts";
import { connectStore } from "../store.ts";
import { NcclCommunicator } from "./nccl_communicator.ts";
import { type NcclDevice, NcclProcess } from "./nccl_process.ts";
import { chooseMeet } from "./rendezvous.ts";

/** What a program that computes on the GPU shares with the communicator. */
export interface NcclOptions extends EngineOptions {
  /** The GPU that this process uses already; default: GPU number LOCAL_RANK. */
  readonly device?: NcclDevice;
}

/**
 * The communicator of all ranks of the job, each with a GPU of its own.
 *
 * @throws {UnavailableError} If a library is missing, listing what was tried; if there are too few GPUs, or two ranks on one.
 * @throws {RendezvousError} If ranks are missing, or NCCL cannot join them.
 */
export async function openNccl(options: NcclOptions): Promise<NcclCommunicator> {
  const { env } = options, process = new NcclProcess(options, options.device);
  const store = env.worldSize > 1 ? await connect(env, options.joinTimeoutMs) : undefined;
  const host = Deno.env.get("SHARDWISE_PRETEND_HOSTS")?.split(",")[env.rank] ?? Deno.hostname();
  const meet = env.worldSize > 1 ? chooseMeet(process, store) : () => Promise.reject(new Error("nobody to meet"));
  return await NcclCommunicator.join({ process, meet, store, host }, {
    name: env.attempt === 0 ? "world" : `world-${env.attempt}`, // a restart must not meet what its predecessor left
    rank: env.rank,
    ranks: Array.from({ length: env.worldSize }, (_, rank) => rank),
    timeoutMs: options.timeoutMs,
    joinTimeoutMs: options.joinTimeoutMs,
  });
}

/** The store of the launcher, where it hosts one. */
async function connect(env: LaunchEnv, timeoutMs: number): Promise<StoreClient | undefined> {
  if (env.storeToken === undefined) return undefined;
  const { masterAddr, masterPort, storeToken, rank } = env;
  return await connectStore({ addr: masterAddr, port: masterPort, token: storeToken, rank, timeoutMs });
}
