/** A model's graph on a GPU: as one program where the GPU runs all of it, else in parts. */
import type { DType } from "../../core/dtype.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { Graph } from "../../graph/graph.ts";
import type { Program } from "../../program/program.ts";
import { segment } from "../../program/segment.ts";
import type { Recorder } from "../../trace/recorder.ts";
import { HostState } from "../cpu/host_state.ts";
import type { Executor, GpuUse, StepOptions, StepTiming } from "../executor.ts";
import { type CarriedTensor, carriedTensors, ModelState } from "../model_state.ts";
import type { DeviceState } from "./device_state.ts";
import { GpuExecutor, type GpuOptions } from "./executor.ts";
import type { HostEngine } from "./host_session.ts";
import { LoweringError } from "./lowering_error.ts";
import { deviceSubgraphs, withOwnData } from "./own_data.ts";
import { PartsExecutor } from "./parts_executor.ts";
import { gpuPeaks } from "./peaks.ts";
import type { WeightPool } from "./weights.ts";

/** What a model's graph is run by. */
export interface GpuModelOptions extends GpuOptions {
  readonly weights: WeightPool;
  readonly host: HostEngine;
  /** Whether some rank's host has to run nodes: then all ranks run in parts, as they record together or not at all. */
  readonly inParts: boolean;
}

/** A state that may move from the GPU to the host, when a step turns out to need both. */
class MovableState extends ModelState {
  at: DeviceState | HostState;

  constructor(at: DeviceState | HostState) {
    super();
    this.at = at;
  }

  get batch(): number {
    return this.at.batch;
  }

  override get(name: string): HostTensor {
    return this.at instanceof HostState ? this.at.get(name, true) : this.at.get(name);
  }

  override shapeOf(name: string): readonly number[] {
    return this.at.shapeOf(name);
  }

  override reorder(rows: readonly number[], o: { readonly kept: boolean }): void {
    this.at.reorder(rows, o);
  }

  override [Symbol.dispose](): void {
    this.at[Symbol.dispose]();
  }
}

/** A rank's part of a model on its GPU. */
export class GpuModelExecutor implements Executor {
  readonly held: (dtype: DType) => DType;
  readonly #graph: Graph<"local">;
  readonly #options: GpuModelOptions;
  /** For what it is made of. */
  readonly #own: Omit<GpuModelOptions, "onDispose">;
  readonly #carried: readonly CarriedTensor[];
  /** Has the memory of states that have not moved yet, also when the graph runs in parts. */
  readonly #whole: GpuExecutor | undefined;
  #parts: PartsExecutor | undefined;
  #program: Program | undefined;
  #timing: StepTiming = { total: 0, waiting: 0 };
  #recorder: Recorder | undefined;

  /** Uploads the weights. @throws {UnavailableError} If the GPU has too little memory. */
  constructor(graph: Graph<"local">, options: GpuModelOptions) {
    this.#graph = withOwnData(graph);
    this.#options = options;
    this.held = options.held ?? ((dtype) => dtype);
    this.#carried = carriedTensors(graph);
    const { onDispose: _, ...own } = options;
    this.#own = own;
    for (const subgraph of deviceSubgraphs(this.#graph)) options.weights.upload(subgraph);
    if (options.inParts) this.#inParts();
    else this.#whole = new GpuExecutor(this.#graph, own);
  }

  get program(): Program {
    return this.#program ??= segment(this.#graph, this.#options.rank, this.#options.ranks);
  }

  get recorder(): Recorder | undefined {
    return this.#recorder;
  }

  set recorder(recorder: Recorder | undefined) {
    this.#recorder = recorder;
    if (this.#whole) this.#whole.recorder = recorder;
  }

  get timing(): StepTiming {
    return this.#parts ? this.#timing : this.#whole!.timing;
  }

  get gpu(): GpuUse {
    const { context, memory } = this.#options.device, { name, architecture, totalBytes } = context.facts;
    return { name, architecture, totalBytes, memory: Object.fromEntries(memory.held), peaks: gpuPeaks(context) };
  }

  whole(output: string): HostTensor | undefined {
    return this.#parts ? undefined : this.#whole?.whole(output);
  }

  start(batch: number, capacity?: number): MovableState {
    const device = this.#parts ? undefined : this.#whole;
    return new MovableState(device?.start(batch, capacity) ?? new HostState(batch, this.#carried));
  }

  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Map<string, HostTensor>> {
    const whole = this.#parts ? undefined : this.#whole;
    const results = whole && await this.#unlessRefused(() => whole.run(inputs));
    return results ?? await this.#timed(this.#inParts(), new Map(Object.entries(inputs)));
  }

  async step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: MovableState,
    options: StepOptions = {},
  ): Promise<Map<string, HostTensor>> {
    const whole = this.#parts ? undefined : this.#whole, { at } = state;
    // The other graph of a model with two may have moved the state to the host.
    const results = whole && !(at instanceof HostState) &&
      await this.#unlessRefused(() => whole.step(inputs, at, options));
    return results || await this.#stepInParts(this.#inParts(), inputs, state);
  }

  /** What the whole gives; undefined, and nobody asks it again, where a GPU turns out not to run a node of it. */
  async #unlessRefused<T>(run: () => Promise<T>): Promise<T | undefined> {
    try {
      return await run();
    } catch (error) {
      if (!(error instanceof LoweringError)) throw error;
      this.#inParts(error.nodes);
      return undefined;
    }
  }

  #inParts(refused: readonly string[] = []): PartsExecutor {
    return this.#parts ??= new PartsExecutor(this.#graph, { ...this.#own, refused });
  }

  async #stepInParts(
    parts: PartsExecutor,
    inputs: Readonly<Record<string, HostTensor>>,
    state: MovableState,
  ): Promise<Map<string, HostTensor>> {
    const host = state.at instanceof HostState ? state.at : state.at = moved(state.at);
    const all = new Map(Object.entries(inputs));
    for (const { input } of this.#carried) all.set(input, host.get(input, true));
    const results = await this.#timed(parts, all), names = [...results.keys()];
    const next = this.#graph.carried.flatMap((
      c,
    ) => (c.output === undefined ? [] : [{ input: c.input, name: names[c.output]! }]));
    for (const { input, name } of next) host.advance(input, results.get(name)!, true);
    for (const { name } of next) results.delete(name);
    return results;
  }

  async #timed(parts: PartsExecutor, inputs: ReadonlyMap<string, HostTensor>): Promise<Map<string, HostTensor>> {
    const started = performance.now(), results = await parts.run(inputs);
    this.#recorder?.step(started);
    const notRecorded = `the host runs ${parts.hostOps}`;
    this.#timing = { total: performance.now() - started, waiting: 0, notRecorded };
    return results;
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#whole?.[Symbol.dispose]();
    this.#parts?.[Symbol.dispose]();
    this.#options.onDispose?.();
    return Promise.resolve();
  }
}

/** A state of the GPU, on the host; the GPU's memory is given back. */
function moved(from: DeviceState): HostState {
  const to = new HostState(from.batch, from.carried);
  for (const { input } of from.carried) to.advance(input, from.get(input), true);
  from[Symbol.dispose]();
  return to;
}
