/** One thing that `shardwise bench` measures, and what is seen of a model while it runs. */
import { bindSymbols } from "../../src/runtime/cpu/shapes.ts";
import { byteLength } from "../../src/core/dtype.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import type { CausalModel } from "../../src/generate/causal_model.ts";
import { type StepWork, stepWork } from "../../src/plan/step_work.ts";
import type { ModelState } from "../../src/runtime/model_state.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import type { BenchCase } from "../job.ts";

/** What one run of a case found on this rank. */
export interface Measured extends StepWork {
  readonly ms: number;
  readonly waitingMs: number;
  /** Bytes of states before the first step that counts. */
  readonly stateBytes: number;
  readonly notRecorded?: string | undefined;
  /** On a GPU: bytes that the rank held after the step, by what they are for. */
  readonly gpuMemory?: Readonly<Record<string, number>> | undefined;
}

/** A case. */
export interface Case extends Pick<BenchCase, "kind" | "tokens"> {
  /** Runs it once. All ranks call it together. */
  readonly run: () => Promise<Measured>;
}

/** Takes down what steps of a model are, from outside of it. */
export class Watch {
  /** The model, watched. */
  readonly model: CausalModel<ModelState> & Pick<ParallelModel, "inputs">;
  readonly #waits: number[] = [];
  /** The first step since the last call of `taken`, and the shapes that it was given. */
  #step: { readonly model: ParallelModel; readonly shapes: ReadonlyMap<string, readonly number[]> } | undefined;

  /** Watches `model`, and its first step where that is another graph. */
  constructor(model: ParallelModel) {
    this.model = { ...this.#watched(model), first: model.first && this.#watched(model.first) };
  }

  #watched(model: ParallelModel): CausalModel<ModelState> & Pick<ParallelModel, "inputs"> {
    const { inputs, stepInputs, outputs, carried } = model;
    return {
      inputs,
      stepInputs,
      outputs,
      carried,
      step: async (given, state, options) => {
        this.#see(model, given, state);
        const results = await model.step(given, state, options);
        this.#waits.push(model.timing.waiting);
        return results;
      },
      run: async (given) => {
        this.#see(model, given);
        const results = await model.run(given);
        this.#waits.push(model.timing.waiting);
        return results;
      },
      start: (batch, options) => model.start(batch, options),
      reorder: (state, rows, options) => model.reorder(state, rows, options),
    };
  }

  #see(model: ParallelModel, given: Readonly<Record<string, HostTensor>>, state?: ModelState): void {
    if (this.#step) return;
    const shapes = new Map(Object.entries(given).map(([name, { shape }]) => [name, shape]));
    for (const { input } of state ? model.carried : []) shapes.set(input, state!.shapeOf(input));
    this.#step = { model, shapes };
  }

  /** Of the steps since the last call: how long each waited on the mean, and the work of the first. */
  taken(): Omit<Measured, "ms"> {
    const waits = this.#waits.splice(0), step = this.#step;
    if (!step) throw new Error("Cannot tell of steps before there was one");
    this.#step = undefined;
    return { waitingMs: waits.reduce((a, b) => a + b, 0) / waits.length, ...workOf(step.model, step.shapes) };
  }

  /** Forgets the steps so far. */
  forget(): void {
    this.#waits.length = 0;
    this.#step = undefined;
  }
}

function workOf(
  model: ParallelModel,
  shapes: ReadonlyMap<string, readonly number[]>,
): StepWork & Pick<Measured, "stateBytes" | "notRecorded" | "gpuMemory"> {
  const { program, graph } = model, held = (dtype: Parameters<typeof model.heldDType>[0]) => model.heldDType(dtype);
  const types = new Map([...program.inputs].filter(([name]) => shapes.has(name)));
  const sizes = bindSymbols(types, (name) => shapes.get(name)!);
  const states = new Set(model.carried.map((c) => c.input));
  let stateBytes = 0;
  for (const [name, { dtype }] of types) {
    if (states.has(name) && dtype) stateBytes += byteLength(held(dtype), shapes.get(name)!.reduce((a, b) => a * b, 1));
  }
  const { notRecorded } = model.timing, gpuMemory = model.gpu?.memory;
  return { ...stepWork(graph, { rank: program.rank, sizes, held }), stateBytes, notRecorded, gpuMemory };
}
