/** What all NCCL groups of a process share: the libraries, the GPU, and who this process is. */
import { InputError, UnavailableError } from "../../../core/errors.ts";
import type { LaunchEnv } from "../../../core/launch_env.ts";
import { CudaContext, type DeviceFacts } from "../../../ffi/cuda_handles.ts";
import { CudaDriver } from "../../../ffi/cuda_driver.ts";
import { CudaLibraries } from "../../../ffi/cuda_libraries.ts";
import { Libc } from "../../../ffi/libc.ts";
import { Nccl } from "../../../ffi/nccl.ts";
import { AddressWindow } from "../address_window.ts";
import type { FlightRecorder } from "../flight_recorder.ts";
import { Reducers } from "../reduce_wasm.ts";

/** The GPU side of a process, as a CUDA runtime shares it with the communicator. */
export interface NcclDevice {
  readonly driver: CudaDriver;
  /** Current on this thread. */
  readonly context: CudaContext;
  readonly libraries: CudaLibraries;
}

/** A process that talks by NCCL. */
export class NcclProcess {
  readonly nccl: Nccl;
  readonly libraries: CudaLibraries;
  readonly driver: CudaDriver;
  readonly context: CudaContext;
  readonly facts: DeviceFacts;
  readonly libc: Libc;
  readonly window: AddressWindow;
  readonly reducers: Reducers;
  readonly env: LaunchEnv;
  /** Remembers what all groups did last. */
  readonly flight: FlightRecorder;
  readonly cores: number = navigator.hardwareConcurrency; // minds affinity and control groups

  /**
   * Uses `device`, or GPU number LOCAL_RANK of those that CUDA_VISIBLE_DEVICES shows; the only one, where it shows one.
   *
   * @throws {UnavailableError} If a library is missing, or there are more ranks on this host than GPUs.
   */
  constructor({ env, flight }: { readonly env: LaunchEnv; readonly flight: FlightRecorder }, device?: NcclDevice) {
    const libraries = this.libraries = device?.libraries ?? new CudaLibraries();
    this.env = env;
    this.flight = flight;
    this.driver = device?.driver ?? new CudaDriver(libraries);
    libraries.driverVersion ??= this.driver.version;
    this.nccl = new Nccl(libraries);
    this.context = device?.context ?? new CudaContext(this.driver, chooseDevice(this.driver, env));
    this.facts = this.context.facts;
    this.libc = new Libc();
    this.window = new AddressWindow(this.libc);
    this.reducers = new Reducers(this.window.memory);
    if (!/^[0-9a-f]{32}$/.test(this.facts.uuid)) throw new InputError(`Cannot use a GPU of id ${this.facts.uuid}`);
  }
}

/** The number of this rank's GPU. @throws {UnavailableError} If there are too few. */
export function chooseDevice(driver: CudaDriver, env: Pick<LaunchEnv, "localRank" | "localWorldSize">): number {
  const count = driver.deviceCount;
  if (count === 1) return 0; // the launcher gave each rank its own; two ranks of one GPU are told when they meet
  if (env.localRank < count) return env.localRank;
  throw new UnavailableError(
    `Cannot give rank ${env.localRank} of ${env.localWorldSize} on this host a GPU: ${count} are visible`,
    { hint: `start at most ${count} ranks a host; with SHARDWISE_BACKEND=shm ranks share GPUs, which is slow` },
  );
}
