/** Whether ranks of this host can have a GPU each, without taking one. */
import { describeError, ShardwiseError } from "../../core/errors.ts";
import type { LaunchEnv } from "../../core/launch_env.ts";
import { Cublas } from "../../ffi/cublas.ts";
import { CublasLt } from "../../ffi/cublas_lt.ts";
import { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import { Nccl } from "../../ffi/nccl.ts";
import { Nvrtc } from "../../ffi/nvrtc.ts";
import { chooseDevice } from "../comm/nccl/nccl_process.ts";

/** Why they cannot; undefined where they can. */
export function gpuProblem(
  { localWorldSize, worldSize }: Pick<LaunchEnv, "localWorldSize" | "worldSize">,
): string | undefined {
  try {
    const libraries = new CudaLibraries(), { deviceCount, version } = new CudaDriver(libraries);
    libraries.driverVersion = version; // a newer library that loads is of no use
    // Where each rank sees one, they may be as many as the ranks: `problemOfAnyRank` tells.
    if (deviceCount === 0 || (deviceCount !== 1 && deviceCount < localWorldSize)) {
      return `${localWorldSize} ranks of this host see ${deviceCount} GPUs`;
    }
    new Nvrtc(libraries);
    new Cublas(libraries);
    new CublasLt(libraries);
    if (worldSize > 1) new Nccl(libraries);
    return undefined;
  } catch (error) {
    if (!(error instanceof ShardwiseError)) throw error;
    return describeError(error).split("\n")[0];
  }
}

/** Which GPU a rank without a problem takes, by an id that no other GPU has; undefined where drivers are too old to tell. */
export function gpuOf(env: Pick<LaunchEnv, "localRank" | "localWorldSize">): string | undefined {
  const driver = new CudaDriver(new CudaLibraries());
  if (driver.raw.cuDeviceGetUuid_v2 === null) return undefined;
  const device = new Int32Array(1), uuid = new Uint8Array(16);
  driver.call.cuDeviceGet(device, chooseDevice(driver, env));
  driver.call.cuDeviceGetUuid_v2(uuid, device[0]!);
  return uuid.toHex();
}
