/** Joins the ranks that mpirun started: by shared memory within a host, by MPI between hosts. */
import { Libc } from "../../../ffi/libc.ts";
import { AddressWindow } from "../address_window.ts";
import type { Communicator } from "../communicator.ts";
import type { EngineOptions } from "../engines.ts";
import { Reducers } from "../reduce_wasm.ts";
import { ShmCommunicator } from "../shm_communicator.ts";
import { HybridCommunicator } from "./hybrid_communicator.ts";
import { joinMpi } from "./open.ts";

/**
 * The communicator of all ranks of the job, on any hosts.
 *
 * @throws {UnavailableError} If there is no libmpi, or a host cannot share memory. @throws {RendezvousError} If ranks do not meet.
 */
export async function openShmMpi(options: EngineOptions): Promise<Communicator> {
  const { env, timeoutMs, joinTimeoutMs, flight } = options, { world, job } = await joinMpi(options);
  const libc = new Libc(), window = new AddressWindow(libc);
  const own = job.hosts[world.rank]!, ranks = world.ranks.filter((r) => job.hosts[r] === own);
  const runId = await world.objects.broadcast(world.rank === 0 ? crypto.randomUUID().slice(0, 13) : undefined, 0);
  const host = await ShmCommunicator.join({
    libc,
    window,
    reducers: new Reducers(window.memory),
    flight,
    runId,
    localRank: job.localRank,
    localWorldSize: env.localWorldSize,
    cores: job.cores,
  }, {
    name: `host-${[...new Set(job.hosts)].indexOf(own)}`,
    rank: ranks.indexOf(world.rank),
    ranks,
    timeoutMs,
    joinTimeoutMs,
  });
  return await HybridCommunicator.over({ mpi: job, host, inTurn: turns() }, world, { timeoutMs, world: true });
}

/** One after the other. */
function turns(): <T>(make: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (make) => {
    const made = last.then(make);
    last = made.catch(() => {});
    return made;
  };
}
