/** The engines that can carry a communicator, by name: what opens each, loaded only when it is asked for. */
import { UnavailableError, UsageError } from "../../core/errors.ts";
import type { LaunchEnv } from "../../core/launch_env.ts";
import { didYouMean } from "../../core/suggest.ts";
import type { Backend, Communicator } from "./communicator.ts";
import type { FlightRecorder } from "./flight_recorder.ts";

/** What every engine is told of the job. */
export interface EngineOptions {
  readonly env: LaunchEnv;
  /** How long a collective waits for the other ranks, in milliseconds. */
  readonly timeoutMs: number;
  /** How long to wait for all ranks to start, in milliseconds. */
  readonly joinTimeoutMs: number;
  /** Remembers the last collectives; told of the first failure. */
  readonly flight: FlightRecorder;
}

/** Joins the job. @throws {UnavailableError} If what the engine needs is not here, saying what to install. */
export type OpenEngine = (options: EngineOptions) => Promise<Communicator>;

/** One line an engine; the import is of one file that only this engine needs. */
const ENGINES: Readonly<Partial<Record<Backend, () => Promise<OpenEngine>>>> = {
  local: async () => (await import("./local.ts")).openLocal,
  shm: async () => (await import("./open_shm.ts")).openShm,
  mpi: async () => (await import("./mpi/open.ts")).openMpi,
  nccl: async () => (await import("./nccl/open.ts")).openNccl,
  "shm+mpi": async () => (await import("./mpi/open_hybrid.ts")).openShmMpi,
};

/** What a user may ask for: an engine, or `auto`. */
export type BackendChoice = "auto" | Backend;
/** All of them. */
export const BACKENDS: readonly BackendChoice[] = ["auto", "local", "shm", "mpi", "nccl", "shm+mpi"];

/** What is missing where an engine is not there. */
const NEEDS: Readonly<Record<Backend, string>> = {
  local: "it is part of Shardwise",
  shm: "it is part of Shardwise, and needs Linux",
  mpi: "install Open MPI or MPICH (libmpi.so), and start the ranks with its mpirun",
  nccl: "install NCCL (libnccl.so.2) and an NVIDIA driver",
  "shm+mpi": "install Open MPI or MPICH (libmpi.so), and start the ranks with its mpirun",
};

/** @throws {UsageError} Unless `name` is a backend. */
export function requireBackend(name: string): BackendChoice {
  const found = BACKENDS.find((backend) => backend === name);
  if (found !== undefined) return found;
  throw new UsageError(`Unknown backend ${JSON.stringify(name)}${didYouMean(name, BACKENDS)}`, {
    hint: `use one of ${BACKENDS.join(", ")}`,
  });
}

/** Joins the job by the engine `choice`. @throws {UnavailableError} If there is none, or it cannot join these ranks. */
export async function openEngine(choice: BackendChoice, options: EngineOptions): Promise<Communicator> {
  const name = choice === "auto" ? chooseEngine(options.env) : choice;
  const load = ENGINES[name];
  if (load === undefined) {
    throw new UnavailableError(`Cannot join the job by backend ${name}: this Shardwise has no such engine`, {
      hint: NEEDS[name],
    });
  }
  return await (await load())(options);
}

/** One rank needs nobody, ranks of one host share memory, and hosts talk by MPI. */
function chooseEngine(env: LaunchEnv): Backend {
  if (env.worldSize === 1) return "local";
  return env.localWorldSize === env.worldSize ? "shm" : "shm+mpi";
}
