/** The communicator of this process, from the environment that the launcher gave it. */
import type { EnvRecord } from "../../core/env_record.ts";
import { UnavailableError } from "../../core/errors.ts";
import { detectLaunchEnv } from "../../core/launch_env.ts";
import { Libc } from "../../ffi/libc.ts";
import { AddressWindow } from "./address_window.ts";
import type { Communicator } from "./communicator.ts";
import { LocalCommunicator } from "./local.ts";
import { ShmCommunicator } from "./shm_communicator.ts";

/** Options of {@linkcode init}. */
export interface InitOptions {
  /** How long a collective waits for the other ranks, in milliseconds; default 10 minutes. */
  readonly timeoutMs?: number;
  /** How long to wait for all ranks to start, in milliseconds; default 60 s. */
  readonly joinTimeoutMs?: number;
  /** The variables to read instead of the process's own. */
  readonly env?: EnvRecord;
}

/**
 * Joins the job that the environment describes (that of Shardwise's launcher, of torchrun, mpirun, srun, …); without one, a job
 * of one rank. Returns when all ranks have joined.
 *
 * @throws {UsageError} If the variables are no numbers or contradict each other.
 * @throws {RendezvousError} If ranks are missing. @throws {UnavailableError} If this host cannot share memory.
 * @example
 * ```ts ignore
 * await using comm = await init();
 * const sum = new Float32Array([comm.rank]);
 * await comm.allReduce(sum);
 * ```
 */
export async function init(options: InitOptions = {}): Promise<Communicator> {
  const env = detectLaunchEnv(options.env ?? Deno.env.toObject());
  if (env.worldSize === 1) return new LocalCommunicator();
  if (env.localWorldSize !== env.worldSize) {
    throw new UnavailableError(
      `Cannot join a job of ${env.worldSize} ranks of which ${env.localWorldSize} are on this host: shared memory joins the ranks of one host`,
      { hint: "run all ranks on one host" },
    );
  }
  const libc = new Libc();
  const host = {
    libc,
    window: new AddressWindow(libc),
    runId: env.runId,
    localRank: env.localRank,
    localWorldSize: env.localWorldSize,
    cores: navigator.hardwareConcurrency, // minds affinity and control groups
  };
  return await ShmCommunicator.join(host, {
    name: env.attempt === 0 ? "world" : `world-${env.attempt}`, // a restart must not meet what its predecessor left
    rank: env.rank,
    ranks: Array.from({ length: env.worldSize }, (_, rank) => rank),
    timeoutMs: options.timeoutMs ?? 600_000,
    joinTimeoutMs: options.joinTimeoutMs ?? 60_000,
  });
}
