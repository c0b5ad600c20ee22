/** The communicator of this process, from the environment that the launcher gave it. */
import { UnavailableError, UsageError } from "../../core/errors.ts";
import { Libc } from "../../ffi/libc.ts";
import { AddressWindow } from "./address_window.ts";
import { availableCores } from "./cores.ts";
import { ShmCommunicator } from "./shm_communicator.ts";

/** Options of {@linkcode init}. */
export interface InitOptions {
  /** How long a collective waits for the other ranks, in milliseconds; default 10 minutes. */
  readonly timeoutMs?: number;
  /** How long to wait for all ranks to start, in milliseconds; default 60 s. */
  readonly joinTimeoutMs?: number;
  /** The variables to read instead of the process's own. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * Joins the job that RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and SHARDWISE_RUN_ID describe; without them, a job of
 * one rank. Returns when all ranks have joined.
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
export async function init(options: InitOptions = {}): Promise<ShmCommunicator> {
  const env = options.env ?? Deno.env.toObject();
  const size = number(env, "WORLD_SIZE", 1), rank = number(env, "RANK", 0);
  const localWorldSize = number(env, "LOCAL_WORLD_SIZE", size), localRank = number(env, "LOCAL_RANK", rank);
  if (size < 1 || rank >= size || localRank >= localWorldSize) {
    throw new UsageError(
      `Cannot join a job as rank ${rank} of ${size}, local rank ${localRank} of ${localWorldSize}`,
      { hint: "start the script by the launcher, or unset RANK and WORLD_SIZE" },
    );
  }
  if (localWorldSize !== size) {
    throw new UnavailableError(
      `Cannot join a job of ${size} ranks of which ${localWorldSize} are on this host: shared memory joins the ranks of one host`,
    );
  }
  const libc = new Libc();
  // Ranks that were started by hand have no run id, but a port that they agreed on, or at least one parent.
  const runId = env.SHARDWISE_RUN_ID || (size === 1 ? `single-${Deno.pid}` : `${env.MASTER_PORT ?? 0}-${Deno.ppid}`);
  const timeoutMs = options.timeoutMs ?? 600_000;
  return await ShmCommunicator.join(
    { libc, window: new AddressWindow(libc), runId, localRank, localWorldSize, cores: availableCores(libc) },
    {
      name: `world${env.SHARDWISE_ATTEMPT && env.SHARDWISE_ATTEMPT !== "0" ? `-${env.SHARDWISE_ATTEMPT}` : ""}`,
      rank,
      ranks: Array.from({ length: size }, (_, r) => r),
      timeoutMs,
      joinTimeoutMs: options.joinTimeoutMs ?? 60_000,
    },
  );
}

function number(env: Readonly<Record<string, string | undefined>>, name: string, fallback: number): number {
  const text = env[name];
  if (text === undefined || text.trim() === "") return fallback;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) {
    throw new UsageError(`Cannot use ${name}=${text}: expected a whole number`);
  }
  return value;
}
