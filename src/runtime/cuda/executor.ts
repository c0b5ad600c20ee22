/** Running a local graph on one GPU a rank: kernels and products in one stream, collectives between ranks in the same stream. */
import type { DType } from "../../core/dtype.ts";
import { type Bindings, evalDim } from "../../core/dim.ts";
import { InputError } from "../../core/errors.ts";
import type { OnProgress } from "../../core/progress.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import { inlineData } from "../../graph/builder.ts";
import { type Attribute, type Graph, isCall, outputOf, valueOf } from "../../graph/graph.ts";
import type { TensorType } from "../../graph/types.ts";
import type { Program } from "../../program/program.ts";
import { segment } from "../../program/segment.ts";
import type { Recorder } from "../../trace/recorder.ts";
import { bindSymbols } from "../cpu/shapes.ts";
import type { Executor, StepTiming } from "../executor.ts";
import { type CarriedTensor, carriedTensors } from "../model_state.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, GpuDevice } from "./device.ts";
import { DeviceState, releaseCells, type StateCell } from "./device_state.ts";
import { bytesAs, sizeOf, tensorOf } from "./host_values.ts";
import { type Command, type DeviceProgram, Lowerer, type Place } from "./lower.ts";
import { WeightPool } from "./weights.ts";

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
  /** Weights that graphs of one model share; the executor's own by default. */
  readonly weights?: WeightPool;
  /** Called when the executor is disposed. */
  readonly onDispose?: () => void;
  /** In which dtype values of a dtype are held; in their own by default. */
  readonly held?: (dtype: DType) => DType;
  /** Told how far it is. */
  readonly onProgress?: OnProgress | undefined;
}

/** Programs kept for sizes that come again. */
const KEPT = 8;

/** A local graph with its weights on a GPU. */
export class GpuExecutor implements Executor {
  readonly #graph: Graph<"local">;
  readonly #options: GpuOptions;
  readonly #held: (dtype: DType) => DType;
  readonly #inputs: ReadonlyMap<string, TensorType>;
  readonly #outputTypes: ReadonlyMap<string, TensorType>;
  readonly #carried: readonly CarriedTensor[];
  /** The carried input that each value becomes. */
  readonly #states: ReadonlyMap<string, string>;
  /** The type of what each of those inputs becomes. */
  readonly #next: ReadonlyMap<string, TensorType>;
  readonly #pool: WeightPool;
  readonly #weights: ReadonlyMap<string, DeviceMemory>;
  readonly #lowerer: Lowerer;
  readonly #programs = new Map<string, DeviceProgram>();
  readonly #memory = new Map<"arena" | "sizes", DeviceMemory>();
  readonly #inputMemory = new Map<string, DeviceMemory>();
  /** Memory of all states; that of a state which nobody holds any more is given back when its collection is noticed. */
  readonly #cells = new Set<Iterable<StateCell>>();
  readonly #dropped = new FinalizationRegistry<Iterable<StateCell>>((cells) => this.#release(cells));
  recorder: Recorder | undefined;
  #disposed = false;
  #program: Program | undefined;
  #timing: StepTiming = { total: 0, waiting: 0 };

  /** Uploads the weights. @throws {CudaError} If the GPU has too little memory. */
  constructor(graph: Graph<"local">, options: GpuOptions) {
    this.#graph = withOwnAttributes(graph);
    this.#options = options;
    this.#held = options.held ?? ((dtype) => dtype);
    this.#inputs = new Map(
      graph.nodes.flatMap((n) =>
        n.kind === "placeholder" ? [[n.outputs[0], valueOf(graph, n.outputs[0]).type] as const] : []
      ),
    );
    const { names, inputs } = outputOf(graph);
    this.#outputTypes = new Map(names.map((name, i) => [name, valueOf(graph, inputs[i]!).type]));
    this.#lowerer = new Lowerer(this.#graph, { rank: options.rank, ranks: options.ranks, held: this.#held });
    this.#carried = carriedTensors(graph);
    const moving = graph.carried.flatMap((c) => (c.output === undefined ? [] : [{ ...c, value: inputs[c.output]! }]));
    this.#states = new Map(moving.map((c) => [c.value, c.input]));
    this.#next = new Map(moving.map((c) => [c.input, valueOf(graph, c.value).type]));
    const target = { device: options.device, held: this.#held, onProgress: options.onProgress };
    this.#pool = options.weights ?? new WeightPool(target);
    this.#weights = this.#pool.upload(graph);
  }

  /** What the rank does in a step, as its plan is shown; a GPU runs it in one stream. */
  get program(): Program {
    return this.#program ??= segment(this.#graph, this.#options.rank, this.#options.ranks);
  }

  get timing(): StepTiming {
    return this.#timing;
  }

  start(batch: number): DeviceState {
    const state = new DeviceState(batch, this.#carried, {
      device: this.#options.device,
      held: this.#held,
      read: (cell) => this.#read(cell.memory?.value ?? 0n, { held: cell.dtype, dtype: cell.dtype, shape: cell.shape }),
    });
    this.#cells.add(state.cells);
    this.#dropped.register(state, state.cells);
    return state;
  }

  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Map<string, HostTensor>> {
    return await this.#step(inputs, undefined);
  }

  async step(inputs: Readonly<Record<string, HostTensor>>, state: DeviceState): Promise<Map<string, HostTensor>> {
    return await this.#step(inputs, state);
  }

  async #step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: DeviceState | undefined,
  ): Promise<Map<string, HostTensor>> {
    const started = performance.now(), { device, collectives } = this.#options;
    const carried = new Set(state ? this.#carried.map((c) => c.input) : []);
    const bindings = bindSymbols(this.#inputs, (name) => {
      if (carried.has(name)) return state!.shapeOf(name);
      const tensor = inputs[name];
      if (!tensor) throw new InputError(`Cannot run without input "${name}"`);
      return tensor.shape;
    });
    const program = this.#lower(bindings, state !== undefined);
    for (const name of this.#inputs.keys()) if (!carried.has(name)) this.#uploadInput(name, inputs[name]!);
    device.upload(this.#hold("sizes", program.sizes.length), program.sizes);
    const nextShapes = state ? this.#nextShapes(bindings) : new Map<string, readonly number[]>();
    const next = new Map([...nextShapes].map(([name, shape]) => [name, state!.next(name, shape)]));
    const arena = this.#hold("arena", program.arenaBytes), sizes = this.#memory.get("sizes")!.value;
    const at = (place: Place): bigint => {
      if (place.in === "arena") return arena + BigInt(place.offset);
      if (place.in === "sizes") return sizes + BigInt(place.offset);
      if (place.in === "weights") return this.#weights.get(place.name)!.value;
      if (place.in === "next") return next.get(place.name)!;
      return carried.has(place.name) ? state!.addressOf(place.name) : this.#inputMemory.get(place.name)!.value;
    };
    for (const command of program.commands) this.#enqueue(command, at);
    const issued = performance.now();
    await collectives?.settled();
    await device.settled();
    const waiting = performance.now() - issued;
    const results = new Map(
      program.outputs.map(({ name, place, tensor: { dtype: held, shape } }) =>
        [name, this.#read(at(place), { held, dtype: this.#outputTypes.get(name)!.dtype!, shape })] as const
      ),
    );
    for (const [name, shape] of nextShapes) state!.advance(name, shape);
    this.recorder?.step(started);
    this.#timing = { total: performance.now() - started, waiting };
    return results;
  }

  #enqueue(command: Command, at: (place: Place) => bigint): void {
    const { device, collectives } = this.#options;
    if (command.kind === "copy") return device.copy(at(command.to), at(command.from), command.bytes);
    const addressOf: AddressOf = (operand) => at(command.places(operand));
    if (command.kind === "kernel") device.launch(command.launch, addressOf);
    else if (command.kind === "gemm") device.gemm(command.step, addressOf);
    else if (collectives) collectives.enqueue(command.exchange, addressOf);
    else throw new InputError("Cannot run a graph of several ranks on one: it has no collectives");
  }

  #read(
    address: bigint,
    type: { readonly held: DType; readonly dtype: DType; readonly shape: readonly number[] },
  ): HostTensor {
    const bytes = new Uint8Array(sizeOf({ dtype: type.held, shape: type.shape }));
    this.#options.device.download(address, bytes);
    return tensorOf(bytes, type);
  }

  /** Shapes of the states after a step. */
  #nextShapes(bindings: Bindings): Map<string, readonly number[]> {
    return new Map([...this.#next].map(([input, type]) => {
      const shape = type.shape?.map((d) => evalDim(d, bindings));
      if (!shape || shape.includes(undefined)) {
        throw new InputError(`Cannot keep "${input}" on the GPU: only data tells its size`, {
          hint: "run this model on the CPU",
        });
      }
      return [input, shape as number[]] as const;
    }));
  }

  #lower(bindings: Bindings, withStates: boolean): DeviceProgram {
    const key = `${withStates} ${[...bindings].map(([name, size]) => `${name}=${size}`).join()}`;
    let program = this.#programs.get(key);
    if (!program) {
      program = this.#lowerer.lower(bindings, withStates ? this.#states : undefined);
      this.#options.device.kernels.load(program.commands.flatMap((c) => (c.kind === "kernel" ? [c.launch] : [])));
      if (this.#programs.size >= KEPT) this.#programs.delete(this.#programs.keys().next().value!);
    } else this.#programs.delete(key);
    this.#programs.set(key, program);
    return program;
  }

  #uploadInput(name: string, tensor: HostTensor): void {
    const bytes = bytesAs(tensor, this.#held(tensor.dtype));
    let memory = this.#inputMemory.get(name);
    if (!memory || memory.byteLength < bytes.length) {
      memory?.[Symbol.dispose]();
      this.#inputMemory.set(name, memory = this.#options.device.allocate(bytes.length));
    }
    this.#options.device.upload(memory.value, bytes);
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

  #release(cells: Iterable<StateCell>): void {
    if (!this.#cells.delete(cells)) return;
    releaseCells(cells);
  }

  /** Gives the memory back. */
  [Symbol.dispose](): void {
    for (const cells of this.#cells) this.#release(cells);
    for (const memory of [...this.#memory.values(), ...this.#inputMemory.values()]) memory[Symbol.dispose]();
    if (!this.#options.weights) this.#pool[Symbol.dispose]();
    if (!this.#disposed) this.#options.onDispose?.();
    this.#disposed = true;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]();
    return Promise.resolve();
  }
}

/** The graph with tensor attributes of its own: a step reads them when the model's file is closed already. */
function withOwnAttributes(graph: Graph<"local">): Graph<"local"> {
  const own = (attribute: Attribute): Attribute =>
    attribute.kind === "tensor"
      ? {
        kind: "tensor",
        value: inlineData(attribute.value.dtype, attribute.value.shape, attribute.value.bytes().slice()),
      }
      : attribute;
  const nodes = graph.nodes.map((node) => {
    if (!isCall(node) || !Object.values(node.attributes).some((a) => a.kind === "tensor")) return node;
    return { ...node, attributes: Object.fromEntries(Object.entries(node.attributes).map(([k, a]) => [k, own(a)])) };
  });
  return { ...graph, nodes };
}
