/** Reads the text form of graphs; see text.ts for what it looks like. */
import { type Dim, parseDim } from "../core/dim.ts";
import { isDType } from "../core/dtype.ts";
import { GraphError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "./builder.ts";
import type { Attribute, Call, Carried, Collective, Graph, Output, Stage, TensorData, Value } from "./graph.ts";
import { balanced, type Layout } from "./layout.ts";
import { type Placement, type Reduction, REPLICATE } from "./placement.ts";
import { parseLayout } from "./placement_parser.ts";
import { COLLECTIVES } from "./text.ts";
import type { KnownInts, TensorType } from "./types.ts";

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

/** What a line says of one output. */
type ValueText = Omit<Value, "name">;

class Parser {
  readonly #text: string;
  readonly #resolve: Resolve;
  #at = 0;
  #ranks: number | undefined;

  constructor(text: string, resolve: Resolve) {
    this.#text = text;
    this.#resolve = resolve;
  }

  file(): Graph {
    this.#expect("graph");
    const name = this.#name();
    this.#expect(":");
    const stage = this.#word();
    if (!STAGES.includes(stage)) throw this.#error(`a stage (${STAGES.join(", ")})`);
    const opsets = new Map(this.#braces(() => {
      const domain = this.#name();
      this.#expect("=");
      return [domain === "opset" ? "" : domain, this.#integer()] as const;
    }));
    if (this.#take("over")) {
      this.#ranks = this.#integer();
      this.#expect("ranks");
    }
    const graph = this.#body(new GraphBuilder(stage as Stage, name, opsets), opsets);
    if (!this.#isEnd()) throw this.#error("the end");
    return graph;
  }

  #body<S extends Stage>(builder: GraphBuilder<S>, opsets: ReadonlyMap<string, number>): Graph<S> {
    while (!this.#take("output")) this.#node(builder, opsets);
    const output = this.#output();
    const carried: Carried[] = [];
    while (this.#take("carried")) {
      const input = this.#read();
      carried.push(this.#take("->") ? { input, output: this.#integer() } : { input });
    }
    return builder.finish(output, carried);
  }

  #output(): Pick<Output, "inputs" | "names"> {
    const inputs: string[] = [], names: string[] = [];
    if (this.#peek() !== "%") return { inputs, names };
    do {
      const value = this.#read();
      inputs.push(value);
      names.push(this.#take("as") ? this.#name() : value);
    } while (this.#take(","));
    return { inputs, names };
  }

  #node<S extends Stage>(builder: GraphBuilder<S>, opsets: ReadonlyMap<string, number>): void {
    const outputs = this.#list(() => this.#read());
    this.#expect("=");
    const first = outputs[0]!;
    const isQuoted = this.#peek() === '"';
    const op = this.#name();
    if (!isQuoted && op === "placeholder") {
      const [value, name] = [this.#values(outputs)[0]!, this.#nodeName(first)];
      return builder.append({ kind: "placeholder", name, outputs: [first] }, [value]);
    }
    if (!isQuoted && op === "get_attr") {
      const other = this.#peek() === ":" ? undefined : this.#type();
      const value = this.#values(outputs)[0]!;
      const data = this.#resolve(first, this.#constantType(other ?? value.type));
      return builder.append({ kind: "get_attr", name: this.#nodeName(first), outputs: [first], data }, [value]);
    }
    if (!isQuoted && COLLECTIVES.includes(op)) {
      return this.#collective(builder, op as Collective["collective"], first);
    }
    const kind = !isQuoted && op === "call_module" ? "call_module" : "call_function";
    this.#call(builder, { kind, op: kind === "call_module" ? this.#name() : op, outputs, opsets });
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
    this.#expect("(");
    const inputs = /^[%_]/.test(this.#peek()) ? this.#list(() => this.#read()) : [];
    const captures = this.#take("|") ? this.#list(() => this.#read()) : undefined;
    this.#expect(")");
    const dot = key.lastIndexOf(".");
    const [domain, op] = dot < 0 ? ["", key] : [key.slice(0, dot), key.slice(dot + 1)];
    const fallback = builder.freshNode(outputs.find((o) => o !== "") ?? op);
    const attributes = this.#peek() !== "{" ? [] : this.#braces(() => {
      const name = this.#name();
      this.#expect("=");
      return [name, this.#attribute(`${fallback}.${name}`, opsets)] as const;
    });
    const isNone = outputs.every((o) => o === "");
    const values = isNone ? [] : this.#values(outputs);
    const name = this.#nodeName(fallback);
    const scope = this.#take("in") ? this.#name() : undefined;
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
    this.#expect("(");
    const input = this.#read();
    this.#expect(")");
    let shard: { dim: number; layout: string | undefined } | undefined;
    let from: Layout | undefined, reduction: Reduction | undefined;
    if (this.#peek() === "{") {
      this.#braces(() => {
        const detail = this.#word();
        this.#expect("=");
        if (detail === "shard") shard = this.#shardText();
        else if (detail === "from") from = this.#layout(this.#parenthesised());
        else if (detail === "reduction") reduction = this.#reduction();
        else throw this.#error("shard, from or reduction");
      });
    }
    const value = this.#values([output])[0]!;
    const cut = shard && this.#shard(shard, value.type);
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
    return this.#take("as") ? this.#name() : fallback;
  }

  #values(outputs: readonly string[]): Value[] {
    this.#expect(":");
    return outputs.filter((name) => name !== "").map((name, i): Value => {
      if (i > 0) this.#expect(",");
      return { name, ...this.#value() };
    });
  }

  #value(): ValueText {
    const type = this.#type();
    const ints = this.#take("=") ? this.#ints() : undefined;
    const placement = this.#take("@") ? this.#placement(type) : undefined;
    return { type, ...(ints ? { ints } : {}), ...(placement ? { placement } : {}) };
  }

  #type(): TensorType {
    const dtype = this.#take("?") ? undefined : this.#word();
    if (dtype !== undefined && !isDType(dtype)) throw this.#error(`a dtype, not "${dtype}"`);
    this.#expect("[");
    const isOpen = this.#take("?");
    return { dtype, shape: isOpen ? (this.#expect("]"), undefined) : this.#dims("]") };
  }

  /** Sizes up to the closing bracket. */
  #dims(close: string): Dim[] {
    const out: Dim[] = [];
    if (this.#take(close)) return out;
    do out.push(this.#dim()); while (this.#take(","));
    this.#expect(close);
    return out;
  }

  /** A size: everything up to a comma, bracket or blank outside of parentheses. */
  #dim(): Dim {
    this.#skip();
    const start = this.#at;
    for (let depth = 0; this.#at < this.#text.length; this.#at++) {
      const c = this.#text[this.#at]!;
      if (depth === 0 && (/[,\]\s]/.test(c) || c === ")")) break;
      if (c === "(") depth++;
      if (c === ")") depth--;
    }
    if (this.#at === start) throw this.#error("a size");
    return parseDim(this.#text.slice(start, this.#at));
  }

  #ints(): KnownInts {
    if (!this.#take("[")) return { dims: [], elements: [this.#dim()] };
    const first = this.#dims("]");
    if (!this.#take(":")) return { dims: [first.length], elements: first };
    this.#expect("[");
    return { dims: first.map((d) => (typeof d === "number" ? d : this.#fail("a number"))), elements: this.#dims("]") };
  }

  #placement(type: TensorType): Placement {
    if (this.#take("R")) return REPLICATE;
    if (this.#take("P")) {
      this.#expect("(");
      const reduction = this.#reduction();
      this.#expect(")");
      return { kind: "P", reduction };
    }
    return { kind: "S", ...this.#shard(this.#shardText(), type) };
  }

  #reduction(): Reduction {
    const word = this.#word();
    if (word !== "sum" && word !== "max" && word !== "min") throw this.#error("sum, max or min");
    return word;
  }

  /** `S(1)` or `S(1;layout)`. */
  #shardText(): { dim: number; layout: string | undefined } {
    this.#expect("S");
    const inner = this.#parenthesised();
    const semicolon = inner.indexOf(";");
    const dim = Number(semicolon < 0 ? inner : inner.slice(0, semicolon));
    if (!Number.isInteger(dim)) throw this.#error("a dim");
    return { dim, layout: semicolon < 0 ? undefined : inner.slice(semicolon + 1) };
  }

  #shard(text: { dim: number; layout: string | undefined }, { shape }: TensorType): { dim: number; layout: Layout } {
    if (text.layout !== undefined) return { dim: text.dim, layout: this.#layout(text.layout) };
    const size = shape?.[text.dim];
    if (typeof size !== "number" || this.#ranks === undefined) {
      throw this.#error("a layout written out, as the dim has no constant size or the graph no number of ranks");
    }
    return { dim: text.dim, layout: balanced(size, this.#ranks) };
  }

  #layout(key: string): Layout {
    return parseLayout(key) ?? this.#fail(`a layout, not "${key}"`);
  }

  /** The text between parentheses that match. */
  #parenthesised(): string {
    this.#expect("(");
    const start = this.#at;
    for (let depth = 1; this.#at < this.#text.length; this.#at++) {
      if (this.#text[this.#at] === "(") depth++;
      if (this.#text[this.#at] === ")" && --depth === 0) return this.#text.slice(start, this.#at++);
    }
    throw this.#error('")"');
  }

  #attribute(where: string, opsets: ReadonlyMap<string, number>): Attribute {
    const c = this.#peek();
    if (c === '"') return { kind: "string", value: this.#string() };
    if (c === "[") return this.#listAttribute();
    for (const kind of ["ints", "floats", "strings"] as const) {
      if (!this.#take(kind)) continue;
      this.#expect("[");
      this.#expect("]");
      return { kind, value: [] };
    }
    if (this.#take("tensor")) return { kind: "tensor", value: this.#tensor(where) };
    if (this.#take("graph")) {
      const builder = new GraphBuilder("global", this.#name(), opsets);
      this.#expect("{");
      const value = this.#body(builder, opsets);
      this.#expect("}");
      return { kind: "graph", value };
    }
    const number = this.#number();
    return number.isFloat ? { kind: "float", value: number.value } : { kind: "int", value: number.value };
  }

  #listAttribute(): Attribute {
    this.#expect("[");
    const isText = this.#peek() === '"';
    if (isText) {
      const value = this.#list(() => this.#string());
      this.#expect("]");
      return { kind: "strings", value };
    }
    const numbers = this.#list(() => this.#number());
    this.#expect("]");
    const value = numbers.map((n) => n.value);
    return numbers.some((n) => n.isFloat) ? { kind: "floats", value } : { kind: "ints", value };
  }

  #tensor(where: string): TensorData {
    this.#expect("(");
    const type = this.#constantType(this.#type());
    const base64 = this.#take(",") ? this.#string() : undefined;
    this.#expect(")");
    if (base64 === undefined) return this.#resolve(where, type);
    try {
      return inlineData(type.dtype, type.shape, Uint8Array.fromBase64(base64));
    } catch (cause) {
      throw new GraphError(`Cannot read the tensor ${where}`, { cause });
    }
  }

  #constantType({ dtype, shape }: TensorType): Pick<TensorData, "dtype" | "shape"> {
    const sizes = shape?.filter((d) => typeof d === "number");
    if (!dtype || !sizes || sizes.length !== shape!.length) throw this.#error("a constant's dtype and sizes");
    return { dtype, shape: sizes };
  }

  #number(): { value: number; isFloat: boolean } {
    const text = this.#match(/-?(?:inf|\d+(?:\.\d+)?(?:e[+-]?\d+)?)f?|nan/y);
    if (text === undefined) throw this.#error("a value");
    if (text === "nan") return { value: NaN, isFloat: true };
    if (text.endsWith("inf")) return { value: text.startsWith("-") ? -Infinity : Infinity, isFloat: true };
    if (text.endsWith("f")) return { value: Math.fround(Number(text.slice(0, -1))), isFloat: true };
    return { value: Number(text), isFloat: /[.e]/.test(text) };
  }

  #list<T>(item: () => T): T[] {
    const out = [item()];
    while (this.#take(",")) out.push(item());
    return out;
  }

  #braces<T>(item: () => T): T[] {
    this.#expect("{");
    if (this.#take("}")) return [];
    const out = this.#list(item);
    this.#expect("}");
    return out;
  }

  /** `%name`, or `_` for one that is left out. */
  #read(): string {
    if (this.#take("_")) return "";
    this.#expect("%");
    return this.#name();
  }

  #name(): string {
    if (this.#peek() === '"') return this.#string();
    const name = this.#match(/[A-Za-z0-9_./:#-]+/y);
    if (name === undefined) throw this.#error("a name");
    return name;
  }

  #word(): string {
    const word = this.#match(/\w+/y);
    if (word === undefined) throw this.#error("a word");
    return word;
  }

  #integer(): number {
    const digits = this.#match(/\d+/y);
    if (digits === undefined) throw this.#error("a number");
    return Number(digits);
  }

  #string(): string {
    const text = this.#match(/"(?:[^"\\\n]|\\.)*"/y);
    if (text === undefined) throw this.#error("a string");
    try {
      return JSON.parse(text);
    } catch {
      throw this.#error(`a string, not ${text}`);
    }
  }

  #match(pattern: RegExp): string | undefined {
    this.#skip();
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#text)?.[0];
    if (found !== undefined) this.#at += found.length;
    return found;
  }

  /** Consumes `token` if it comes next; a word only where it is not the start of a longer one. */
  #take(token: string): boolean {
    this.#skip();
    if (!this.#text.startsWith(token, this.#at)) return false;
    const next = this.#text[this.#at + token.length] ?? "";
    if (/\w$/.test(token) && /\w/.test(next)) return false;
    this.#at += token.length;
    return true;
  }

  #expect(token: string): void {
    if (!this.#take(token)) throw this.#error(JSON.stringify(token));
  }

  #peek(): string {
    this.#skip();
    return this.#text[this.#at] ?? "";
  }

  #isEnd(): boolean {
    return this.#peek() === "";
  }

  #skip(): void {
    while (/\s/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #fail(expected: string): never {
    throw this.#error(expected);
  }

  #error(expected: string): GraphError {
    const before = this.#text.slice(0, this.#at).split("\n");
    const found = this.#text.slice(this.#at).split("\n")[0]!.slice(0, 40);
    return new GraphError(
      `Cannot read graph text at ${before.length}:${before.at(-1)!.length + 1}: expected ${expected}, found ${
        found === "" ? "the end" : JSON.stringify(found)
      }`,
    );
  }
}
