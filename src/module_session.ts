/** From a module written in TypeScript to a running model: trace, shard, load, compile. */
import { InputError } from "./core/errors.ts";
import type { HostTensor } from "./core/host_tensor.ts";
import { type Graph, isCall, valueOf } from "./graph/graph.ts";
import { REPLICATE } from "./graph/placement.ts";
import type { TensorType } from "./graph/types.ts";
import type { Module } from "./layers/module.ts";
import type { StateTensor } from "./layers/parameter.ts";
import { localize } from "./passes/localize.ts";
import type { Plan } from "./plan/plan.ts";
import { type ExecutionOptions, openExecutors } from "./runtime/open_executor.ts";
import { ParallelModel } from "./runtime/parallel_model.ts";

/** How a module is run. */
export interface RunModuleOptions extends ExecutionOptions {
  /** The parameters by name, whole, or lazy as a file gives them; absent if the module has its data already. */
  readonly state?: ReadonlyMap<string, StateTensor>;
}

/** How a module is compiled. */
export interface CompileModuleOptions extends RunModuleOptions {
  /** Types of the inputs, by name, in the order that `forward` takes them; sizes may be symbols. */
  readonly inputs: Readonly<Record<string, TensorType>>;
}

/**
 * Traces `module` for the ranks of `comm` and compiles this rank's part. All ranks call it together, with equal modules.
 * A rank reads, or draws, just its slices of the parameters. Results are called `output`, `output_1`, ….
 *
 * @throws {GraphError} If a parameter has no data, or `state` does not fit the module.
 * @throws {ShapeError} If the inputs do not fit.
 * @example
 * ```ts ignore
 * await using comm = await init();
 * const mlp = new Sequential(
 *   new ColumnParallelLinear({ inFeatures: 64, outFeatures: 256, gatherOutput: false }),
 *   new Lambda(gelu),
 *   new RowParallelLinear({ inFeatures: 256, outFeatures: 64, inputIsParallel: true }),
 * );
 * mlp.initialize({ seed: 1 });
 * const x = { dtype: "f32", shape: [symbol("batch"), 64] } as const;
 * await using model = await compileModule(mlp, { comm, inputs: { x } });
 * const { output } = await model.run({ x: hostTensor("f32", [2, 64], new Float32Array(128)) });
 * ```
 */
export async function compileModule(module: Module, options: CompileModuleOptions): Promise<ParallelModel> {
  const { comm, state } = options;
  if (state) module.load(state);
  const sharded = module.trace(options.inputs, { ranks: comm.size });
  const local = localize(sharded, comm.rank, comm.size);
  const { executors: [executor], notice } = await openExecutors([{ sharded, local }], options);
  return new ParallelModel({
    sharded,
    local,
    plan: planOf(sharded, comm.size),
    executor: executor!,
    group: comm,
    notice,
  });
}

/**
 * Runs `module` once on whole inputs, given in the order that its `forward` takes them; the results, whole, on every rank.
 *
 * @throws {InputError} If there are no inputs.
 */
export async function runModule(
  module: Module,
  inputs: Readonly<Record<string, HostTensor>>,
  options: RunModuleOptions,
): Promise<Record<string, HostTensor>> {
  const types = Object.fromEntries(Object.entries(inputs).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
  if (Object.keys(types).length === 0) {
    throw new InputError(`Cannot run ${module.constructor.name} on no inputs`, {
      hint: "name its inputs: { x: tensor }",
    });
  }
  await using model = await compileModule(module, { ...options, inputs: types });
  return await model.run(inputs);
}

/** What the module's author decided, as a plan. Nothing was searched, so it has no cost, and reshards are nodes already. */
function planOf(graph: Graph<"sharded">, ranks: number): Plan {
  const place = (name: string) => (name === "" ? REPLICATE : valueOf(graph, name).placement ?? REPLICATE);
  return {
    ranks,
    placements: new Map([...graph.values.keys()].map((name) => [name, place(name)])),
    strategies: new Map(
      graph.nodes.filter(isCall).map((node) => [
        node.name,
        { name: "traced", inputs: node.inputs.map(place), outputs: node.outputs.map(place) },
      ]),
    ),
    reshards: [],
    cost: {
      compute: 0,
      communication: 0,
      weightBytes: 0,
      memory: { weights: 0, states: 0, activations: 0, total: 0 },
      total: 0,
    },
    gap: 0,
  };
}
