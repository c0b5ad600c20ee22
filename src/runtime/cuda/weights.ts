/** A rank's weights on its GPU: each once, however many values name it, in the dtype that the GPU holds. */
import { type DType } from "../../core/dtype.ts";
import type { OnProgress } from "../../core/progress.ts";
import { UnavailableError } from "../../core/errors.ts";
import { CudaError } from "../../ffi/cuda_error.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import type { Graph, TensorData } from "../../graph/graph.ts";
import type { GpuDevice } from "./device.ts";
import { convertBytes, sizeOf } from "./host_values.ts";

/** Where weights go. */
export interface WeightTarget {
  readonly device: GpuDevice;
  /** In which dtype values of a dtype are held. */
  readonly held: (dtype: DType) => DType;
  readonly onProgress?: OnProgress | undefined;
}

/** Uploads the constants of `graph`; gives their memory by value name. @throws {UnavailableError} If they do not fit. */
export function uploadWeights(graph: Graph<"local">, target: WeightTarget): Map<string, DeviceMemory> {
  const { device, held, onProgress } = target;
  const constants = graph.nodes.flatMap((n) => (n.kind === "get_attr" ? [{ name: n.outputs[0], data: n.data }] : []));
  const known = new Map<TensorData, DeviceMemory>(), weights = new Map<string, DeviceMemory>();
  const sizes = new Map(constants.map(({ data }) => [data, sizeOf({ dtype: held(data.dtype), shape: data.shape })]));
  const total = [...sizes.values()].reduce((a, b) => a + b, 0);
  let done = 0;
  try {
    for (const { name, data } of constants) {
      let memory = known.get(data);
      if (!memory) {
        memory = device.allocate(sizes.get(data)!);
        known.set(data, memory);
        uploadTensor(device, memory, data, held(data.dtype));
        onProgress?.("uploading weights", ++done, sizes.size);
      }
      weights.set(name, memory);
    }
  } catch (error) {
    for (const memory of known.values()) memory[Symbol.dispose]();
    if (error instanceof CudaError && error.codeName === "CUDA_ERROR_OUT_OF_MEMORY") {
      throw tooLarge(device, total, error);
    }
    throw error;
  }
  // Uploads read staging memory that later ones use again.
  device.synchronize();
  return weights;
}

function uploadTensor(device: GpuDevice, memory: DeviceMemory, data: TensorData, held: DType): void {
  let at = 0;
  for (const piece of data.chunks?.() ?? [data.bytes()]) {
    const bytes = convertBytes(piece, data.dtype, held);
    device.upload(memory.value + BigInt(at), bytes);
    at += bytes.length;
  }
}

function tooLarge(device: GpuDevice, total: number, cause: CudaError): UnavailableError {
  const { free, total: all } = device.context.memory(), { name } = device.context.facts;
  const gib = (bytes: number) =>
    bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(2)} GiB`;
  return new UnavailableError(
    `Cannot hold this rank's weights of ${gib(total)} on GPU ${device.context.ordinal} (${name}): ${gib(free)} of ${
      gib(all)
    } are free`,
    { hint: "use more ranks, --dtype bf16 or fp16, or 4-bit weights; nvidia-smi shows who else holds memory", cause },
  );
}
