/** Whether ranks of this host can have a GPU each, without taking one. */
import { describeError, ShardwiseError } from "../../core/errors.ts";
import type { LaunchEnv } from "../../core/launch_env.ts";
import { Cublas } from "../../ffi/cublas.ts";
import { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import { Nccl } from "../../ffi/nccl.ts";
import { Nvrtc } from "../../ffi/nvrtc.ts";

/** Why they cannot; undefined where they can. */
export function gpuProblem(
  { localWorldSize, worldSize }: Pick<LaunchEnv, "localWorldSize" | "worldSize">,
): string | undefined {
  try {
    const libraries = new CudaLibraries(), { deviceCount, version } = new CudaDriver(libraries);
    libraries.driverVersion = version; // a newer library that loads is of no use
    if (deviceCount < localWorldSize) return `${localWorldSize} ranks of this host see ${deviceCount} GPUs`;
    new Nvrtc(libraries);
    new Cublas(libraries);
    if (worldSize > 1) new Nccl(libraries);
    return undefined;
  } catch (error) {
    if (!(error instanceof ShardwiseError)) throw error;
    return describeError(error).split("\n")[0];
  }
}
