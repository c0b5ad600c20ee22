/**
 * Tracing: modules append calls to a graph of stage `sharded`, the one that planned ONNX models become, so that
 * everything after it (localising, programs, engines) is shared.
 */
import { GraphError, ShapeError } from "../core/errors.ts";
import { fromNumbers } from "../core/host_tensor.ts";
import { symbol } from "../core/dim.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import type { Attributes, Call, Graph, TensorData, Value } from "../graph/graph.ts";
import { balanced } from "../graph/layout.ts";
import { type Placement, placementKey, REPLICATE, shard } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";
import type { Inferred, TypedContext } from "../ops/def.ts";
import { NO_FACTORS } from "../ops/factors.ts";
import { known } from "../ops/known_ints.ts";
import { opDef } from "../ops/table.ts";
import { reshardSteps } from "../passes/reshard.ts";
import type { Parameter } from "./parameter.ts";
import { followInputs } from "./propagate.ts";

/** Opsets of traced graphs: 21 has Gelu and LayerNormalization, and is older than what needs a new runtime. */
const OPSETS: ReadonlyMap<string, number> = new Map([["", 21], ["shardwise", 1]]);

/** What a traced call may say beside its inputs. */
export interface CallOptions {
  /** None by default. */
  readonly attributes?: Attributes;
  /** ai.onnx by default; `shardwise` for layers. */
  readonly domain?: string;
  /** Number of outputs; 1 by default. */
  readonly outputs?: number;
}

/** What a trace is begun with. */
export interface TraceOptions {
  /** Of the graph. */
  readonly name: string;
  /** How many ranks share the model. */
  readonly ranks: number;
  /** The names of all parameters; see `Module.parameters()`. */
  readonly parameters: ReadonlyMap<string, Parameter>;
}

/** A graph under construction by modules. */
export class Trace {
  /** How many ranks share the model. */
  readonly ranks: number;
  readonly #builder: GraphBuilder<"sharded">;
  readonly #names: ReadonlyMap<Parameter, string>;
  /** Values of parameters and moved values, by what they hold and where. */
  readonly #parameters = new Map<string, Value>();
  readonly #moved = new Map<string, Value>();
  /** For values of parameters, the module that they belong to: a label for calls. */
  readonly #owners = new Map<string, string>();
  #fresh = 0;

  /** An empty graph. @throws {RangeError} If the number of ranks is none. */
  constructor(options: TraceOptions) {
    if (!Number.isInteger(options.ranks) || options.ranks < 1) {
      throw new RangeError(`Cannot trace for ${options.ranks} ranks: expected at least 1`);
    }
    this.ranks = options.ranks;
    this.#builder = new GraphBuilder("sharded", options.name, OPSETS);
    this.#names = new Map([...options.parameters].map(([name, p]) => [p, name]));
  }

  /** A graph input, whole on every rank. */
  input(name: string, type: TensorType): Value {
    const value: Value = { name, type, placement: REPLICATE };
    this.#builder.placeholder(value);
    return value;
  }

  /** The placement that cuts `dim`, of `size` elements, in balanced parts; replicated on one rank. */
  cut(dim: number, size: number): Placement {
    return this.ranks === 1 ? REPLICATE : shard(dim, balanced(size, this.ranks));
  }

  /** The placement of what is added once to a sum over the ranks; replicated on one rank. */
  once(): Placement {
    return this.ranks === 1 ? REPLICATE : { kind: "P", reduction: "sum" };
  }

  /**
   * A parameter, placed: each rank reads its part only.
   *
   * @throws {GraphError} If it belongs to no part of the traced module, or has no data yet.
   */
  parameter(parameter: Parameter, placement: Placement = REPLICATE): Value {
    const name = this.#names.get(parameter);
    if (name === undefined) {
      throw new GraphError(`Cannot trace a parameter of shape [${parameter.shape}]: the module does not have it`, {
        hint: "declare it with this.parameter(…), and modules with this.child(…)",
      });
    }
    const key = `${name} ${placementKey(placement)}`;
    let value = this.#parameters.get(key);
    if (!value) {
      value = this.constant(name, parameter.require(name), placement);
      this.#parameters.set(key, value);
      this.#owners.set(value.name, name.split(".").slice(0, -1).join("."));
    }
    return value;
  }

  /** Constant data as a value called `name`, or much like it. */
  constant(name: string, data: TensorData, placement: Placement = REPLICATE): Value {
    const fresh = this.#builder.freshValue(name);
    this.#builder.getAttr(fresh, data, { placement });
    return this.#builder.value(fresh)!;
  }

  /** Small integers as a constant tensor of rank 1: starts, axes, sizes. */
  ints(elements: readonly number[]): Value {
    const name = this.#builder.freshValue("ints");
    const { data } = fromNumbers("i64", [elements.length], elements);
    this.#builder.getAttr(name, inlineData("i64", [elements.length], data), {
      placement: REPLICATE,
      ints: known([elements.length], elements)!,
    });
    return this.#builder.value(name)!;
  }

  /** `value` at another placement, through the collectives that it takes; made once. */
  redistribute(value: Value, to: Placement): Value {
    let current = value;
    for (const { to: next, ...details } of reshardSteps(placementOf(value), to)) {
      const key = `${current.name} ${placementKey(next)}`;
      let moved = this.#moved.get(key);
      if (!moved) {
        const name = this.#builder.freshValue(`${value.name}.${details.collective}`);
        const { ints: _, ...rest } = value;
        moved = { ...rest, name, placement: next };
        this.#builder.collective({ ...details, inputs: [current.name], outputs: [name] }, moved);
        this.#moved.set(key, moved);
      }
      current = moved;
    }
    return current;
  }

  /** A call with one result. */
  call(op: string, inputs: readonly (Value | undefined)[], options: CallOptions = {}): Value {
    return this.calls(op, inputs, options)[0]!;
  }

  /**
   * A call of an op or of a layer. Types are inferred; results live where the op's factors carry the inputs' cuts, and
   * inputs that do not fit are redistributed.
   *
   * @throws {GraphError} If no definition of the op exists.
   * @throws {ShapeError} If the inputs do not fit.
   */
  calls(op: string, inputs: readonly (Value | undefined)[], options: CallOptions = {}): Value[] {
    const { attributes = {}, domain = "", outputs: count = 1 } = options;
    const definition = opDef({ domain, op });
    if (!definition) throw new GraphError(`Cannot trace ${domain ? `${domain}.` : ""}${op}: no such op is described`);
    const scope = inputs.map((v) => v && this.#owners.get(v.name)).find((owner) => owner);
    const stem = scope ? `${scope}.${op}` : op;
    const node: Call = {
      kind: definition.module ? "call_module" : "call_function",
      name: this.#builder.freshNode(stem),
      domain,
      op,
      inputs: inputs.map((v) => v?.name ?? ""),
      outputs: Array.from({ length: count }, (_, i) => this.#builder.freshValue(`${stem}${i === 0 ? "" : `.${i}`}`)),
      attributes,
      ...(scope ? { scope } : {}),
    };
    if (domain !== "") this.#builder.requireDomain(domain, 1);
    const opset = OPSETS.get(domain) ?? 1;
    const shared = { node, attributes, opset, inputs: inputs.map((v) => v?.type), ints: inputs.map((v) => v?.ints) };
    const types = this.#infer(node, () =>
      definition.infer({
        ...shared,
        outputCount: count,
        fresh: (label) => symbol(`${label}#${this.#fresh++}`),
      }));
    const context: TypedContext = { ...shared, outputs: types };
    const strategy = followInputs(
      context,
      inputs.map((v) => v && placementOf(v)),
      definition.factors?.(context) ?? NO_FACTORS,
    );
    const placed = inputs.map((v, i) => (v ? this.redistribute(v, strategy.inputs[i]!).name : ""));
    const values = node.outputs.map((name, i) => typed(name, types[i]!, strategy.outputs[i]!));
    this.#builder.call({ ...node, inputs: placed }, values);
    return values;
  }

  /** Ends the graph; results are made whole on every rank. */
  finish(results: ReadonlyMap<string, Value>): Graph<"sharded"> {
    const whole = [...results.values()].map((v) => this.redistribute(v, REPLICATE).name);
    return this.#builder.finish({ inputs: whole, names: [...results.keys()] });
  }

  #infer(node: Call, infer: () => readonly Inferred[]): readonly Inferred[] {
    try {
      return infer();
    } catch (cause) {
      if (!(cause instanceof ShapeError)) throw cause;
      throw new ShapeError(`Cannot trace ${node.op} "${node.name}": ${cause.message}`, { cause });
    }
  }
}

/** The placement of a traced value. */
export function placementOf(value: Value): Placement {
  return value.placement ?? REPLICATE;
}

function typed(name: string, { dtype, shape, ints }: Inferred, placement: Placement): Value {
  return { name, type: { dtype, shape }, placement, ...(ints && placement.kind === "R" ? { ints } : {}) };
}
