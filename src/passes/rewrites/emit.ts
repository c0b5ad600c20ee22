/** Nodes that a rule puts in the place of others. */
import { type Dim, dimKey } from "../../core/dim.ts";
import { fromNumbers } from "../../core/host_tensor.ts";
import { inlineData } from "../../graph/builder.ts";
import type { Attributes, Call, Node, TensorData, Value } from "../../graph/graph.ts";
import type { KnownInts, TensorType } from "../../graph/types.ts";
import type { FusedDType } from "./matcher.ts";
import type { FreshNames, Replacement } from "./rewrite.ts";

/** What a new call is. */
export interface NewCall {
  readonly op: string;
  readonly inputs: readonly string[];
  readonly type: TensorType;
  readonly attributes?: Attributes;
  readonly domain?: string;
  /** The name of the output, where it takes the place of another value; a new one by default. */
  readonly output?: string;
}

/** Collects the nodes of one replacement; values that several replacements share are made once. */
export class Emit {
  readonly nodes: Node[] = [];
  readonly values: Value[] = [];
  readonly #names: FreshNames;
  readonly #near: Call;
  /** In a rank's graph: the level of what is appended. What matches share is as early as what it reads. */
  #level: number | undefined;

  /** `near`: the anchor, after which new values are called. */
  constructor(names: FreshNames, near: Call) {
    this.#names = names;
    this.#near = near;
    this.#level = near.level;
  }

  /** Appends a call with one output and gives its name. */
  call({ op, inputs, type, attributes = {}, domain = "", output }: NewCall): string {
    const name = output ?? this.#names.of(`${this.#near.name}.${op}`);
    this.values.push({ name, type });
    this.append({ kind: "call_function", domain, op, inputs, outputs: [name], attributes }, output !== undefined);
    return name;
  }

  /** Appends a call whose outputs have been declared. The `main` one takes the anchor's name, by which people know the place. */
  append(node: Omit<Call, "name">, main = false): void {
    const { name, scope } = this.#near;
    const own = main && !this.nodes.some((n) => n.name === name);
    this.nodes.push({
      ...node,
      name: own ? name : this.#names.of(`${name}.${node.op}`),
      ...(scope ? { scope } : {}),
      ...(this.#level === undefined ? {} : { level: this.#level }),
    });
  }

  /** Appends constant data and gives its name. */
  constant(stem: string, data: TensorData): string {
    const name = this.#names.of(stem);
    this.values.push({ name, type: { dtype: data.dtype, shape: data.shape } });
    this.nodes.push({ kind: "get_attr", name: this.#names.of(name), outputs: [name], data });
    return name;
  }

  /** Sizes as an int64 tensor: one dim, or none where `scalar`. */
  sizes(elements: readonly Dim[], scalar = false): string {
    return this.shared(`${scalar ? "scalar" : "sizes"} ${elements.map(dimKey).join()}`, () => {
      const ints: KnownInts = { dims: scalar ? [] : [elements.length], elements };
      const name = this.#names.of("rewrites.sizes"), type = { dtype: "i64", shape: ints.dims } as const;
      this.values.push({ name, type, ints });
      if (elements.every((e) => typeof e === "number")) {
        const data = inlineData("i64", ints.dims, BigInt64Array.from(elements, (e) => BigInt(e as number)));
        this.nodes.push({ kind: "get_attr", name: this.#names.of(name), outputs: [name], data });
      } else {
        const call = { kind: "call_function", domain: "shardwise", op: "Sizes", inputs: [], attributes: {} } as const;
        this.nodes.push({ ...call, name: this.#names.of(name), outputs: [name] });
      }
      return name;
    });
  }

  /** A float constant without dims. */
  scalar(value: number, dtype: FusedDType = "f32"): string {
    return this.shared(`${dtype} ${Object.is(value, -0) ? "-0" : value}`, () => {
      const name = this.#names.of("rewrites.scalar");
      this.values.push({ name, type: { dtype, shape: [] } });
      const data = inlineData(dtype, [], fromNumbers(dtype, [], [value]).data);
      this.nodes.push({ kind: "get_attr", name: this.#names.of(name), outputs: [name], data });
      return name;
    });
  }

  /** What `make` makes, once for all replacements of the rule that ask for `key`. */
  shared(key: string, make: () => string): string {
    const { shared } = this.#names;
    let name = shared.get(key);
    if (name !== undefined) return name;
    const level = this.#level;
    this.#level = undefined;
    shared.set(key, name = make());
    this.#level = level;
    return name;
  }

  /** What has been collected. */
  replacement(removes: readonly string[] = []): Replacement {
    return { nodes: this.nodes, values: this.values, removes };
  }
}
