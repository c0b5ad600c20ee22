/** Joins the ranks that mpirun started, by MPI. */
import { UnavailableError } from "../../../core/errors.ts";
import type { LaunchEnv } from "../../../core/launch_env.ts";
import { MpiLibrary } from "../../../ffi/mpi.ts";
import { findMpi, startedBy } from "../../../ffi/mpi_library.ts";
import type { EngineOptions } from "../engines.ts";
import { RendezvousError } from "../errors.ts";
import { ownIdentity, pidSpace, type ProcessIdentity } from "../process_identity.ts";
import { MpiCommunicator, type MpiJob } from "./mpi_communicator.ts";
import { MpiRuntime } from "./mpi_runtime.ts";
import { Notices } from "./notices.ts";

/**
 * The communicator of all ranks that mpirun (or srun with PMI) has started.
 *
 * @throws {UnavailableError} If there is no libmpi, listing what was tried. @throws {RendezvousError} If libmpi does not know the
 * other ranks, because another MPI's mpirun started them.
 */
export async function openMpi(options: EngineOptions): Promise<MpiCommunicator> {
  const { world } = await joinMpi(options);
  return world;
}

/** As {@linkcode openMpi}, with what makes more groups. */
export async function joinMpi(
  { env, timeoutMs, flight }: EngineOptions,
): Promise<{ world: MpiCommunicator; job: MpiJob }> {
  const variables = Deno.env.toObject(), library = new MpiLibrary(findMpi(variables));
  const cores = navigator.hardwareConcurrency; // minds affinity and control groups
  const runtime = MpiRuntime.start(library, env.localWorldSize > cores);
  const { rank, size } = runtime.place(library.handles.world);
  if (size !== env.worldSize || rank !== env.rank) {
    runtime.fail(); // the other ranks are not going to finalise with this one
    throw strangers(library, env, { rank, size });
  }
  const side = runtime.duplicate(library.handles.world), comm = runtime.duplicate(library.handles.world);
  const notices = new Notices(runtime, side), ranks = Array.from({ length: size }, (_, r) => r);
  const place = { rank, ranks, timeoutMs, world: true };
  const own: Member = {
    checked: variables.SHARDWISE_COMM_CHECK === "1",
    host: variables.SHARDWISE_PRETEND_HOSTS?.split(",")[rank] ?? runtime.hostName(),
    process: ownIdentity(),
    pidSpace: pidSpace(),
  };
  const common = { runtime, notices, side, cores, flight, localRank: env.localRank, hosts: [], processes: [] };
  const first = new MpiCommunicator({ ...common, checked: false }, { ...place, comm, name: "join" });
  const members = await first.objects.allGather(own);
  await first[Symbol.asyncDispose]();
  requireAgreement(runtime, members);
  const hosts = members.map((m) => m.host), localRank = hosts.slice(0, rank).filter((h) => h === own.host).length;
  const processes = members.map((m) => m.pidSpace === own.pidSpace ? m.process : undefined);
  const job = { ...common, hosts, processes, localRank, checked: own.checked };
  finalizeAtExit(runtime);
  return { world: new MpiCommunicator(job, { ...place, comm, name: "world" }), job };
}

/** What ranks tell each other when they join. */
interface Member {
  readonly checked: boolean;
  readonly host: string;
  readonly process: ProcessIdentity;
  readonly pidSpace: string;
}

/** Mismatches are looked for by all ranks or by none: one that did would wait for the others. */
function requireAgreement(runtime: MpiRuntime, members: readonly Member[]): void {
  const asked = members.flatMap((m, rank) => m.checked ? [rank] : []);
  if (asked.length === 0 || asked.length === members.length) return;
  runtime.fail();
  throw new RendezvousError(`Cannot join: SHARDWISE_COMM_CHECK is 1 on ranks ${asked.join(", ")} only`, {
    hint: "pass it to all ranks: mpirun -x SHARDWISE_COMM_CHECK=1 (Open MPI), or -genv SHARDWISE_COMM_CHECK 1 (MPICH)",
  });
}

/**
 * mpirun calls a job failed whose ranks end without MPI_Finalize. Where a program closes its communicator that has happened
 * already; where it only ends, without an error, it happens then.
 */
function finalizeAtExit(runtime: MpiRuntime): void {
  globalThis.addEventListener("unload", () => {
    if (Deno.exitCode === 0) runtime.finalize();
  });
}

/** Why libmpi and the environment do not agree on who this is. */
function strangers(
  library: MpiLibrary,
  env: LaunchEnv,
  found: { readonly rank: number; readonly size: number },
): Error {
  const says = `libmpi (${library.version}, ${library.path}) says rank ${found.rank} of ${found.size}`;
  const what = `Cannot join a job of ${env.worldSize} ranks as rank ${env.rank} (${env.scheme}): ${says}`;
  const starter = startedBy(Deno.env.toObject()), names = { openmpi: "Open MPI", mpich: "MPICH" } as const;
  if (starter !== undefined && starter !== (library.abi.name === "MPICH" ? "mpich" : "openmpi")) {
    return new RendezvousError(
      `${what}, because mpirun of ${names[starter]} started the ranks, and another MPI knows nothing of that`,
      {
        hint: `start them with the mpirun of ${library.abi.name}, or set SHARDWISE_LIBMPI to the libmpi of ${
          names[starter]
        }`,
      },
    );
  }
  if (env.scheme === "slurm") {
    return new RendezvousError(what, { hint: "start the ranks with srun --mpi=pmix, or --mpi=pmi2 for MPICH" });
  }
  if (starter === undefined) {
    return new UnavailableError(`${what}, because no mpirun started the ranks`, {
      hint: "start them with mpirun -n N, or use the backend shm on one host",
    });
  }
  return new RendezvousError(what, {
    hint:
      "mpirun and libmpi must be of one installation: see `mpirun --version`, and set SHARDWISE_LIBMPI to its libmpi",
  });
}
