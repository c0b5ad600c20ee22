/** A rank's weights on its GPU: each once, however many values name it, in the dtype that the GPU holds. */
import { type DType } from "../../core/dtype.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { OnProgress } from "../../core/progress.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import type { Graph, TensorData } from "../../graph/graph.ts";
import type { GpuDevice } from "./device.ts";
import { convertBytes, sizeOf, tensorOf } from "./host_values.ts";

/** Where weights go. */
export interface WeightTarget {
  readonly device: GpuDevice;
  /** In which dtype values of a dtype are held. */
  readonly held: (dtype: DType) => DType;
  readonly onProgress?: OnProgress | undefined;
}

/** The weights of a rank's graphs, which may share some. */
export class WeightPool implements Disposable {
  readonly #target: WeightTarget;
  readonly #known = new Map<TensorData, DeviceMemory>();

  constructor(target: WeightTarget) {
    this.#target = target;
  }

  /** Uploads the constants of `graph` that are not there yet; gives memory by value name. @throws {UnavailableError} If they do not fit. */
  upload(graph: Graph): Map<string, DeviceMemory> {
    const { device, held, onProgress } = this.#target;
    const constants = graph.nodes.flatMap((n) => n.kind === "get_attr" ? [{ name: n.outputs[0], data: n.data }] : []);
    const fresh = new Set(constants.map((c) => c.data).filter((data) => !this.#known.has(data)));
    const sizeAs = (data: TensorData) => sizeOf({ dtype: held(data.dtype), shape: data.shape });
    const total = [...fresh].reduce((sum, data) => sum + sizeAs(data), 0);
    let done = 0;
    for (const data of fresh) {
      const memory = device.memory.allocate(sizeAs(data), "weights", { total });
      this.#known.set(data, memory);
      uploadTensor(device, memory, data, held(data.dtype));
      onProgress?.("uploading weights", ++done, fresh.size);
    }
    device.synchronize(); // the file may be closed after this
    return new Map(constants.map(({ name, data }) => [name, this.#known.get(data)!]));
  }

  /** The content of a constant that was uploaded, as the model has it. */
  read(data: TensorData): HostTensor {
    const { device, held } = this.#target, { dtype, shape } = data, own = held(dtype);
    const bytes = new Uint8Array(sizeOf({ dtype: own, shape }));
    device.download(this.#known.get(data)!.value, bytes);
    return tensorOf(bytes, { held: own, dtype, shape });
  }

  [Symbol.dispose](): void {
    for (const memory of this.#known.values()) memory[Symbol.dispose]();
    this.#known.clear();
  }
}

function uploadTensor(device: GpuDevice, memory: DeviceMemory, data: TensorData, held: DType): void {
  let at = 0;
  for (const piece of data.chunks?.() ?? [data.bytes()]) {
    const bytes = convertBytes(piece, data.dtype, held);
    device.upload(memory.value + BigInt(at), bytes);
    at += bytes.length;
  }
}
