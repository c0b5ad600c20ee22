/**
 * A language model's logits for the last position only: what picks the next token looks at no others.
 *
 * ```text
 * %h = Add(%x, %a)                          %x.last = Gather(%x, [-1]) {axis=1}
 * %n = SimplifiedLayerNormalization(%h, …)  ->    %a.last = Gather(%a, [-1]) {axis=1}
 * %logits = shardwise.Linear(%n, %w)        %h = Add(%x.last, %a.last)  %n = …  %logits = …
 * ```
 * The result keeps its dims, with one position: `[batch, 1, vocabulary]`. What only it reads is computed for one position too, as
 * far back as positions stay apart: the head, which is a fifth of a small model's work on a long prompt, and of the last layer all
 * that comes after attention, or even its queries. Whether an op keeps positions apart is what its factors say: a factor that is
 * neither reduced nor selected never depends on which of its units a rank holds, so that one unit alone is right as well.
 */
import { dimEquals, symbol } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { int } from "../graph/attributes.ts";
import { inlineData } from "../graph/builder.ts";
import { type Call, type Graph, isCall, type Node, outputOf, readsOf, valueOf } from "../graph/graph.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import type { TypedContext } from "../ops/def.ts";
import type { At } from "../ops/factors.ts";
import { opDef } from "../ops/table.ts";
import { FreshNames } from "./rewrites/rewrite.ts";

/** The name that exporters give to the result, and the dim of its positions. */
const RESULT = "logits", POSITIONS = 1;

/** The graph with logits of one position. */
export function lastLogits(graph: Graph<"global">): Graph<"global"> {
  const output = outputOf(graph), result = output.inputs[output.names.indexOf(RESULT)];
  const shape = result === undefined ? undefined : valueOf(graph, result).type.shape;
  if (result === undefined || shape?.length !== 3 || dimEquals(shape[POSITIONS]!, 1)) return graph;
  const narrowing = new Narrowing(graph, result);
  return narrowing.isUseful ? narrowing.graph() : graph;
}

/** Finds the calls that may do with the last position, from the result backwards, and writes the graph in which they do. */
class Narrowing {
  readonly #graph: Graph<"global">;
  /** How often a value is read. */
  readonly #reads = new Map<string, number>();
  /** By value: the dims of which only the last position is wanted, and by how many of its reads. */
  readonly #wanted = new Map<string, Map<number, number>>();
  /** By call that has one position now: the dim of it in each input; undefined in inputs that have no positions. */
  readonly #calls = new Map<Node, readonly (number | undefined)[]>();
  /** Values that have one position now, and the dim of it. */
  readonly #narrow = new Map<string, number>();

  constructor(graph: Graph<"global">, result: string) {
    this.#graph = graph;
    for (const name of graph.nodes.flatMap(readsOf)) this.#reads.set(name, (this.#reads.get(name) ?? 0) + 1);
    this.#want(result, POSITIONS);
    for (const node of graph.nodes.toReversed()) if (isCall(node)) this.#visit(node);
  }

  /** Whether any call has less to do. */
  get isUseful(): boolean {
    return this.#calls.size > 0;
  }

  #want(name: string, dim: number): void {
    const dims = this.#wanted.get(name) ?? new Map<number, number>();
    this.#wanted.set(name, dims.set(dim, (dims.get(dim) ?? 0) + 1));
  }

  #visit(node: Call): void {
    const dims = node.outputs.map((name) => this.#dimOfAll(name));
    if (dims.every((d) => d === undefined)) return;
    if (node.outputs.some((name, i) => dims[i] === undefined && this.#reads.has(name))) return;
    const inputs = narrowInputs(this.#graph, node, dims);
    if (!inputs) return;
    this.#calls.set(node, inputs);
    node.outputs.forEach((name, i) => dims[i] !== undefined && this.#narrow.set(name, dims[i]));
    node.inputs.forEach((name, i) => inputs[i] !== undefined && this.#want(name, inputs[i]));
  }

  /** The dim of which every read of a value wants the last position only; undefined where one wants more. */
  #dimOfAll(name: string): number | undefined {
    const [only, ...others] = this.#wanted.get(name) ?? [];
    const isAll = only && others.length === 0 && only[1] === this.#reads.get(name);
    return isAll && !valueOf(this.#graph, name).ints ? only[0] : undefined;
  }

  /** The graph in which they do. */
  graph(): Graph<"global"> {
    const names = new FreshNames(this.#graph), values = new Map(this.#graph.values);
    const index = names.of("last_position"), cuts = new Map<string, string>();
    const position: Node = {
      kind: "get_attr",
      name: index,
      outputs: [index],
      data: inlineData("i64", [1], BigInt64Array.of(-1n)),
    };
    values.set(index, { name: index, type: { dtype: "i64", shape: [1] }, ints: { dims: [1], elements: [-1] } });
    for (const [name, dim] of this.#narrow) {
      values.set(name, { ...values.get(name)!, type: one(values.get(name)!.type, dim) });
    }
    const nodes = this.#graph.nodes.flatMap((node): Node[] => {
      const dims = this.#calls.get(node), made: Node[] = [];
      if (!dims || !isCall(node)) return [node];
      const inputs = node.inputs.map((name, i) => {
        const dim = dims[i], key = `${name} ${dim}`;
        if (dim === undefined || this.#narrow.has(name)) return name;
        const known = cuts.get(key);
        if (known !== undefined) return known;
        const last = names.of(`${name}.last`);
        if (cuts.size === 0) made.push(position);
        made.push(gather(name, index, dim, last, node.scope));
        values.set(last, { name: last, type: one(valueOf(this.#graph, name).type, dim) });
        cuts.set(key, last);
        return last;
      });
      return [...made, { ...node, inputs }];
    });
    return { ...this.#graph, nodes, values };
  }
}

function gather(input: string, index: string, axis: number, output: string, scope: string | undefined): Node {
  return {
    kind: "call_function",
    name: output,
    domain: "",
    op: "Gather",
    inputs: [input, index],
    outputs: [output],
    attributes: { axis: int(axis) },
    ...(scope === undefined ? {} : { scope }),
  };
}

/** A type with one position. */
const one = ({ dtype, shape }: TensorType, dim: number): TensorType => ({ dtype, shape: shape!.with(dim, 1) });

const isAlone = (place: At) => place.inner === 1 && place.outer === 1 && place.offset === 0 && place.shared === 1;

/**
 * Where a call's inputs have the positions that its outputs have in `dims` (undefined: an output that nothing reads), if one
 * position of the outputs follows from that position of the inputs and the op takes one as it takes many.
 */
function narrowInputs(
  graph: Graph<"global">,
  node: Call,
  dims: readonly (number | undefined)[],
): (number | undefined)[] | undefined {
  const def = opDef(node), value = (name: string) => (name === "" ? undefined : valueOf(graph, name));
  if (!def?.factors || (node.captures?.length ?? 0) > 0) return undefined;
  const context: TypedContext = {
    node,
    attributes: node.attributes,
    opset: graph.opsets.get(node.domain) ?? def.since,
    inputs: node.inputs.map((n) => value(n)?.type),
    ints: node.inputs.map((n) => value(n)?.ints),
    outputs: node.outputs.map((n) => value(n)?.type),
  };
  if (context.inputs.some((type) => type && !type.shape)) return undefined;
  const factor = def.factors(context).factors.find((f) =>
    !f.selected && !f.internal && f.inputs.every((place) => !place || isAlone(place)) &&
    dims.every((dim, i) => dim === undefined || (f.outputs[i]?.dim === dim && isAlone(f.outputs[i]!)))
  );
  const places = factor && node.inputs.map((name, i) => (name === "" ? undefined : factor.inputs[i]?.dim));
  if (!places?.some((dim) => dim !== undefined)) return undefined;
  try {
    const found = def.infer({
      ...context,
      inputs: context.inputs.map((type, i) => (type && places[i] !== undefined ? one(type, places[i]) : type)),
      ints: context.ints.map((known, i) => (places[i] === undefined ? known : undefined)),
      outputCount: node.outputs.length,
      fresh: (label) => symbol(`${label}#last`),
    });
    // An op that is told its sizes (Reshape, Expand) would go on with all positions.
    const fits = dims.every((dim, i) =>
      dim === undefined ||
      (found[i]?.shape !== undefined && isShape(found[i]!.shape!, one(context.outputs[i]!, dim).shape!))
    );
    return fits ? places : undefined;
  } catch (error) {
    if (error instanceof ShapeError) return undefined;
    throw error;
  }
}

const isShape = (a: Shape, b: Shape) => a.length === b.length && a.every((d, i) => dimEquals(d, b[i]!));
