/** A model that runs across the ranks of a communicator: this rank's part of it, and the border to the caller. */
import { byteLength } from "../core/dtype.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { type Placement, REPLICATE } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";
import type { Plan } from "../plan/plan.ts";
import type { Program } from "../program/program.ts";
import type { ClockGroup } from "../trace/clock.ts";
import type { RunTrace } from "../trace/run_trace.ts";
import { checkInputs } from "./check_inputs.ts";
import type { Executor, StepTiming } from "./executor.ts";
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
  /** States that {@linkcode step} carries: KV caches. */
  readonly carried: readonly { readonly input: string; readonly output: string }[];
  /** Where every tensor lives. */
  readonly plan: Plan;
  /** The graph with its parallel layers and collectives. */
  readonly graph: Graph<"sharded">;
  /** Why the engine is not the best one; undefined where it is. */
  readonly notice: string | undefined;
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
    this.inputs = sharded.nodes.flatMap((n) =>
      n.kind === "placeholder" ? [{ name: n.outputs[0], type: valueOf(sharded, n.outputs[0]).type }] : []
    );
    const output = outputOf(sharded);
    this.outputs = output.names.map((name, i) => ({ name, type: valueOf(sharded, output.inputs[i]!).type }));
    const carriedInputs = new Set(this.carried.map((c) => c.input));
    this.#stepInputs = new Map(this.inputs.filter((i) => !carriedInputs.has(i.name)).map((i) => [i.name, i.type]));
    this.#executor = executor;
    this.#group = parts.group;
    const places = new Map<string, Placement>();
    for (const { name } of this.inputs) places.set(name, valueOf(sharded, name).placement ?? REPLICATE);
    output.names.forEach((name, i) => {
      places.set(`out:${name}`, valueOf(sharded, output.inputs[i]!).placement ?? REPLICATE);
    });
    this.#placements = places;
  }

  /** What this rank does in a step. */
  get program(): Program {
    return this.#executor.program;
  }

  /** Bytes of weights: what this rank holds, and the whole model. */
  get weightBytes(): { readonly rank: number; readonly whole: number } {
    const sum = (graph: Graph) => {
      const seen = new Set<unknown>();
      let bytes = 0;
      for (const node of graph.nodes) {
        if (node.kind !== "get_attr" || seen.has(node.data)) continue;
        seen.add(node.data);
        bytes += byteLength(node.data.dtype, node.data.shape.reduce((a, b) => a * b, 1));
      }
      return bytes;
    };
    let rank = 0;
    const seen = new Set<unknown>();
    for (const step of this.program.steps) {
      if (step.kind !== "segment") continue;
      for (const node of step.graph.nodes) {
        if (node.kind !== "get_attr" || seen.has(node.data)) continue;
        seen.add(node.data);
        rank += byteLength(node.data.dtype, node.data.shape.reduce((a, b) => a * b, 1));
      }
    }
    return { rank, whole: sum(this.graph) };
  }

  /** How the last step spent its time. */
  get timing(): StepTiming {
    return this.#executor.timing;
  }

  /**
   * Runs once on whole inputs; gives all outputs, whole, on every rank.
   *
   * @throws {InputError} If a name, dtype or shape is not what the model takes.
   */
  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<Record<string, HostTensor>> {
    checkInputs(inputs, new Map(this.inputs.map((i) => [i.name, i.type])));
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

  /** An empty state for `batch` sequences. @throws {InputError} If a carried tensor does not start empty. */
  start(batch = 1): ModelState {
    return this.#executor.start(batch);
  }

  /**
   * One step with the carried tensors in `state`, where they stay sharded. Gives the other outputs, whole, as views that
   * are valid until the next step.
   *
   * @throws {InputError} If an input is not what the model takes.
   */
  async step(inputs: Readonly<Record<string, HostTensor>>, state: ModelState): Promise<Record<string, HostTensor>> {
    checkInputs(inputs, this.#stepInputs);
    return Object.fromEntries(await this.#executor.step(inputs, state));
  }

  /**
   * Runs `body` and gives a trace of the steps that it made: what each rank did when, on one clock. `chromeTrace` makes a file of
   * it that Perfetto opens. All ranks call it together. Steps outside of it cost nothing.
   */
  async trace(body: () => Promise<unknown>): Promise<RunTrace> {
    return await traceRun(this.#executor, this.#group, body);
  }

  /** Releases the sessions. Does not wait for other ranks. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#executor[Symbol.asyncDispose]();
  }
}
