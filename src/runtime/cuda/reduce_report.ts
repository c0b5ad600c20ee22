/** By what means jobs of this host all-reduce between GPUs, and why: for `shardwise doctor`. */
import { describeError, ShardwiseError, UnavailableError } from "../../core/errors.ts";
import { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaError } from "../../ffi/cuda_error.ts";
import { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import { unreachable } from "../comm/nccl/peer_memory.ts";
import { ALL_REDUCE_VARIABLE, describeLimits, limitsOf, storedTimes, wishedAllReduce } from "./reduce_choice.ts";

/** One line; undefined where there are no two GPUs. */
export function describeAllReduces(): string | undefined {
  try {
    const driver = new CudaDriver(new CudaLibraries());
    if (driver.deviceCount < 2) return undefined;
    const wish = wishedAllReduce(), apart = unreachable(driver);
    if (wish === "nccl") return `NCCL: ${ALL_REDUCE_VARIABLE} says so`;
    if (driver.raw.cuIpcOpenMemHandle_v2 === null) return `NCCL: the driver cannot share memory between processes`;
    if (apart) return `NCCL: GPU ${apart[0]} does not reach the memory of GPU ${apart[1]}`;
    if (wish !== "auto") return `over peer memory, ${wish}: ${ALL_REDUCE_VARIABLE} says so`;
    const measured = Object.entries(storedTimes()).map(([gpus, times]) =>
      `${describeLimits(limitsOf(times), parseInt(gpus))} (${gpus})`
    );
    return measured.length > 0
      ? measured.join("; ")
      : "over peer memory or by NCCL: the first job of several ranks measures what is faster";
  } catch (error) {
    if (!(error instanceof ShardwiseError)) throw error;
    // Without a driver or a GPU there is nothing to say.
    if (error instanceof UnavailableError || error instanceof CudaError) return undefined;
    return describeError(error).split("\n")[0];
  }
}
