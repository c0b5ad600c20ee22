/** Running a local graph on one GPU a rank: kernels and products in one stream, collectives between ranks in the same stream. */
import type { DType } from "../../core/dtype.ts";
import type { Bindings } from "../../core/dim.ts";
import { InputError } from "../../core/errors.ts";
import type { OnProgress } from "../../core/progress.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import { type Graph, outputOf, valueOf } from "../../graph/graph.ts";
import { printType, type TensorType } from "../../graph/types.ts";
import type { Program } from "../../program/program.ts";
import { segment } from "../../program/segment.ts";
import type { Recorder } from "../../trace/recorder.ts";
import { bindSymbols, evalShape } from "../cpu/shapes.ts";
import type { Executor, StepOptions, StepTiming } from "../executor.ts";
import { type CarriedTensor, carriedTensors } from "../model_state.ts";
import type { GpuDevice } from "./device.ts";
import { DeviceState, releaseCells, type StateCell } from "./device_state.ts";
import { bytesAs, sizeOf, tensorOf } from "./host_values.ts";
import { Lowerer } from "./lower.ts";
import { withOwnData } from "./own_data.ts";
import { pickTensors, topOf } from "./picking.ts";
import { StepPrograms } from "./programs.ts";
import type { StepOutput } from "./step_program.ts";
import type { RankExchange } from "./step_runner.ts";
import { WeightPool } from "./weights.ts";

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

const NONE: ReadonlySet<string> = new Set();

/** A local graph with its weights on a GPU. */
export class GpuExecutor implements Executor {
  readonly #graph: Graph<"local">;
  readonly #options: GpuOptions;
  /** In which dtype values of a dtype are held. */
  readonly #held: (dtype: DType) => DType;
  readonly #inputs: ReadonlyMap<string, TensorType>;
  readonly #outputTypes: ReadonlyMap<string, TensorType>;
  readonly #carried: readonly CarriedTensor[];
  /** Inputs that a step is given, and of carried ones that are alike, one. */
  readonly #binding: ReadonlyMap<string, TensorType>;
  /** What carried inputs become: those that are alike together. A model has few kinds of them, and many of each. */
  readonly #next: readonly { readonly type: TensorType; readonly inputs: readonly string[] }[];
  readonly #pool: WeightPool;
  readonly #lowerer: Lowerer;
  readonly #programs: StepPrograms;
  /** Memory of all states; that of a state which nobody holds any more is given back when its collection is noticed. */
  readonly #cells = new Set<Iterable<StateCell>>();
  readonly #dropped = new FinalizationRegistry<Iterable<StateCell>>((cells) => this.#release(cells));
  recorder: Recorder | undefined;
  #disposed = false;
  #program: Program | undefined;
  /** Where an output lies of which the last step gave only some elements. */
  #whole: (StepOutput & { readonly address: bigint }) | undefined;
  #timing: StepTiming = { total: 0, waiting: 0 };

  /** Uploads the weights. @throws {CudaError} If the GPU has too little memory. */
  constructor(graph: Graph<"local">, options: GpuOptions) {
    this.#graph = withOwnData(graph);
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
    const next = moving.map((c) => ({ input: c.input, type: valueOf(graph, c.value).type }));
    this.#next = [...Map.groupBy(next, (c) => printType(c.type)).values()].map((alike) => ({
      type: alike[0]!.type,
      inputs: alike.map((c) => c.input),
    }));
    const alike = Map.groupBy(this.#carried, (c) => `${printType(c.from)} ${c.to && printType(c.to)}`);
    const spare = new Set([...alike.values()].flatMap((list) => list.slice(1).map((c) => c.input)));
    this.#binding = new Map([...this.#inputs].filter(([name]) => !spare.has(name)));
    const target = { device: options.device, held: this.#held, onProgress: options.onProgress };
    this.#pool = options.weights ?? new WeightPool(target);
    const weights = this.#pool.upload(graph), { device, collectives } = options;
    this.#programs = new StepPrograms({ device, lowerer: this.#lowerer, collectives, weights });
  }

  /** What the rank does in a step, as its plan is shown; a GPU runs it in one stream. */
  get program(): Program {
    return this.#program ??= segment(this.#graph, this.#options.rank, this.#options.ranks);
  }

  get timing(): StepTiming {
    return this.#timing;
  }

  start(batch: number, capacity?: number): DeviceState {
    const state = new DeviceState(batch, this.#carried, {
      device: this.#options.device,
      held: this.#held,
      inPlace: this.#lowerer.statesInPlace,
      capacity,
    });
    this.#cells.add(state.cells);
    this.#dropped.register(state, state.cells);
    return state;
  }

  /** One run; `sizes`: of symbols that no input tells. */
  async run(inputs: Readonly<Record<string, HostTensor>>, sizes?: Bindings): Promise<Map<string, HostTensor>> {
    return await this.#step(inputs, undefined, { sizes });
  }

  async step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: DeviceState,
    { top }: StepOptions = {},
  ): Promise<Map<string, HostTensor>> {
    return await this.#step(inputs, state, { top });
  }

  async #step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: DeviceState | undefined,
    { top, sizes = [] }: StepOptions & { readonly sizes?: Iterable<readonly [string, number]> | undefined } = {},
  ): Promise<Map<string, HostTensor>> {
    const started = performance.now(), { device, collectives } = this.#options;
    // States of one kind have one shape, as steps extend them together.
    const told = bindSymbols(state ? this.#binding : this.#inputs, (name) => {
      if (state?.has(name)) return state.shapeOf(name);
      const tensor = inputs[name];
      if (!tensor) throw new InputError(`Cannot run without input "${name}"`);
      return tensor.shape;
    });
    const bindings = new Map([...sizes, ...told]);
    const nextShapes = state ? this.#nextShapes(bindings) : new Map<string, readonly number[]>();
    const own = this.#lowerer.statesInPlace, inPlace = state?.growInPlace(own) ? own : NONE;
    state?.reserve(nextShapes, inPlace);
    const { program, runner } = this.#programs.at(bindings, { state, inPlace, top: top && topOf(top) });
    const pick = top && pickTensors(program, top);
    for (const [name, { offset }] of program.inputs) {
      const own = pick?.get(name);
      if (own) program.image.set(own, offset);
      else {
        const tensor = inputs[name]!;
        program.image.set(bytesAs(tensor, this.#held(tensor.dtype)), offset);
      }
    }
    runner.run();
    this.#whole = program.whole && { ...program.whole, address: runner.addressOf(program.whole.place) };
    const fetched = program.outputs.map(({ name, place, tensor }) => {
      const bytes = sizeOf(tensor), address = runner.addressOf(place);
      return { name, tensor, address, bytes: device.fetch(address, bytes) };
    });
    const enqueued = performance.now();
    this.#programs.prepareNext();
    const ahead = performance.now() - enqueued;
    await collectives?.settled();
    await device.settled();
    const waiting = performance.now() - enqueued;
    const results = new Map(fetched.map(({ name, address, bytes, tensor: { dtype: held, shape } }) => {
      const type = { held, dtype: this.#outputTypes.get(name)?.dtype ?? held, shape };
      return [name, bytes ? tensorOf(bytes(), type) : this.#read(address, type)] as const;
    }));
    device.forgetFetched();
    state?.advance(nextShapes, inPlace);
    this.recorder?.step(started);
    const { issued } = runner, { notRecorded } = this.#programs;
    const reduces = collectives?.reduces;
    this.#timing = { total: performance.now() - started, waiting, issued, notRecorded, ahead, reduces };
    return results;
  }

  /** The whole of an output of which the last step gave only some elements; undefined where that is none. */
  whole(output: string): HostTensor | undefined {
    if (this.#whole?.name !== output) return undefined;
    const { address, tensor: { dtype: held, shape } } = this.#whole;
    return this.#read(address, { held, dtype: this.#outputTypes.get(output)?.dtype ?? held, shape });
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
    const out = new Map<string, readonly number[]>();
    for (const { type, inputs } of this.#next) {
      const shape = evalShape(type.shape, bindings);
      if (!shape) {
        throw new InputError(`Cannot keep "${inputs[0]}" on the GPU: only data tells its size`, {
          hint: "run this model on the CPU",
        });
      }
      for (const input of inputs) out.set(input, shape);
    }
    return out;
  }

  #release(cells: Iterable<StateCell>): void {
    if (!this.#cells.delete(cells)) return;
    releaseCells(cells);
  }

  /** Gives the memory back. */
  [Symbol.dispose](): void {
    for (const cells of this.#cells) this.#release(cells);
    this.#programs[Symbol.dispose]();
    if (!this.#options.weights) this.#pool[Symbol.dispose]();
    if (!this.#disposed) this.#options.onDispose?.();
    this.#disposed = true;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this[Symbol.dispose]();
    return Promise.resolve();
  }
}
