/** Running a local graph on one GPU a rank: kernels and products in one stream, collectives between ranks in the same stream. */
import { byteLength, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import type { Bindings } from "../../core/dim.ts";
import { InputError } from "../../core/errors.ts";
import { type HostTensor, hostTensorBytes } from "../../core/host_tensor.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import { type Graph, valueOf } from "../../graph/graph.ts";
import type { TensorType } from "../../graph/types.ts";
import { bindSymbols } from "../cpu/shapes.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, GpuDevice } from "./device.ts";
import { type DeviceProgram, lowerGraph, type Place } from "./lower.ts";

/** How ranks exchange device memory, in the order of the device's stream. */
export interface RankExchange {
  /** Enqueues `exchange`. */
  enqueue(exchange: Exchange, addressOf: AddressOf): void;
  /** Waits until the stream has no work, watching the other ranks. @throws {CommunicatorError} If one is lost. */
  settled(): Promise<void>;
}

/** What is needed to run a graph. */
export interface GpuOptions {
  readonly device: GpuDevice;
  readonly rank: number;
  readonly ranks: number;
  /** Undefined for one rank. */
  readonly collectives?: RankExchange | undefined;
}

/** Programs kept for sizes that come again. */
const KEPT = 8;

/** A local graph with its weights on a GPU. */
export class GpuExecutor implements Disposable {
  readonly #graph: Graph<"local">;
  readonly #options: GpuOptions;
  readonly #inputs: ReadonlyMap<string, TensorType>;
  readonly #weights = new Map<string, DeviceMemory>();
  readonly #programs = new Map<string, DeviceProgram>();
  readonly #memory = new Map<"arena" | "sizes", DeviceMemory>();
  readonly #inputMemory = new Map<string, DeviceMemory>();

  /** Uploads the weights. @throws {CudaError} If the GPU has too little memory. */
  constructor(graph: Graph<"local">, options: GpuOptions) {
    this.#graph = graph;
    this.#options = options;
    const inputs = new Map<string, TensorType>();
    for (const node of graph.nodes) {
      const [name] = "outputs" in node ? node.outputs : [];
      if (node.kind === "placeholder") inputs.set(name!, valueOf(graph, name!).type);
      if (node.kind !== "get_attr") continue;
      const bytes = node.data.bytes();
      const memory = options.device.allocate(bytes.length);
      options.device.upload(memory.value, new Uint8Array(bytes));
      this.#weights.set(name!, memory);
    }
    this.#inputs = inputs;
  }

  /** One step on this rank's local tensors; gives the graph's results by name. @throws {GraphError} If an op has no kernel. */
  async step(inputs: Readonly<Record<string, HostTensor>>): Promise<Map<string, HostTensor>> {
    const { device, collectives } = this.#options;
    const bindings = bindSymbols(this.#inputs, (name) => {
      const tensor = inputs[name];
      if (!tensor) throw new InputError(`Cannot run without input "${name}"`);
      return tensor.shape;
    });
    const program = this.#program(bindings);
    for (const name of this.#inputs.keys()) this.#uploadInput(name, inputs[name]!);
    device.upload(this.#hold("sizes", program.sizes.length), program.sizes);
    const arena = this.#hold("arena", program.arenaBytes);
    const at = (place: Place): bigint => {
      if (place.in === "arena") return arena + BigInt(place.offset);
      if (place.in === "sizes") return this.#memory.get("sizes")!.value + BigInt(place.offset);
      return (place.in === "weights" ? this.#weights : this.#inputMemory).get(place.name)!.value;
    };
    for (const command of program.commands) {
      const addressOf: AddressOf = (operand) => at(command.places(operand));
      if (command.kind === "kernel") device.launch(command.launch, addressOf);
      else if (command.kind === "gemm") device.gemm(command.step, addressOf);
      else if (collectives) collectives.enqueue(command.exchange, addressOf);
      else throw new InputError("Cannot run a graph of several ranks on one: it has no collectives");
    }
    await (collectives ? collectives.settled() : device.settled());
    return new Map(program.outputs.map(({ name, place, tensor }) => {
      const bytes = new Uint8Array(byteLength(tensor.dtype, tensor.shape.reduce((a, b) => a * b, 1)));
      device.download(at(place), bytes);
      const Elements = dtypeInfo(tensor.dtype).array!;
      const data = new Elements(bytes.buffer, 0, bytes.length / Elements.BYTES_PER_ELEMENT) as TypedArray;
      return [name, { dtype: tensor.dtype, shape: tensor.shape, data }] as const;
    }));
  }

  #program(bindings: Bindings): DeviceProgram {
    const key = [...bindings].map(([name, size]) => `${name}=${size}`).join();
    let program = this.#programs.get(key);
    if (!program) {
      const { rank, ranks, device } = this.#options;
      program = lowerGraph(this.#graph, { bindings, rank, ranks });
      device.kernels.load(program.commands.flatMap((c) => (c.kind === "kernel" ? [c.launch] : [])));
      if (this.#programs.size >= KEPT) this.#programs.delete(this.#programs.keys().next().value!);
    } else this.#programs.delete(key);
    this.#programs.set(key, program);
    return program;
  }

  #uploadInput(name: string, tensor: HostTensor): void {
    const bytes = hostTensorBytes(tensor);
    let memory = this.#inputMemory.get(name);
    if (!memory || memory.byteLength < bytes.length) {
      memory?.[Symbol.dispose]();
      this.#inputMemory.set(name, memory = this.#options.device.allocate(bytes.length));
    }
    this.#options.device.upload(memory.value, bytes as Uint8Array<ArrayBuffer>);
  }

  /** The address of memory that holds at least `bytes`. */
  #hold(what: "arena" | "sizes", bytes: number): bigint {
    let memory = this.#memory.get(what);
    if (!memory || memory.byteLength < bytes) {
      memory?.[Symbol.dispose]();
      this.#memory.set(what, memory = this.#options.device.allocate(bytes));
    }
    return memory.value;
  }

  [Symbol.dispose](): void {
    for (const memory of [...this.#weights.values(), ...this.#memory.values(), ...this.#inputMemory.values()]) {
      memory[Symbol.dispose]();
    }
  }
}
