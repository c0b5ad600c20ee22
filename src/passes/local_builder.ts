/** Building a rank's local graph: ops with inferred types, sizes, constants, collectives. */
import { type Dim, dimKey, dimMul, symbol } from "../core/dim.ts";
import { type DType, dtypeInfo } from "../core/dtype.ts";
import { fromNumbers } from "../core/host_tensor.ts";
import { GraphError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import {
  type Attributes,
  type Call,
  type CollectiveKind,
  type Graph,
  type TensorData,
  type Value,
} from "../graph/graph.ts";
import { type Layout, localSize } from "../graph/layout.ts";
import { type Placement, type Reduction, REPLICATE } from "../graph/placement.ts";
import { renameCaptures } from "../graph/subgraphs.ts";
import { type KnownInts, type Shape, type TensorType } from "../graph/types.ts";
import type { Inferred, LocalEmitter } from "../ops/def.ts";
import { opDef } from "../ops/table.ts";

/** The op that stands for a tensor of sizes; it has no inputs, its content is the value's `ints`. */
export const SIZES = { domain: "shardwise", op: "Sizes" } as const;

/** A `GraphBuilder` that infers types and shares equal sizes and scalars. */
export class LocalBuilder {
  readonly #graph: GraphBuilder<"local">;
  readonly #opsets: ReadonlyMap<string, number>;
  readonly #rank: number;
  readonly #reserved: ReadonlyMap<string, unknown>;
  readonly #shared = new Map<string, string>();

  /** `source` is the graph that is made local: no new value takes the name of one of its values. */
  constructor(source: Graph<"sharded">, rank: number) {
    this.#rank = rank;
    this.#graph = new GraphBuilder("local", source.name, source.opsets);
    this.#opsets = source.opsets;
    this.#reserved = source.values;
  }

  /** The level of the calls that are appended from now on; see `Call.level`. */
  level = 0;

  value(name: string): Value | undefined {
    return this.#graph.value(name);
  }

  placeholder(value: Value): void {
    this.#graph.placeholder(value);
  }

  getAttr(name: string, data: TensorData, details: Partial<Omit<Value, "name">>): void {
    this.#graph.getAttr(name, data, details);
  }

  finish(
    output: { inputs: readonly string[]; names: readonly string[] },
    carried: Parameters<GraphBuilder<"local">["finish"]>[1],
  ) {
    return this.#graph.finish(output, carried);
  }

  /** `node` on other inputs, under its own output names. Types that inference leaves open come from `fallback`. */
  copy(
    node: Call,
    inputs: readonly string[],
    details: { captures: ReadonlyMap<string, string>; fallback: readonly (Value | undefined)[] },
  ): string[] {
    const call = renameCaptures({ ...node, inputs }, details.captures);
    const inferred = this.#infer(call, call.outputs.length);
    const outputs = call.outputs.map((name) => (name === "" ? "" : this.#graph.freshValue(name)));
    const values = outputs.flatMap((name, i): Value[] => {
      if (name === "") return [];
      const whole = details.fallback[i]?.placement?.kind === "S" ? undefined : details.fallback[i];
      return [valueFrom(name, inferred?.[i], whole)];
    });
    this.#graph.call({ ...call, outputs, level: this.level }, values);
    return outputs;
  }

  /** The functions with which op definitions emit; new values are named after `stem`. */
  emitter(stem: string): LocalEmitter {
    const ops: LocalEmitter["ops"] = (op, inputs, attributes, options) => {
      const domain = options.domain ?? "";
      if (domain !== "") this.#graph.requireDomain(domain, 1);
      const outputs: string[] = [];
      for (let i = 0; i < options.outputs; i++) outputs.push(this.#fresh(`${stem}.${op}${i || ""}`));
      const call: Call = {
        kind: "call_function",
        name: `${stem}.${op}`,
        domain,
        op,
        inputs,
        outputs,
        attributes,
        level: this.level,
      };
      const inferred = this.#infer(call, options.outputs);
      this.#graph.call(call, outputs.map((name, i) => valueFrom(name, inferred?.[i], undefined)));
      return outputs;
    };
    return {
      ops,
      op: (op, inputs, attributes: Attributes = {}, options = {}) =>
        ops(op, inputs, attributes, {
          outputs: options.outputs ?? 1,
          ...(options.domain ? { domain: options.domain } : {}),
        })[0]!,
      sizes: (elements, scalar = false) => this.sizes(elements, scalar),
      scalar: (dtype, value) => this.scalar(dtype, value),
      collective: (kind, input, details = {}) => this.#collective(kind, input, details),
    };
  }

  /** An int64 tensor of sizes, shared among equals. */
  sizes(elements: readonly Dim[], scalar = false): string {
    const key = `sizes ${scalar} ${elements.map(dimKey).join(",")}`;
    return this.#share(key, () => {
      const ints: KnownInts = { dims: scalar ? [] : [elements.length], elements };
      const name = this.#fresh("sizes");
      const constant = elements.every((e) => typeof e === "number");
      const type: TensorType = { dtype: "i64", shape: ints.dims };
      if (constant) {
        const data = BigInt64Array.from(elements as readonly number[], (n) => BigInt(n));
        this.#graph.getAttr(name, inlineData("i64", ints.dims, data), { type, ints, placement: REPLICATE });
      } else {
        const value: Value = { name, type, ints, placement: REPLICATE };
        this.#graph.call(
          { kind: "call_function", name, ...SIZES, inputs: [], outputs: [name], attributes: {} },
          [value],
        );
      }
      return name;
    });
  }

  /** A scalar constant, shared among equals. */
  scalar(dtype: DType, value: number): string {
    return this.#share(`scalar ${dtype} ${Object.is(value, -0) ? "-0" : value}`, () => {
      const name = this.#fresh("scalar");
      this.#graph.getAttr(name, inlineData(dtype, [], fromNumbers(dtype, [], [value]).data), { placement: REPLICATE });
      return name;
    });
  }

  /** A tensor of zeros of a shape that may be symbolic. */
  zeros(dtype: DType, shape: Shape): string {
    const { array: Ctor } = dtypeInfo(dtype);
    if (!Ctor) throw new GraphError(`Cannot make zeros of dtype ${dtype}`);
    const value = inlineData(dtype, [1], new Ctor(1));
    return this.emitter("zeros").op("ConstantOfShape", [this.sizes(shape)], { value: { kind: "tensor", value } });
  }

  /** A name for a value that the source graph does not have, now or later. */
  #fresh(stem: string): string {
    let name = this.#graph.freshValue(stem);
    while (this.#reserved.has(name)) name = this.#graph.freshValue(stem += "_");
    return name;
  }

  #share(key: string, make: () => string): string {
    let name = this.#shared.get(key);
    if (name === undefined) this.#shared.set(key, name = make());
    return name;
  }

  #collective(
    kind: CollectiveKind,
    input: string,
    details: { shard?: { dim: number; layout: Layout }; from?: Layout; reduction?: Reduction },
  ): string {
    const { type } = this.#graph.value(input)!;
    const output = this.#fresh(`${input}.${kind}`);
    const placement: Placement = kind === "reduce_scatter" && details.shard
      ? { kind: "S", ...details.shard }
      : REPLICATE;
    this.#graph.collective({ collective: kind, inputs: [input], outputs: [output], ...details }, {
      name: output,
      type: { dtype: type.dtype, shape: collectiveShape(type.shape, kind, { shard: details.shard, rank: this.#rank }) },
      placement,
    });
    return output;
  }

  #infer(call: Call, outputCount: number): readonly Inferred[] | undefined {
    const inputs = call.inputs.map((n) => (n === "" ? undefined : this.#graph.value(n)));
    return opDef(call)?.infer({
      node: call,
      attributes: call.attributes,
      opset: this.#opsets.get(call.domain) ?? 1,
      inputs: inputs.map((v) => v?.type),
      ints: inputs.map((v) => v?.ints),
      outputCount,
      fresh: (label) => symbol(`${call.name}.${label}#local`),
    });
  }
}

function valueFrom(name: string, inferred: Inferred | undefined, fallback: Value | undefined): Value {
  const dtype = inferred?.dtype ?? fallback?.type.dtype;
  const shape = inferred?.shape ?? fallback?.type.shape;
  const ints = inferred?.ints ?? fallback?.ints;
  return { name, type: { dtype, shape }, ...(ints ? { ints } : {}) };
}

/** The shape of a collective's output on `rank`. */
function collectiveShape(
  shape: Shape | undefined,
  kind: CollectiveKind,
  at: { shard: { dim: number; layout: Layout } | undefined; rank: number },
): Shape | undefined {
  const { shard, rank } = at;
  if (!shape || !shard || kind === "all_reduce") return shape;
  const { outer, size } = shard.layout;
  const block = kind === "all_gather" ? size : localSize(shard.layout, rank);
  return shape.with(shard.dim, dimMul(outer, block));
}
