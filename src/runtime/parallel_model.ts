/** A model that runs across the ranks of a communicator: this rank's part of it, and the border to the caller. */
import { byteLength, type DType } from "../core/dtype.ts";
import { InputError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { type Placement, REPLICATE } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";
import type { Plan } from "../plan/plan.ts";
import type { Program } from "../program/program.ts";
import type { ClockGroup } from "../trace/clock.ts";
import type { RunTrace } from "../trace/run_trace.ts";
import { checkInputs, checkKnown } from "./check_inputs.ts";
import type { Executor, GpuUse, StepOptions, StepTiming } from "./executor.ts";
import type { ModelState } from "./model_state.ts";
import { copyTensor, type GatherGroup, gatherTensor, shardTensor } from "./shard_io.ts";
import { traceRun } from "./trace_run.ts";

/** An input or output of a model: its ONNX name and the type of the whole tensor. */
export interface TensorInfo {
  /** As the ONNX model calls it. */
  readonly name: string;
  /** Of the whole tensor, over the symbols of the inputs. */
  readonly type: TensorType;
}

/** The other graph of a model that has two: its first step, or what a boolean input chooses. */
export interface OtherGraph {
  /** That graph as a model of its own. */
  readonly model: ParallelModel;
  /** Whether it begins the states that the main graph carries on. */
  readonly first: boolean;
  /** The input that chooses, and its value for the other graph; undefined where the graphs are two files. */
  readonly choice: { readonly input: string; readonly value: boolean } | undefined;
  /** The inputs of the whole, in the order of the file. */
  readonly inputs: readonly TensorInfo[];
}

/** What a model is made of. */
export interface ParallelModelParts {
  /** The graph of all ranks. */
  readonly sharded: Graph<"sharded">;
  /** This rank's graph. */
  readonly local: Graph<"local">;
  /** What the solver chose. */
  readonly plan: Plan;
  /**
   * Runs the program of `local`.
   *
   * @internal
   */
  readonly executor: Executor;
  /**
   * The ranks, where whole outputs are gathered.
   *
   * @internal
   */
  readonly group: GatherGroup & ClockGroup;
  /** Why the engine is not the best one; said aloud by whoever shows it. */
  readonly notice: string | undefined;
  /**
   * The other graph, where the model has two.
   *
   * @internal
   */
  readonly other?: OtherGraph | undefined;
}

/**
 * A model in N parts, one a rank.
 *
 * All ranks call the same methods in the same order with equal inputs, and get equal results, bit by bit.
 *
 * @example
 * ```ts ignore
 * await using comm = await init();
 * await using model = await parallelizeModel("model.onnx", { comm });
 * const { logits } = await model.run({ input_ids, attention_mask });
 * ```
 */
export class ParallelModel implements AsyncDisposable {
  /** In the order of the ONNX model. */
  readonly inputs: readonly TensorInfo[];
  /** In the order of the ONNX model. */
  readonly outputs: readonly TensorInfo[];
  /** States that {@linkcode step} carries: KV caches. Those without an output stay as the first step gave them. */
  readonly carried: readonly { readonly input: string; readonly output?: string }[];
  /** Where every tensor lives. */
  readonly plan: Plan;
  /** The graph with its parallel layers and collectives. */
  readonly graph: Graph<"sharded">;
  /** Why the engine is not the best one; undefined where it is. */
  readonly notice: string | undefined;
  readonly #other: OtherGraph | undefined;
  /** The inputs of the whole. */
  readonly #inputTypes: ReadonlyMap<string, TensorType>;
  /** The inputs of this graph. */
  readonly #ownInputs: readonly TensorInfo[];
  readonly #executor: Executor;
  readonly #group: GatherGroup & ClockGroup;
  readonly #placements: ReadonlyMap<string, Placement>;
  /** Types of the inputs that a caller of `step` gives. */
  readonly #stepInputs: ReadonlyMap<string, TensorType>;

  /** Made by `parallelizeModel`; by itself for graphs that were not read from a file. */
  constructor(parts: ParallelModelParts) {
    const { sharded, executor } = parts;
    this.graph = sharded;
    this.plan = parts.plan;
    this.notice = parts.notice;
    this.carried = executor.program.carried;
    this.#other = parts.other;
    this.#ownInputs = sharded.nodes.flatMap((n) =>
      n.kind === "placeholder" ? [{ name: n.outputs[0], type: valueOf(sharded, n.outputs[0]).type }] : []
    );
    this.inputs = parts.other?.inputs ?? this.#ownInputs;
    this.#inputTypes = new Map(this.inputs.map((i) => [i.name, i.type]));
    const output = outputOf(sharded);
    this.outputs = output.names.map((name, i) => ({ name, type: valueOf(sharded, output.inputs[i]!).type }));
    const states = new Set(this.carried.map((c) => c.input));
    this.#stepInputs = new Map(this.#ownInputs.filter((i) => !states.has(i.name)).map((i) => [i.name, i.type]));
    this.#executor = executor;
    this.#group = parts.group;
    const places = new Map<string, Placement>();
    for (const { name } of this.#ownInputs) places.set(name, valueOf(sharded, name).placement ?? REPLICATE);
    output.names.forEach((name, i) => {
      places.set(`out:${name}`, valueOf(sharded, output.inputs[i]!).placement ?? REPLICATE);
    });
    this.#placements = places;
  }

  /**
   * The first step, where the model has a graph of its own for it: it takes what the later steps only read from the
   * state (an encoder's output), and no state. `first.step` begins a state of `start()`, `step` carries it on.
   */
  get first(): ParallelModel | undefined {
    return this.#other?.first ? this.#other.model : undefined;
  }

  /** What {@linkcode step} takes: this graph's inputs but the states. */
  get stepInputs(): readonly TensorInfo[] {
    return [...this.#stepInputs].map(([name, type]) => ({ name, type }));
  }

  /** What this rank does in a step. */
  get program(): Program {
    return this.#executor.program;
  }

  /** Bytes of weights, as they are held: on this rank, and of the whole model. */
  get weightBytes(): { readonly rank: number; readonly whole: number } {
    const models = this.#other ? [this, this.#other.model] : [this];
    const local = models.flatMap((m) => m.program.steps.flatMap((s) => s.kind === "segment" ? [s.graph] : []));
    const held = (dtype: DType) => this.heldDType(dtype);
    return { rank: constantBytes(local, held), whole: constantBytes(models.map((m) => m.graph), held) };
  }

  /** In which dtype values of `dtype` are held: a GPU may be told another (`dtype` of `parallelizeModel`). */
  heldDType(dtype: DType): DType {
    return this.#executor.held?.(dtype) ?? dtype;
  }

  /** The GPU that this rank computes on, and what it has of it now; undefined on CPUs. */
  get gpu(): GpuUse | undefined {
    return this.#executor.gpu;
  }

  /** How the last step spent its time. */
  get timing(): StepTiming {
    return this.#executor.timing;
  }

  /**
   * Runs once on whole inputs; gives all outputs, whole, on every rank. Inputs that only the other branch of a model with
   * branches reads (the past of a first step) are ignored, and may be left out.
   *
   * @throws {InputError} If a name, dtype or shape is not what the model takes.
   */
  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
    const chosen = this.#choose(inputs);
    if (chosen.model !== this) return await chosen.model.run(chosen.inputs);
    return await this.#runSelf(chosen.inputs);
  }

  async #runSelf(inputs: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
    checkInputs(inputs, new Map(this.#ownInputs.map((i) => [i.name, i.type])));
    const local = Object.fromEntries(
      Object.entries(inputs).map(([name, t]) => [name, shardTensor(t, this.#placements.get(name)!, this.#group.rank)]),
    );
    const results = await this.#executor.run(local);
    const outputs: Record<string, HostTensor> = {};
    for (const { name } of this.outputs) {
      const placement = this.#placements.get(`out:${name}`)!;
      outputs[name] = placement.kind === "S"
        ? gatherTensor(results.get(name)!, placement, this.#group)
        : copyTensor(results.get(name)!);
    }
    return outputs;
  }

  /**
   * An empty state for `batch` sequences. `capacity`: how many tokens each of them will hold in the end; a GPU makes room for so many at
   * once. Without it, and beyond it, room grows with the text.
   *
   * @throws {InputError} If a carried tensor does not start empty.
   */
  start(batch = 1, { capacity }: { readonly capacity?: number } = {}): ModelState {
    return this.#executor.start(batch, capacity);
  }

  /**
   * One step with the carried tensors in `state`, where they stay sharded. Gives the other outputs, whole, as views that
   * are valid until the next step. Of a model whose branches an input chooses it is the later step unless that input is
   * given and says otherwise. `options.top`: see {@linkcode StepOptions}.
   *
   * @throws {InputError} If an input is not what the model takes.
   */
  async step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: ModelState,
    options: StepOptions = {},
  ): Promise<Record<string, HostTensor>> {
    const choice = this.#other?.choice;
    const chosen = choice === undefined || Object.hasOwn(inputs, choice.input)
      ? this.#choose(inputs)
      : { model: this, inputs };
    if (chosen.model !== this) return await chosen.model.step(chosen.inputs, state, options);
    checkInputs(chosen.inputs, this.#stepInputs);
    return Object.fromEntries(await this.#executor.step(chosen.inputs, state, options));
  }

  /**
   * The whole of an output of which the last {@linkcode step} gave only some elements (`options.top`), until the next step; undefined
   * where it gave the output itself. Ranks need not wait for each other.
   */
  wholeOutput(output: string): HostTensor | undefined {
    return this.#executor.whole?.(output);
  }

  /**
   * Makes row i of `state` (the i-th sequence of the batch) what row `rows[i]` was: beam search. `oneSource` says that all
   * rows have the same encoder output, which then stays where it is. Ranks need not wait for each other.
   *
   * @throws {InputError} If a row does not exist.
   */
  reorder(
    state: ModelState,
    rows: readonly number[],
    { oneSource = false }: { readonly oneSource?: boolean } = {},
  ): void {
    state.reorder(rows, { kept: !oneSource });
  }

  /** Which graph `inputs` ask for, and what it takes of them. */
  #choose(
    inputs: Readonly<Record<string, HostTensor>>,
  ): { readonly model: ParallelModel; readonly inputs: Readonly<Record<string, HostTensor>> } {
    if (!this.#other) return { model: this, inputs };
    const { choice, model } = this.#other;
    if (choice === undefined) return { model: this, inputs };
    checkKnown(inputs, this.#inputTypes);
    const given = Object.hasOwn(inputs, choice.input) ? inputs[choice.input]! : undefined;
    if (given?.data.length !== 1) {
      throw new InputError(`Cannot run without one value of "${choice.input}", which chooses a branch of the model`, {
        hint: `give "${choice.input}" as a bool of shape [1]`,
      });
    }
    const chosen = Boolean(given.data[0]) === choice.value ? model : this;
    const own = new Set(chosen.#ownInputs.map((i) => i.name));
    return { model: chosen, inputs: Object.fromEntries(Object.entries(inputs).filter(([name]) => own.has(name))) };
  }

  /**
   * Runs `body` and gives a trace of the steps that it made: what each rank did when, on one clock. `chromeTrace` makes a file of
   * it that Perfetto opens. All ranks call it together. Steps outside of it cost nothing. Steps at sizes for which the program with
   * plain ops runs are not taken down.
   */
  async trace(body: () => Promise<unknown>): Promise<RunTrace> {
    return await traceRun(this.#executor, this.#group, body);
  }

  /** Releases the sessions. Does not wait for other ranks. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#other?.model[Symbol.asyncDispose]();
    await this.#executor[Symbol.asyncDispose]();
  }
}

/** Bytes of the constants of some graphs, each counted once. */
function constantBytes(graphs: readonly Graph[], held: (dtype: DType) => DType): number {
  const all = new Set(graphs.flatMap((g) => g.nodes.flatMap((n) => n.kind === "get_attr" ? [n.data] : [])));
  let bytes = 0;
  for (const { dtype, shape } of all) bytes += byteLength(held(dtype), shape.reduce((a, b) => a * b, 1));
  return bytes;
}
