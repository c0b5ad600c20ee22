/** What a GPU does at most, by what its driver says of clocks, buses and multiprocessors. */
import { CU_ENUM } from "../../ffi/cuda_driver.ts";
import type { CudaContext } from "../../ffi/cuda_handles.ts";
import type { GpuPeaks } from "../executor.ts";

/**
 * Additions and multiplications a clock and multiprocessor, by compute capability, in 16-bit floats on tensor cores, with sums in
 * 32 bits: NVIDIA's white papers. No attribute says it.
 */
const TENSOR_FLOPS: Readonly<Record<number, number>> = {
  70: 1024,
  75: 1024,
  80: 2048,
  86: 1024,
  89: 1024,
  90: 4096,
  100: 8192,
};

/** The peaks of the GPU of `context`; those that it does not tell (a driver that hides clocks) are absent. */
export function gpuPeaks(context: Pick<CudaContext, "attribute" | "facts">): GpuPeaks {
  const { architecture, multiprocessors } = context.facts;
  const clock = 1000 * context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_CLOCK_RATE) * multiprocessors;
  const memoryClock = 1000 * context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
  // Data goes over twice a clock.
  const memory = 2 * memoryClock * context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH) / 8;
  const tensor = (TENSOR_FLOPS[architecture] ?? 0) * clock;
  const lanes = architecture === 75 || architecture === 80 ? 64 : 128, plain = 2 * lanes * clock;
  return {
    ...(memory > 0 ? { bytesPerSecond: memory } : {}),
    flopsPerSecond: {
      ...(plain > 0 ? { f32: plain } : {}),
      // Before Ampere, tensor cores take no bf16.
      ...(tensor > 0 ? { f16: tensor, ...(architecture >= 80 ? { bf16: tensor } : {}) } : {}),
    },
  };
}
