/** Reads the text form of graphs; see text.ts for what it looks like. */
import { GraphError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "./builder.ts";
import type { Attribute, Call, Carried, Collective, Graph, Output, Stage, TensorData } from "./graph.ts";
import type { Layout } from "./layout.ts";
import type { Reduction } from "./placement.ts";
import { COLLECTIVES } from "./text.ts";
import { Scanner } from "./text_scanner.ts";
import { type ShardText, ValueReader } from "./text_values.ts";

/** How to read a graph. */
export interface ParseOptions<S extends Stage> {
  /** The stage that the graph must be of; any by default. */
  readonly stage?: S;
  /** The data of a constant, by the name of its value (`node.attribute` for tensor attributes that the text leaves out). */
  readonly resolve?: (name: string, type: Pick<TensorData, "dtype" | "shape">) => TensorData;
}

/**
 * The graph that `text` describes. Constants are what `resolve` gives; without it, they have a type and no data.
 *
 * @throws {GraphError} If the text is no graph, with line and column.
 */
export function parseGraph<S extends Stage = Stage>(text: string, options: ParseOptions<S> = {}): Graph<S> {
  const parser = new Parser(text, options.resolve ?? withoutData);
  const graph = parser.file();
  if (options.stage !== undefined && graph.stage !== options.stage) {
    throw new GraphError(`Cannot read graph "${graph.name}" as ${options.stage}: it is ${graph.stage}`);
  }
  return graph as Graph<S>;
}

type Resolve = NonNullable<ParseOptions<Stage>["resolve"]>;

const STAGES: readonly string[] = ["global", "annotated", "sharded", "local"] satisfies Stage[];

function withoutData(name: string, type: Pick<TensorData, "dtype" | "shape">): TensorData {
  const fail = (): never => {
    throw new GraphError(`Cannot read the data of constant "${name}": the graph was read from text`, {
      hint: "give parseGraph() a resolver that knows the constants",
    });
  };
  return { ...type, bytes: fail, slice: fail };
}

class Parser {
  readonly #scan: Scanner;
  readonly #values: ValueReader;
  readonly #resolve: Resolve;

  constructor(text: string, resolve: Resolve) {
    this.#scan = new Scanner(text);
    this.#values = new ValueReader(this.#scan);
    this.#resolve = resolve;
  }

  file(): Graph {
    this.#scan.expect("graph");
    const name = this.#scan.name();
    this.#scan.expect(":");
    const stage = this.#scan.word();
    if (!STAGES.includes(stage)) throw this.#scan.error(`a stage (${STAGES.join(", ")})`);
    const opsets = new Map(this.#scan.braces(() => {
      const domain = this.#scan.name();
      this.#scan.expect("=");
      return [domain === "opset" ? "" : domain, this.#scan.integer()] as const;
    }));
    if (this.#scan.take("over")) {
      this.#values.ranks = this.#scan.integer();
      this.#scan.expect("ranks");
    }
    const graph = this.#body(new GraphBuilder(stage as Stage, name, opsets), opsets);
    if (!this.#scan.isEnd()) throw this.#scan.error("the end");
    return graph;
  }

  #body<S extends Stage>(builder: GraphBuilder<S>, opsets: ReadonlyMap<string, number>): Graph<S> {
    while (!this.#scan.take("output")) this.#node(builder, opsets);
    const output = this.#output();
    const carried: Carried[] = [];
    while (this.#scan.take("carried")) {
      const input = this.#scan.read();
      carried.push(this.#scan.take("->") ? { input, output: this.#scan.integer() } : { input });
    }
    return builder.finish(output, carried);
  }

  #output(): Pick<Output, "inputs" | "names"> {
    const inputs: string[] = [], names: string[] = [];
    if (this.#scan.peek() !== "%") return { inputs, names };
    do {
      const value = this.#scan.read();
      inputs.push(value);
      names.push(this.#scan.take("as") ? this.#scan.name() : value);
    } while (this.#scan.take(","));
    return { inputs, names };
  }

  #node<S extends Stage>(builder: GraphBuilder<S>, opsets: ReadonlyMap<string, number>): void {
    const outputs = this.#scan.list(() => this.#scan.read());
    this.#scan.expect("=");
    const first = outputs[0]!;
    const isQuoted = this.#scan.peek() === '"';
    const op = this.#scan.name();
    if (!isQuoted && op === "placeholder") {
      const [value, name] = [this.#values.values(outputs)[0]!, this.#nodeName(first)];
      return builder.append({ kind: "placeholder", name, outputs: [first] }, [value]);
    }
    if (!isQuoted && op === "get_attr") {
      const other = this.#scan.peek() === ":" ? undefined : this.#values.type();
      const value = this.#values.values(outputs)[0]!;
      const data = this.#resolve(first, this.#values.constantType(other ?? value.type));
      return builder.append({ kind: "get_attr", name: this.#nodeName(first), outputs: [first], data }, [value]);
    }
    if (!isQuoted && COLLECTIVES.includes(op)) {
      return this.#collective(builder, op as Collective["collective"], first);
    }
    const kind = !isQuoted && op === "call_module" ? "call_module" : "call_function";
    this.#call(builder, { kind, op: kind === "call_module" ? this.#scan.name() : op, outputs, opsets });
  }

  #call<S extends Stage>(
    builder: GraphBuilder<S>,
    { kind, op: key, outputs, opsets }: {
      kind: Call["kind"];
      op: string;
      outputs: readonly string[];
      opsets: ReadonlyMap<string, number>;
    },
  ): void {
    this.#scan.expect("(");
    const inputs = /^[%_]/.test(this.#scan.peek()) ? this.#scan.list(() => this.#scan.read()) : [];
    const captures = this.#scan.take("|") ? this.#scan.list(() => this.#scan.read()) : undefined;
    this.#scan.expect(")");
    const dot = key.lastIndexOf(".");
    const [domain, op] = dot < 0 ? ["", key] : [key.slice(0, dot), key.slice(dot + 1)];
    const fallback = builder.freshNode(outputs.find((o) => o !== "") ?? op);
    const attributes = this.#scan.peek() !== "{" ? [] : this.#scan.braces(() => {
      const name = this.#scan.name();
      this.#scan.expect("=");
      return [name, this.#attribute(`${fallback}.${name}`, opsets)] as const;
    });
    const isNone = outputs.every((o) => o === "");
    const values = isNone ? [] : this.#values.values(outputs);
    const name = this.#nodeName(fallback);
    const scope = this.#scan.take("in") ? this.#scan.name() : undefined;
    builder.append({
      kind,
      name,
      domain,
      op,
      inputs,
      outputs,
      ...(captures ? { captures } : {}),
      attributes: Object.fromEntries(attributes),
      ...(scope !== undefined ? { scope } : {}),
    }, values);
  }

  #collective<S extends Stage>(builder: GraphBuilder<S>, collective: Collective["collective"], output: string): void {
    this.#scan.expect("(");
    const input = this.#scan.read();
    this.#scan.expect(")");
    let shard: ShardText | undefined;
    let from: Layout | undefined, reduction: Reduction | undefined;
    if (this.#scan.peek() === "{") {
      this.#scan.braces(() => {
        const detail = this.#scan.word();
        this.#scan.expect("=");
        if (detail === "shard") shard = this.#values.shardText();
        else if (detail === "from") from = this.#values.layout(this.#scan.parenthesised());
        else if (detail === "reduction") reduction = this.#values.reduction();
        else throw this.#scan.error("shard, from or reduction");
      });
    }
    const value = this.#values.values([output])[0]!;
    const cut = shard && this.#values.shard(shard, value.type);
    builder.append({
      kind: "collective",
      name: this.#nodeName(output),
      collective,
      inputs: [input],
      outputs: [output],
      ...(cut ? { shard: cut } : {}),
      ...(from ? { from } : {}),
      ...(reduction ? { reduction } : {}),
    }, [value]);
  }

  #nodeName(fallback: string): string {
    return this.#scan.take("as") ? this.#scan.name() : fallback;
  }

  #attribute(where: string, opsets: ReadonlyMap<string, number>): Attribute {
    const c = this.#scan.peek();
    if (c === '"') return { kind: "string", value: this.#scan.string() };
    if (c === "[") return this.#listAttribute();
    for (const kind of ["ints", "floats", "strings"] as const) {
      if (!this.#scan.take(kind)) continue;
      this.#scan.expect("[");
      this.#scan.expect("]");
      return { kind, value: [] };
    }
    if (this.#scan.take("tensor")) return { kind: "tensor", value: this.#tensor(where) };
    if (this.#scan.take("graph")) {
      const builder = new GraphBuilder("global", this.#scan.name(), opsets);
      this.#scan.expect("{");
      const value = this.#body(builder, opsets);
      this.#scan.expect("}");
      return { kind: "graph", value };
    }
    const number = this.#scan.number();
    return number.isFloat ? { kind: "float", value: number.value } : { kind: "int", value: number.value };
  }

  #listAttribute(): Attribute {
    this.#scan.expect("[");
    const isText = this.#scan.peek() === '"';
    if (isText) {
      const value = this.#scan.list(() => this.#scan.string());
      this.#scan.expect("]");
      return { kind: "strings", value };
    }
    const numbers = this.#scan.list(() => this.#scan.number());
    this.#scan.expect("]");
    const value = numbers.map((n) => n.value);
    return numbers.some((n) => n.isFloat) ? { kind: "floats", value } : { kind: "ints", value };
  }

  #tensor(where: string): TensorData {
    this.#scan.expect("(");
    const type = this.#values.constantType(this.#values.type());
    const base64 = this.#scan.take(",") ? this.#scan.string() : undefined;
    this.#scan.expect(")");
    if (base64 === undefined) return this.#resolve(where, type);
    try {
      return inlineData(type.dtype, type.shape, Uint8Array.fromBase64(base64));
    } catch (cause) {
      throw new GraphError(`Cannot read the tensor ${where}`, { cause });
    }
  }
}
