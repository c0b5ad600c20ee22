/**
 * A small exported decoder, written out at other sizes: more layers, wider, every node as the exporter made it.
 *
 * Benches need models of real sizes that nobody has to download. Their form counts as much as their sizes: an exporter
 * writes hundreds of nodes of shape arithmetic a layer. So nothing is built by hand: the last layer of the small graph is the
 * pattern of all layers after the first, its literals and weight shapes are replaced size by size, and its weights by
 * random ones.
 */
import type { Dim } from "../../src/core/dim.ts";
import { GraphError } from "../../src/core/errors.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import {
  type Carried,
  consumers,
  type GetAttr,
  type Graph,
  isCall,
  type Node,
  outputOf,
  readsOf,
  type TensorData,
  type Value,
  valueOf,
} from "../../src/graph/graph.ts";
import { type DecoderSizes, headDim } from "./architectures.ts";
import { randomData } from "./random_weights.ts";

/** Where a layer's number stands in the names of its values and nodes. */
const LAYER = /(?<=(?:^|[./])(?:layers|layer|h|past_key_values|present)\.)\d+(?=[./])/;
/** Smaller constants are numbers that the graph computes with; larger ones are weights. */
const MOST_LITERALS = 8;

/** From which sizes to which. */
export interface Scaling {
  readonly from: DecoderSizes;
  readonly to: DecoderSizes;
}

/**
 * `graph`, a decoder of `from.layers` ≥ 2 equal layers, with the sizes `to`. Weights are random and read lazily; where sizes do not
 * change, neither do literals.
 *
 * @throws {GraphError} If the layers cannot be told apart, or two sizes that differ in `to` are equal in `from`.
 */
export function scaleDecoder(graph: Graph<"global">, scaling: Scaling): Graph<"global"> {
  return new Scaler(graph, scaling).run();
}

class Scaler {
  readonly #graph: Graph<"global">;
  readonly #from: DecoderSizes;
  readonly #to: DecoderSizes;
  readonly #sizes: ReadonlyMap<number, number>;
  /** The layer of every node that is a layer's own. */
  readonly #layers: ReadonlyMap<Node, number>;
  /** The last layer of the small graph: the pattern. */
  readonly #last: number;
  /** Values that belong to the pattern, and so have a copy in every layer. */
  readonly #own: ReadonlySet<string>;
  /** What the layer before hands to the pattern, and what the pattern hands on. */
  readonly #handed: { readonly before: string; readonly after: string };
  readonly #builder: GraphBuilder<"global">;
  /** Constants that say how many heads there are; the same small number may mean something else elsewhere. */
  readonly #headCounts: ReadonlySet<string>;

  constructor(graph: Graph<"global">, { from, to }: Scaling) {
    this.#graph = graph;
    this.#from = from;
    this.#to = to;
    this.#sizes = sizeMap(from, to);
    this.#last = from.layers - 1;
    this.#layers = layersOf(graph);
    this.#own = new Set(graph.nodes.filter((n) => this.#layers.get(n) === this.#last).flatMap((n) => n.outputs));
    this.#handed = this.#findHanded();
    this.#builder = new GraphBuilder("global", graph.name, graph.opsets);
    this.#headCounts = headCounts(graph, from);
  }

  run(): Graph<"global"> {
    const { nodes } = this.#graph;
    this.#copyAll(nodes.filter((n) => n.kind === "placeholder"));
    this.#copyAll(nodes.filter((n) => n.kind !== "placeholder" && n.kind !== "output"));
    return this.#finish();
  }

  #finish(): Graph<"global"> {
    const { inputs, names } = outputOf(this.#graph);
    const results: { value: string; name: string }[] = [];
    const carried: Carried[] = [];
    const add = (at: number, layer: number) => {
      const pair = this.#graph.carried.find((c) => c.output === at);
      if (pair) carried.push({ input: this.#name(pair.input, layer), output: results.length });
      results.push({ value: this.#name(inputs[at]!, layer), name: this.#name(names[at]!, layer) });
    };
    const mine = inputs.map((value) => this.#own.has(value) && value !== this.#handed.after);
    inputs.forEach((_, at) => mine[at] || add(at, this.#last));
    for (let layer = this.#last; layer < this.#to.layers; layer++) mine.forEach((is, at) => is && add(at, layer));
    return this.#builder.finish({ inputs: results.map((r) => r.value), names: results.map((r) => r.name) }, carried);
  }

  /** Writes `nodes` in order, with the pattern's among them once for its own layer and for each that follows. */
  #copyAll(nodes: readonly Node[]): void {
    const inPattern = (node: Node) => this.#layers.get(node) === this.#last;
    const first = nodes.findIndex(inPattern),
      begin = first < 0 ? nodes.length : first,
      end = nodes.findLastIndex(inPattern) + 1 || nodes.length;
    const between = nodes.slice(begin, end);
    for (const node of nodes.slice(0, begin)) this.#copy(node);
    for (const node of between) if (!inPattern(node)) this.#copy(node);
    for (let layer = this.#last; layer < this.#to.layers; layer++) {
      for (const node of between) if (inPattern(node)) this.#copy(node, layer);
    }
    for (const node of nodes.slice(end)) this.#copy(node);
  }

  /** Writes `node`, as that of `layer` where it belongs to the pattern. Nodes outside the layers read the last layer's result. */
  #copy(node: Node, layer = this.#last): void {
    const outside = !this.#layers.has(node);
    const read = (name: string) =>
      outside && name === this.#handed.after ? this.#name(name, this.#to.layers - 1) : this.#name(name, layer);
    if (node.kind === "get_attr") {
      const outputs = [this.#name(node.outputs[0], layer)] as const;
      const data = this.#data(node, outputs[0]);
      const type = { dtype: data.dtype, shape: data.shape };
      this.#builder.append({ ...node, name: outputs[0], outputs, data }, [{ name: outputs[0], type }]);
    } else if (node.kind === "placeholder") {
      const outputs = [this.#name(node.outputs[0], layer)] as const;
      this.#builder.append({ ...node, name: outputs[0], outputs }, [this.#value(node.outputs[0], layer)]);
    } else if (isCall(node)) {
      this.#builder.append({
        ...node,
        name: this.#numbered(node.name, { node, layer }),
        inputs: node.inputs.map(read),
        outputs: node.outputs.map((name) => this.#name(name, layer)),
        ...(node.scope === undefined ? {} : { scope: this.#numbered(node.scope, { node, layer }) }),
      }, node.outputs.filter((name) => name !== "").map((name) => this.#value(name, layer)));
    }
  }

  /** A value's name in `layer`: the pattern's own are renamed, and what it takes from the layer before. */
  #name(name: string, layer: number): string {
    if (name === "" || layer === this.#last) return name;
    if (name === this.#handed.before) return name.replace(LAYER, `${layer - 1}`);
    if (!this.#own.has(name)) return name;
    return LAYER.test(name) ? name.replace(LAYER, `${layer}`) : `${name}/layers.${layer}`;
  }

  #numbered(name: string, { node, layer }: { node: Node; layer: number }): string {
    if (this.#layers.get(node) !== this.#last || layer === this.#last) return name;
    return name.replace(LAYER, `${layer}`);
  }

  #value(name: string, layer: number): Value {
    const { type } = valueOf(this.#graph, name);
    // A cache is [batch, kv heads, tokens, head size]; how many heads there are may equal any other small number.
    const isCache = /^(past_key_values|present)\./.test(name);
    const shape = type.shape?.map((d, at): Dim => isCache && at === 1 ? this.#to.kvHeads : this.#size(d));
    return { name: this.#name(name, layer), type: { dtype: type.dtype, shape } };
  }

  #size(dim: Dim): Dim {
    return typeof dim === "number" ? this.#sizes.get(dim) ?? dim : dim;
  }

  #data(node: GetAttr, name: string): TensorData {
    const { data } = node;
    const count = data.shape.reduce((a, b) => a * b, 1);
    if (data.dtype === "f32" && count > MOST_LITERALS) {
      return randomData(name, data.shape.map((d) => this.#size(d) as number));
    }
    if (data.dtype === "f32") return this.#floats(data);
    if (data.dtype !== "i64" || count === 0) return data;
    const before = new BigInt64Array(data.bytes().slice().buffer);
    if (this.#headCounts.has(node.outputs[0])) {
      return inlineData("i64", data.shape, BigInt64Array.of(BigInt(this.#to.heads)));
    }
    // A table of all positions.
    if (count === this.#from.positions && before.every((v, i) => v === BigInt(i))) {
      const shape = data.shape.map((d) => this.#size(d) as number);
      return inlineData(
        "i64",
        shape,
        BigInt64Array.from({ length: shape.reduce((a, b) => a * b) }, (_, i) => BigInt(i)),
      );
    }
    const after = before.map((v) => BigInt(this.#sizes.get(Number(v)) ?? v));
    return inlineData("i64", data.shape, after);
  }

  /** Rotary frequencies and the scales of scores follow from the head's size; other numbers stay. */
  #floats(data: TensorData): TensorData {
    const [before, after] = [headDim(this.#from), headDim(this.#to)];
    const values = new Float32Array(data.bytes().slice().buffer);
    if (data.shape.length === 3 && values.length === before / 2) {
      const theta = values[1]! ** (-before / 2); // frequency i is theta ** (-2i / head size)
      const frequencies = Float32Array.from({ length: after / 2 }, (_, i) => theta ** (-2 * i / after));
      return inlineData("f32", [1, after / 2, 1], frequencies);
    }
    for (const power of [-0.25, -0.5]) {
      if (values.length !== 1 || Math.fround(before ** power) !== values[0]) continue;
      return inlineData("f32", data.shape, Float32Array.of(after ** power));
    }
    return data;
  }

  /** The one value that leaves the pattern but for its caches, and its twin of the layer before. */
  #findHanded(): { before: string; after: string } {
    const readers = consumers(this.#graph);
    const leaving = [...this.#own].filter((name) =>
      (readers.get(name) ?? []).some((n) => n.kind !== "output" && this.#layers.get(n) !== this.#last)
    );
    const after = leaving[0];
    if (leaving.length !== 1 || after === undefined) {
      throw new GraphError(
        `Cannot repeat layer ${this.#last} of "${this.#graph.name}": it hands on ${leaving.join(", ") || "nothing"}`,
        {
          hint: "a decoder's last layer hands one value to the final norm",
        },
      );
    }
    const before = after.replace(LAYER, `${this.#last - 1}`);
    const reads = this.#graph.nodes.some((n) => this.#layers.get(n) === this.#last && readsOf(n).includes(before));
    if (!reads) {
      throw new GraphError(`Cannot repeat layer ${this.#last} of "${this.#graph.name}": it does not read ${before}`);
    }
    return { before, after };
  }
}

/** The layer of every node: by its name, or, of a constant whose name tells nothing, by its readers. */
function layersOf(graph: Graph): Map<Node, number> {
  const layers = new Map<Node, number>();
  const readers = consumers(graph);
  for (const node of graph.nodes) {
    const found = LAYER.exec(node.name);
    if (found) layers.set(node, Number(found[0]));
  }
  for (const node of graph.nodes) {
    if (node.kind !== "get_attr" || layers.has(node)) continue;
    const of = new Set((readers.get(node.outputs[0]) ?? []).map((n) => layers.get(n)));
    const [only] = of;
    if (of.size === 1 && only !== undefined) layers.set(node, only);
  }
  return layers;
}

/** Constants of one number that Concat joins before the size of a head: `[batch, tokens, heads, head size]`, Reshape's target. */
function headCounts(graph: Graph, sizes: DecoderSizes): Set<string> {
  const constants = new Map<string, bigint>(), found = new Set<string>();
  for (const node of graph.nodes) {
    if (node.kind === "get_attr" && node.data.dtype === "i64" && node.data.shape.every((d) => d === 1)) {
      constants.set(node.outputs[0], new BigInt64Array(node.data.bytes().slice().buffer)[0]!);
    }
    if (!isCall(node) || node.op !== "Concat") continue;
    node.inputs.forEach((name, i) => {
      const isBefore = constants.get(node.inputs[i + 1] ?? "") === BigInt(headDim(sizes));
      if (isBefore && constants.get(name) === BigInt(sizes.heads)) found.add(name);
    });
  }
  return found;
}

/** What becomes of each size that stands in literals and shapes. */
function sizeMap(from: DecoderSizes, to: DecoderSizes): Map<number, number> {
  const map = new Map<number, number>();
  const put = (before: number, after: number) => {
    const other = map.get(before);
    if (other !== undefined && other !== after) {
      throw new GraphError(
        `Cannot scale ${before} to both ${other} and ${after}: two sizes of the small model are equal`,
      );
    }
    map.set(before, after);
  };
  put(from.hidden, to.hidden);
  put(3 * from.hidden, 3 * to.hidden); // query, key and value in one
  put(from.ffn, to.ffn);
  put(from.vocabulary, to.vocabulary);
  put(headDim(from), headDim(to));
  put(from.kvHeads * headDim(from), to.kvHeads * headDim(to));
  if (from.positions !== undefined && to.positions !== undefined) put(from.positions, to.positions);
  if (from.heads / from.kvHeads !== to.heads / to.kvHeads) {
    throw new GraphError(
      `Cannot scale ${from.heads} heads on ${from.kvHeads} to ${to.heads} on ${to.kvHeads}: query heads a kv head must stay`,
    );
  }
  return map;
}
