/** Joins the ranks of one host by shared memory. */
import { UnavailableError } from "../../core/errors.ts";
import { Libc } from "../../ffi/libc.ts";
import { AddressWindow } from "./address_window.ts";
import type { Communicator } from "./communicator.ts";
import type { EngineOptions } from "./engines.ts";
import { Reducers } from "./reduce_wasm.ts";
import { ShmCommunicator } from "./shm_communicator.ts";

/**
 * The communicator of all ranks of the job, which must be on this host.
 *
 * @throws {UnavailableError} If they are not, or this host cannot share memory. @throws {RendezvousError} If ranks are missing.
 */
export async function openShm({ env, timeoutMs, joinTimeoutMs, flight }: EngineOptions): Promise<Communicator> {
  if (env.localWorldSize !== env.worldSize) {
    throw new UnavailableError(
      `Cannot join a job of ${env.worldSize} ranks of which ${env.localWorldSize} are on this host: shared memory joins the ranks of one host`,
      { hint: "run all ranks on one host, or use the backend shm+mpi" },
    );
  }
  const libc = new Libc(), window = new AddressWindow(libc);
  const host = {
    libc,
    window,
    reducers: new Reducers(window.memory),
    runId: env.runId,
    localRank: env.localRank,
    localWorldSize: env.localWorldSize,
    flight,
    cores: navigator.hardwareConcurrency, // minds affinity and control groups
  };
  return await ShmCommunicator.join(host, {
    name: env.attempt === 0 ? "world" : `world-${env.attempt}`, // a restart must not meet what its predecessor left
    rank: env.rank,
    ranks: Array.from({ length: env.worldSize }, (_, rank) => rank),
    timeoutMs,
    joinTimeoutMs,
  });
}
