/** The communicator of this process, from the environment that the launcher gave it. */
import { type EnvRecord, filled } from "../../core/env_record.ts";
import { detectLaunchEnv, type LaunchEnv } from "../../core/launch_env.ts";
import type { Communicator } from "./communicator.ts";
import { flightFile, FlightRecorder } from "./flight_recorder.ts";
import { type DeviceChoice, requireDevice } from "../device_choice.ts";
import { type BackendChoice, openEngine, requireBackend } from "./engines.ts";

/** How long ranks wait for each other to tell whether they have a GPU. */
const MEETING_MS = 60_000;

/** Options of {@linkcode init}. */
export interface InitOptions {
  /**
   * What carries the communicator; default `SHARDWISE_BACKEND`, else `auto`: nothing for one rank, shared memory where all ranks
   * are on one host, and MPI between hosts.
   */
  readonly backend?: BackendChoice;
  /**
   * On what the ranks will compute; default `SHARDWISE_DEVICE`, else `cpu`. Ranks with GPUs are joined by NCCL unless `backend` says
   * otherwise.
   */
  readonly device?: DeviceChoice;
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
 * @throws {UsageError} If the variables are no numbers or contradict each other, or name no backend.
 * @throws {RendezvousError} If ranks are missing. @throws {UnavailableError} If the backend is not here, or cannot join these ranks.
 * @example
 * ```ts ignore
 * await using comm = await init();
 * const sum = new Float32Array([comm.rank]);
 * await comm.allReduce(sum);
 * ```
 */
export async function init(options: InitOptions = {}): Promise<Communicator> {
  const record = options.env ?? Deno.env.toObject();
  const asked = requireBackend(
    options.backend ?? (filled(record, "SHARDWISE_BACKEND") ? record.SHARDWISE_BACKEND! : "auto"),
  );
  const device = requireDevice(
    options.device ?? (filled(record, "SHARDWISE_DEVICE") ? record.SHARDWISE_DEVICE! : "cpu"),
  );
  const backend = asked === "auto" ? await backendFor(device, record) : asked;
  const env = jobOf(record, backend), flight = new FlightRecorder(env, flightFile(record, env));
  // Only where the launcher's shim listens too: alone, the last listener's going would make the signal deadly again.
  if (filled(record, "SHARDWISE_LAUNCHER_PID")) flight.listen();
  return await openEngine(backend, {
    env,
    flight,
    timeoutMs: options.timeoutMs ?? 600_000,
    joinTimeoutMs: options.joinTimeoutMs ?? 60_000,
  });
}

/** NCCL for several ranks with a GPU each. */
async function backendFor(device: DeviceChoice, record: EnvRecord): Promise<BackendChoice> {
  if (device === "cpu") return "auto";
  const env = jobOf(record, "nccl");
  if (env.worldSize === 1) return "auto";
  if (device === "cuda") return "nccl";
  return await allHaveGpus(env) ? "nccl" : "auto";
}

/** Whether NCCL can join the ranks. Those of one host ask each other, as one that cannot would be waited for in vain. */
async function allHaveGpus(env: LaunchEnv): Promise<boolean> {
  const { gpuProblem } = await import("../cuda/probe.ts"), problem = gpuProblem(env);
  // Hosts would have to ask each other by MPI, which a process can begin only once.
  if (env.localWorldSize !== env.worldSize) return problem === undefined;
  const { problemOfAnyRank } = await import("../cuda/agree.ts");
  await using meeting = await openEngine("shm", {
    env: { ...env, runId: `${env.runId}-gpus` },
    flight: new FlightRecorder(env),
    timeoutMs: MEETING_MS,
    joinTimeoutMs: MEETING_MS,
  });
  return await problemOfAnyRank(meeting, { problem }) === undefined;
}

/**
 * The place of this process in its job, as far as `backend` must know it: Hydra gives ranks on several hosts no address, which is
 * an error for whoever needs one, but MPI and shared memory do not.
 */
export function jobOf(record: EnvRecord, backend: BackendChoice): LaunchEnv {
  const needless = backend !== "nccl" && filled(record, "PMI_SIZE") && !filled(record, "MASTER_ADDR");
  return detectLaunchEnv(needless ? { ...record, MASTER_ADDR: "localhost" } : record);
}
