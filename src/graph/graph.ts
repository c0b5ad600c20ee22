/**
 * The IR: what a model is.
 *
 * A graph is a list of nodes in topological order that name the values they read and write; a value has a type, and its
 * content where that is a small list of sizes. Node kinds are FX's. Graphs are data: a pass takes one and returns
 * another, through {@linkcode GraphBuilder} (builder.ts). `S` is the stage, so that passes in the wrong order do not
 * compile.
 */
import type { DType } from "../core/dtype.ts";
import type { Layout } from "./layout.ts";
import type { Placement, Reduction } from "./placement.ts";
import type { KnownInts, TensorType } from "./types.ts";

/**
 * What has been done to a graph: `global` describes the whole model; `annotated` carries a placement for every value;
 * `sharded` has parallel layers and explicit collectives, types still global; `local` is one rank's part.
 */
export type Stage = "global" | "annotated" | "sharded" | "local";

/** A value: the output of one node. */
export interface Value {
  /** Unique within the graph. */
  readonly name: string;
  /** Of the whole tensor; in a local graph, of the part. */
  readonly type: TensorType;
  /** The content, where it is a small integer tensor that shape arithmetic determines. */
  readonly ints?: KnownInts;
  /** Where it lives; from stage `annotated` on. */
  readonly placement?: Placement;
}

/** Constant data: a weight of the file, or a tensor made by a pass. Read lazily, by slices. */
export interface TensorData {
  /** Of the elements. */
  readonly dtype: DType;
  /** Sizes, outermost first. */
  readonly shape: readonly number[];
  /** Where the bytes lie in a file, little-endian and row-major, if they do. */
  readonly location?: { readonly file: string; readonly offset: number; readonly length: number } | undefined;
  /** All bytes. */
  bytes(): Uint8Array;
  /** All bytes in pieces of moderate size, in order; each is valid until the next is asked for. Absent: `bytes()` costs nothing. */
  chunks?(): Iterable<Uint8Array>;
  /** The bytes of the tensor that keeps the given index ranges of one dim. */
  slice(dim: number, ranges: readonly (readonly [number, number])[]): Uint8Array;
}

/** An attribute, typed as ONNX types it, so that export gives back what import read. */
export type Attribute =
  | { readonly kind: "int"; readonly value: number }
  | { readonly kind: "float"; readonly value: number }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "ints"; readonly value: readonly number[] }
  | { readonly kind: "floats"; readonly value: readonly number[] }
  | { readonly kind: "strings"; readonly value: readonly string[] }
  | { readonly kind: "tensor"; readonly value: TensorData }
  | { readonly kind: "graph"; readonly value: Graph<"global"> };

/** Attributes by name. */
export type Attributes = Readonly<Record<string, Attribute>>;

/** A graph input. */
export interface Placeholder {
  /** What the node is. */
  readonly kind: "placeholder";
  /** Unique within the graph. */
  readonly name: string;
  /** The name of the value. */
  readonly outputs: readonly [string];
}

/** Constant data as a value. */
export interface GetAttr {
  /** What the node is. */
  readonly kind: "get_attr";
  /** Unique within the graph. */
  readonly name: string;
  /** The name of the value. */
  readonly outputs: readonly [string];
  /** The content. */
  readonly data: TensorData;
}

/** A call of an op (`call_function`) or of a layer (`call_module`: Linear, Embedding, and their parallel counterparts). */
export interface Call {
  /** An op, or a layer. */
  readonly kind: "call_function" | "call_module";
  /** Unique within the graph. */
  readonly name: string;
  /** ONNX's domain: "" for ai.onnx; `shardwise` for our own ops and layers. */
  readonly domain: string;
  /** As the domain calls it. */
  readonly op: string;
  /** Names of values; "" for an optional input that is left out. */
  readonly inputs: readonly string[];
  /** Names of values; "" for an optional output that is left out. */
  readonly outputs: readonly string[];
  /** Values of enclosing scope that subgraph attributes read (If, Loop); always replicated. */
  readonly captures?: readonly string[];
  /** ONNX's, by name. */
  readonly attributes: Attributes;
  /**
   * In a local graph: how many collectives come before the node on the longest way, on any rank. Where a rank's part needs
   * less than the others' (it holds nothing of a dim), the programs of all ranks stay alike by it.
   */
  readonly level?: number;
  /** What the exporter said of the node's origin (`model.layers.0.mlp`): a label for people, never a rule's input. */
  readonly scope?: string;
}

/** A change of placement: the collective, or the local move, between two placements of one tensor. */
export interface Collective {
  /** What the node is. */
  readonly kind: "collective";
  /** Unique within the graph. */
  readonly name: string;
  /** Which change of placement. */
  readonly collective: CollectiveKind;
  /** The name of the value that changes. */
  readonly inputs: readonly [string];
  /** The name of the value in its new placement. */
  readonly outputs: readonly [string];
  /** The sharded dim and its cut: of the input for `all_gather`, of the output for `reduce_scatter` and `slice`. */
  readonly shard?: { readonly dim: number; readonly layout: Layout };
  /** For `slice` of a tensor that is sharded already: the cut that it has. */
  readonly from?: Layout;
  /** How partial results are combined, where they are. */
  readonly reduction?: Reduction;
}

/**
 * `all_reduce` P→R, `reduce_scatter` P→S, `all_gather` S→R; and without communication: `slice` R→S or S→S' within,
 * `mask` R→P (rank 0 keeps the tensor, the others hold zeros).
 */
export type CollectiveKind = "all_reduce" | "reduce_scatter" | "all_gather" | "slice" | "mask";

/** The graph's results. */
export interface Output {
  /** What the node is. */
  readonly kind: "output";
  /** Fixed. */
  readonly name: "output";
  /** Names of the values that are the results, in order. */
  readonly inputs: readonly string[];
  /** None. */
  readonly outputs: readonly [];
  /** The names under which callers know the results, in order: ONNX's. */
  readonly names: readonly string[];
}

/** A node of a graph, told apart by `kind`. */
export type Node = Placeholder | GetAttr | Call | Collective | Output;

/**
 * A state that a caller carries from one step to the next: KV caches. Both ends keep one placement.
 *
 * A graph without a placeholder of that name begins the state: a first step, which another graph's steps follow. A state
 * without an output is read and stays as it is: keys and values of an encoder's output.
 */
export interface Carried {
  /** Name of the placeholder. */
  readonly input: string;
  /** Index into the output node's inputs. */
  readonly output?: number;
}

/** A model, or what a stage has made of it. */
export interface Graph<S extends Stage = Stage> {
  /** What has been done to it. */
  readonly stage: S;
  /** For texts and messages. */
  readonly name: string;
  /** In topological order; placeholders first, the output node last. */
  readonly nodes: readonly Node[];
  /** By name; one for every output of a node. */
  readonly values: ReadonlyMap<string, Value>;
  /** Version of each ONNX domain that the nodes follow. */
  readonly opsets: ReadonlyMap<string, number>;
  /** States from step to step. */
  readonly carried: readonly Carried[];
}

/** The value called `name`. @throws {Error} A bug: verified graphs name only values that exist. */
export function valueOf(graph: Graph, name: string): Value {
  const value = graph.values.get(name);
  if (!value) throw new Error(`Graph "${graph.name}" has no value "${name}"`);
  return value;
}

/** The output node. */
export function outputOf(graph: Graph): Output {
  const last = graph.nodes.at(-1);
  if (last?.kind !== "output") throw new Error(`Graph "${graph.name}" does not end in an output node`);
  return last;
}

/** The names that a node reads, captures included, without the empty ones. */
export function readsOf(node: Node): readonly string[] {
  switch (node.kind) {
    case "placeholder":
    case "get_attr":
      return [];
    case "call_function":
    case "call_module":
      return [...node.inputs, ...(node.captures ?? [])].filter((n) => n !== "");
    case "collective":
    case "output":
      return node.inputs;
  }
}

/** For every value, the node that writes it. */
export function producers(graph: Graph): Map<string, Node> {
  const out = new Map<string, Node>();
  for (const node of graph.nodes) for (const name of node.outputs) if (name !== "") out.set(name, node);
  return out;
}

/** For every value, the nodes that read it, each once, in order. */
export function consumers(graph: Graph): Map<string, Node[]> {
  const out = new Map<string, Node[]>();
  for (const node of graph.nodes) {
    for (const name of new Set(readsOf(node))) {
      const list = out.get(name);
      if (list) list.push(node);
      else out.set(name, [node]);
    }
  }
  return out;
}

/** Whether the node calls an op or a layer. */
export function isCall(node: Node): node is Call {
  return node.kind === "call_function" || node.kind === "call_module";
}

/** `domain.op`, or just the op for ai.onnx: the key of op tables, and what texts print. */
export function opKey(node: { readonly domain: string; readonly op: string }): string {
  return node.domain === "" ? node.op : `${node.domain}.${node.op}`;
}
