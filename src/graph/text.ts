/**
 * Graphs as text, which `parseGraph` (text_parser.ts) reads back exactly:
 *
 * ```text
 * graph mlp : sharded {opset=17} over 2 ranks
 * %x = placeholder : f32[batch,48] @ R
 * %w = get_attr : f32[48,90] @ S(1)
 * %h = call_module shardwise.Linear(%x, %w) {transB=0} : f32[batch,90] @ S(1) in layers.0
 * %y = all_gather(%h) {shard=S(1)} : f32[batch,90] @ R
 * output %y as "hidden"
 * ```
 * A node: its outputs (`_` where left out), what it does, what it reads (after `|` the captures of its subgraphs), its
 * attributes, and per output the type, ` = ` the content where it is known, ` @ ` the placement. ` as ` names a node that
 * is not called like its first output; ` in ` gives its scope. `S(1)` is the balanced cut; any other is written out.
 */
import { dimKey } from "../core/dim.ts";
import { byteLength } from "../core/dtype.ts";
import { unreachable } from "../core/errors.ts";
import { type Attribute, type Call, type Graph, type Node, opKey, type TensorData, type Value } from "./graph.ts";
import { balanced, type Layout } from "./layout.ts";
import { type Placement, placementKey } from "./placement.ts";
import { type KnownInts, printType, type Shape } from "./types.ts";

/** What to print. */
export interface PrintOptions {
  /** Print names of nodes that differ from their first output's; true by default. Text without reads back with names of its own. */
  readonly nodeNames?: boolean;
  /** Print scopes; true by default. */
  readonly scopes?: boolean;
}

/** Kinds of collectives. */
export const COLLECTIVES: readonly string[] = ["all_reduce", "reduce_scatter", "all_gather", "slice", "mask"];

/** Words that stand where an op stands: an op of such a name is quoted. */
const RESERVED: readonly string[] = [...COLLECTIVES, "placeholder", "get_attr", "call_module"];

/** Tensor attributes up to this many bytes are written into the text. */
const MAX_INLINE = 256;

/** The graph as text, one node a line. */
export function printGraph(graph: Graph, options: PrintOptions = {}): string {
  const opsets = [...graph.opsets].map(([domain, version]) => `${quoted(domain || "opset")}=${version}`);
  const printer = new Printer(graph, options, ranksOf(graph));
  const over = printer.ranks === undefined ? "" : ` over ${printer.ranks} ranks`;
  return `graph ${quoted(graph.name)} : ${graph.stage} {${opsets.join(", ")}}${over}\n${printer.lines("")}`;
}

/** One node as {@linkcode printGraph} prints it; for messages. */
export function printNode(graph: Graph, node: Node): string {
  return new Printer(graph, { nodeNames: false, scopes: false }, ranksOf(graph)).node(node, "");
}

/** A name as it is, or quoted where it holds a character that the text needs. */
export function quoted(name: string): string {
  return /^[A-Za-z0-9_./:#-]+$/.test(name) && !/^[_:#-]$|^[-0-9.]*$/.test(name) ? name : JSON.stringify(name);
}

/** The number of ranks that placements speak of, if any do. */
function ranksOf(graph: Graph): number | undefined {
  for (const { placement } of graph.values.values()) {
    if (placement?.kind === "S") return placement.layout.parts.length;
  }
  for (const node of graph.nodes) if (node.kind === "collective" && node.shard) return node.shard.layout.parts.length;
  return undefined;
}

class Printer {
  readonly ranks: number | undefined;
  readonly #graph: Graph;
  readonly #options: PrintOptions;

  constructor(graph: Graph, options: PrintOptions, ranks: number | undefined) {
    this.#graph = graph;
    this.#options = options;
    this.ranks = ranks;
  }

  lines(indent: string): string {
    const carried = this.#graph.carried.map((c) =>
      `${indent}carried %${quoted(c.input)}${c.output === undefined ? "" : ` -> ${c.output}`}\n`
    );
    return this.#graph.nodes.map((n) => `${indent}${this.node(n, indent)}\n`).join("") + carried.join("");
  }

  node(node: Node, indent: string): string {
    switch (node.kind) {
      case "placeholder":
        return `${this.#outputs(node)} = placeholder${this.#types(node)}${this.#name(node)}`;
      case "get_attr": {
        const type = printType(this.#graph.values.get(node.outputs[0])!.type);
        const data = printType({ dtype: node.data.dtype, shape: node.data.shape });
        const other = data === type ? "" : ` ${data}`;
        return `${this.#outputs(node)} = get_attr${other}${this.#types(node)}${this.#name(node)}`;
      }
      case "call_function":
      case "call_module": {
        const scope = node.scope !== undefined && this.#options.scopes !== false ? ` in ${quoted(node.scope)}` : "";
        return `${this.#outputs(node)} = ${this.#call(node, indent)}${this.#types(node)}${this.#name(node)}${scope}`;
      }
      case "collective": {
        const shape = this.#graph.values.get(node.outputs[0])!.type.shape;
        const details = [
          ...(node.shard ? [`shard=${this.#placement({ kind: "S", ...node.shard }, shape)}`] : []),
          ...(node.from ? [`from=(${node.from.key})`] : []),
          ...(node.reduction ? [`reduction=${node.reduction}`] : []),
        ];
        const braces = details.length > 0 ? ` {${details.join(", ")}}` : "";
        const input = printRead(node.inputs[0]);
        return `${this.#outputs(node)} = ${node.collective}(${input})${braces}${this.#types(node)}${this.#name(node)}`;
      }
      case "output": {
        const results = node.inputs.map((value, i) => {
          const name = node.names[i]!;
          return name === value ? printRead(value) : `${printRead(value)} as ${JSON.stringify(name)}`;
        });
        return results.length > 0 ? `output ${results.join(", ")}` : "output";
      }
    }
  }

  #outputs(node: Node): string {
    return node.outputs.map(printRead).join(", ") || "_";
  }

  #name(node: Node): string {
    const shown = this.#options.nodeNames !== false && node.name !== node.outputs[0];
    return shown ? ` as ${quoted(node.name)}` : "";
  }

  #call(node: Call, indent: string): string {
    const key = opKey(node);
    const op = RESERVED.includes(key) ? JSON.stringify(key) : quoted(key);
    const captures = node.captures ? ` | ${node.captures.map(printRead).join(", ")}` : "";
    const attributes = Object.entries(node.attributes).map(([name, a]) =>
      `${quoted(name)}=${this.#attribute(a, indent)}`
    );
    const braces = attributes.length > 0 ? ` {${attributes.join(", ")}}` : "";
    const module = node.kind === "call_module" ? "call_module " : "";
    return `${module}${op}(${node.inputs.map(printRead).join(", ")}${captures})${braces}`;
  }

  #types(node: Node): string {
    const types = node.outputs.filter((name) => name !== "").map((name) => this.#value(this.#graph.values.get(name)!));
    return types.length > 0 ? ` : ${types.join(", ")}` : "";
  }

  #value({ type, ints, placement }: Value): string {
    const place = placement ? ` @ ${this.#placement(placement, type.shape)}` : "";
    return `${printType(type)}${ints ? ` = ${printInts(ints)}` : ""}${place}`;
  }

  #placement(p: Placement, shape: Shape | undefined): string {
    if (p.kind !== "S") return placementKey(p);
    return this.#isPlain(p.layout, shape?.[p.dim]) ? `S(${p.dim})` : `S(${p.dim};${p.layout.key})`;
  }

  #isPlain(layout: Layout, size: unknown): boolean {
    const ranks = this.ranks;
    return ranks !== undefined && layout.size === size && layout.key === balanced(layout.size, ranks).key;
  }

  #attribute(a: Attribute, indent: string): string {
    switch (a.kind) {
      case "int":
        return printInt(a.value);
      case "float":
        return printFloat(a.value);
      case "string":
        return JSON.stringify(a.value);
      case "ints":
        return printList(a.value.map(printInt), a.kind);
      case "floats":
        return printList(a.value.map(printFloat), a.kind);
      case "strings":
        return printList(a.value.map((s) => JSON.stringify(s)), a.kind);
      case "tensor":
        return printTensor(a.value);
      case "graph": {
        const inner = new Printer(a.value, this.#options, this.ranks);
        return `graph ${quoted(a.value.name)} {\n${inner.lines(`${indent}  `)}${indent}}`;
      }
      default:
        return unreachable(a);
    }
  }
}

function printRead(name: string): string {
  return name === "" ? "_" : `%${quoted(name)}`;
}

function printInts({ dims, elements }: KnownInts): string {
  const list = elements.map(dimKey).join(",");
  if (dims.length === 0) return list;
  return dims.length === 1 ? `[${list}]` : `[${dims.join(",")}]:[${list}]`;
}

function printList(items: readonly string[], kind: string): string {
  return items.length > 0 ? `[${items.join(",")}]` : `${kind}[]`;
}

/** Whole numbers without an exponent, so that the largest int64 stays a number that can be read. */
function printInt(value: number): string {
  return Number.isSafeInteger(value) ? String(value) : BigInt(value).toString();
}

/** The shortest text that reads back as the same number; with `f` where it is meant as a 32-bit float. */
function printFloat(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  const full = String(value);
  const exact = /[.e]/.test(full) ? full : `${full}.0`;
  if (Math.fround(value) !== value) return exact;
  for (let digits = 1; digits < 9; digits++) {
    const short = String(Number(value.toPrecision(digits)));
    if (Math.fround(Number(short)) === value) return short.length + 1 < full.length ? `${short}f` : exact;
  }
  return exact;
}

function printTensor(data: TensorData): string {
  const type = printType({ dtype: data.dtype, shape: data.shape });
  const count = data.shape.reduce((a, b) => a * b, 1);
  if (data.dtype === "string" || byteLength(data.dtype, count) > MAX_INLINE) return `tensor(${type})`;
  return `tensor(${type}, ${JSON.stringify(data.bytes().toBase64())})`;
}
