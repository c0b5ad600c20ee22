/** Modules: parameters with names, and what is computed with them. */
import { GraphError } from "../core/errors.ts";
import { didYouMean } from "../core/suggest.ts";
import type { Graph, Value } from "../graph/graph.ts";
import type { TensorType } from "../graph/types.ts";
import { verify } from "../graph/verify.ts";
import { Parameter, type ParameterOptions, type StateTensor } from "./parameter.ts";
import { Trace } from "./trace.ts";

/** How a state is loaded. */
export interface LoadOptions {
  /** In front of all names in the state: `model.` where a checkpoint wraps the module. */
  readonly prefix?: string;
  /** Whether names of the state that no parameter has are errors; true by default. */
  readonly strict?: boolean;
}

/**
 * A part of a model: parameters, parts of its own, and a forward function.
 *
 * A module is declared for the whole model; how many ranks share it is known only when it is traced.
 *
 * @example A gated MLP of Llama, column then row, with one all-reduce
 * ```ts
 * import { Module } from "./module.ts";
 * import { silu } from "./activations.ts";
 * import { ColumnParallelLinear } from "./column_parallel_linear.ts";
 * import { RowParallelLinear } from "./row_parallel_linear.ts";
 * import type { Trace } from "./trace.ts";
 * import type { Value } from "../graph/graph.ts";
 *
 * class GatedMlp extends Module {
 *   readonly #up = { inFeatures: 12, outFeatures: 30, bias: false, gatherOutput: false };
 *   readonly gate = this.child("gate_proj", new ColumnParallelLinear(this.#up));
 *   readonly up = this.child("up_proj", new ColumnParallelLinear(this.#up));
 *   readonly down = this.child(
 *     "down_proj",
 *     new RowParallelLinear({ inFeatures: 30, outFeatures: 12, bias: false, inputIsParallel: true }),
 *   );
 *
 *   override forward(trace: Trace, x: Value): Value {
 *     const gated = trace.call("Mul", [silu(trace, this.gate.forward(trace, x)), this.up.forward(trace, x)]);
 *     return this.down.forward(trace, gated);
 *   }
 * }
 *
 * const mlp = new GatedMlp();
 * mlp.initialize({ seed: 1 });
 * const graph = mlp.trace({ x: { dtype: "f32", shape: [2, 12] } }, { ranks: 4 });
 * const collectives = graph.nodes.filter((node) => node.kind === "collective");
 * if (collectives.length !== 1) throw new Error("expected one all-reduce");
 * ```
 */
export abstract class Module {
  readonly #parameters = new Map<string, Parameter>();
  readonly #children = new Map<string, Module>();

  /** Appends what the module computes to a graph. */
  abstract forward(trace: Trace, ...inputs: Value[]): Value | readonly Value[];

  /** Declares a parameter, or shares that of another module: tied weights. */
  protected parameter(name: string, parameter: ParameterOptions | Parameter): Parameter {
    this.#refuseTwice(name);
    const made = parameter instanceof Parameter ? parameter : new Parameter(parameter);
    this.#parameters.set(name, made);
    return made;
  }

  /** Declares a part. */
  protected child<M extends Module>(name: string, module: M): M {
    this.#refuseTwice(name);
    this.#children.set(name, module);
    return module;
  }

  #refuseTwice(name: string): void {
    if (!this.#parameters.has(name) && !this.#children.has(name)) return;
    throw new GraphError(`Cannot declare "${name}" in ${this.constructor.name}: it has a part of this name`);
  }

  /** The parts, by name. */
  children(): ReadonlyMap<string, Module> {
    return this.#children;
  }

  /** All parameters, those of parts included, by dotted name (`0.weight`). One that is shared has the name of its first use. */
  parameters(): ReadonlyMap<string, Parameter> {
    const named = new Map<string, Parameter>();
    const seen = new Set<Parameter>();
    for (const [name, parameter] of this.#walk("")) {
      if (!seen.has(parameter)) named.set(name, parameter);
      seen.add(parameter);
    }
    return named;
  }

  *#walk(prefix: string): Generator<[string, Parameter]> {
    for (const [name, parameter] of this.#parameters) yield [`${prefix}${name}`, parameter];
    for (const [name, module] of this.#children) yield* module.#walk(`${prefix}${name}.`);
  }

  /**
   * Takes the parameters' data from `state`. Nothing is read here: each rank reads its own slices when it compiles.
   *
   * Tied parameters need one of their names in the state only.
   *
   * @throws {GraphError} If a parameter is missing, or (`strict`) a name of the state is unknown.
   * @throws {ShapeError} If a tensor's dtype or shape is another.
   */
  load(state: ReadonlyMap<string, StateTensor>, options: LoadOptions = {}): void {
    const { prefix = "", strict = true } = options;
    const known = new Map([...this.#walk("")].map(([name, parameter]) => [`${prefix}${name}`, parameter]));
    const missing = new Map([...this.parameters()].map(([name, parameter]) => [parameter, `${prefix}${name}`]));
    for (const [name, tensor] of state) {
      const parameter = known.get(name);
      if (parameter && missing.has(parameter)) {
        parameter.set(name, tensor);
        missing.delete(parameter);
      } else if (!parameter && strict) {
        throw new GraphError(
          `Cannot load "${name}", which ${this.constructor.name} does not have${didYouMean(name, [...known.keys()])}`,
          { hint: "pass strict: false to leave out what no parameter is called" },
        );
      }
    }
    if (missing.size === 0) return;
    throw new GraphError(`Cannot load ${this.constructor.name}: the state lacks ${[...missing.values()].join(", ")}`, {
      hint: "if the state's names begin with more, pass that as prefix",
    });
  }

  /** Draws all parameters anew: the same numbers at any number of ranks, decided by seed, name and index. */
  initialize(options: { readonly seed: number }): void {
    for (const [name, parameter] of this.parameters()) parameter.initialize(name, options.seed);
  }

  /**
   * The module as a graph for `ranks` ranks: inputs by name in the order of `forward`, results `output`, `output_1`, ….
   *
   * @throws {GraphError} If a parameter has no data yet.
   * @throws {ShapeError} If the inputs do not fit.
   */
  trace(inputs: Readonly<Record<string, TensorType>>, options: { readonly ranks: number }): Graph<"sharded"> {
    const trace = new Trace({ name: this.constructor.name, ranks: options.ranks, parameters: this.parameters() });
    const values = Object.entries(inputs).map(([name, type]) => trace.input(name, type));
    const results = resultsOf(this.forward(trace, ...values));
    const graph = trace.finish(new Map(results.map((v, i) => [i === 0 ? "output" : `output_${i}`, v])));
    verify(graph);
    return graph;
  }
}

function resultsOf(results: Value | readonly Value[]): readonly Value[] {
  return "name" in results ? [results] : results;
}

/** Modules one after the other: each takes the result of the one before. Parts are called `0`, `1`, …. */
export class Sequential extends Module {
  /** The parts, in order. */
  constructor(...modules: readonly Module[]) {
    super();
    modules.forEach((module, i) => this.child(String(i), module));
  }

  /** `x` through all parts. @throws {GraphError} If a part gives several results to the next. */
  override forward(trace: Trace, x: Value): Value {
    let value = x;
    for (const [name, module] of this.children()) {
      const [result, ...more] = resultsOf(module.forward(trace, value));
      if (!result || more.length > 0) {
        throw new GraphError(`Cannot go on after part ${name}: it gives ${more.length + (result ? 1 : 0)} results`);
      }
      value = result;
    }
    return value;
  }
}
