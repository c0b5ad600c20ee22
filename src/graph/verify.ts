/** The invariants of the IR, checked between passes. */
import { dimEquals, dimKey, dimMul } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { subgraphsOf } from "./attributes.ts";
import { type Collective, type Graph, type Node, readsOf, type Stage, type Value } from "./graph.ts";
import { contains, isCover, type Layout } from "./layout.ts";
import { type Placement, placementKey, printPlacement, REPLICATE } from "./placement.ts";
import { printType, type Shape } from "./types.ts";

/**
 * Checks a graph:
 *
 * - every value is written once, before it is read, and is in the table of values; node names are unique;
 * - the only output node is the last node; it names each result once;
 * - what a subgraph reads from outside is listed in its node's captures;
 * - inputs and constants have types; constants the ones of their data;
 * - from stage `annotated` on, every value has a placement (constants only once every use has its own) that fits its shape: the dim exists, the layout is as long as
 *   the dim, all layouts are of one number of ranks, and together the ranks hold everything;
 * - collectives turn the placement of their input into the placement of their output, only in stage `sharded` and `local`;
 * - carried pairs join an input and a result of one dtype, number of dims and placement.
 *
 * @throws {GraphError} Naming the node and what is wrong.
 */
export function verify(graph: Graph): void {
  new Verifier(graph).run();
}

/** What a stage asks of a graph. */
const RULES: Record<Stage, { readonly placements: boolean; readonly collectives: boolean }> = {
  global: { placements: false, collectives: false },
  annotated: { placements: true, collectives: false },
  sharded: { placements: true, collectives: true },
  local: { placements: false, collectives: true },
};

class Verifier {
  readonly #graph: Graph;
  readonly #written = new Set<string>();
  readonly #nodeNames = new Set<string>();
  readonly #outer: ReadonlySet<string>;
  #ranks: number | undefined;

  constructor(graph: Graph, outer: ReadonlySet<string> = new Set()) {
    this.#graph = graph;
    this.#outer = outer;
  }

  run(): void {
    const { nodes, values } = this.#graph;
    for (const [i, node] of nodes.entries()) this.#node(node, i === nodes.length - 1);
    if (nodes.at(-1)?.kind !== "output") throw this.#error("it does not end in an output node");
    for (const name of values.keys()) {
      if (!this.#written.has(name)) throw this.#error(`value "${name}" is written by no node`);
    }
    this.#carried();
  }

  #error(what: string, node?: Node): GraphError {
    const { name, stage } = this.#graph;
    return new GraphError(`Invalid ${stage} graph "${name}"${node ? ` at ${node.kind} "${node.name}"` : ""}: ${what}`);
  }

  #node(node: Node, last: boolean): void {
    if (this.#nodeNames.has(node.name)) throw this.#error("another node has this name", node);
    this.#nodeNames.add(node.name);
    for (const name of readsOf(node)) {
      if (this.#written.has(name) || this.#outer.has(name)) continue;
      const known = this.#graph.values.has(name);
      throw this.#error(`it reads "${name}", which ${known ? "is written later" : "does not exist"}`, node);
    }
    for (const name of node.outputs) {
      if (name === "") continue;
      if (this.#written.has(name) || this.#outer.has(name)) {
        throw this.#error(`it writes "${name}", which is written already`, node);
      }
      this.#written.add(name);
      const value = this.#graph.values.get(name);
      if (!value) throw this.#error(`its output "${name}" is not in the table of values`, node);
      if (value.name !== name) throw this.#error(`value "${name}" is called "${value.name}" in the table`, node);
      this.#value(value, node);
    }
    this.#kind(node, last);
  }

  #kind(node: Node, last: boolean): void {
    switch (node.kind) {
      case "placeholder":
        // A subgraph's inputs get their types from the node that holds it.
        if (this.#outer.size === 0 && !this.#type(node.outputs[0]).dtype) throw this.#error("it has no dtype", node);
        return;
      case "get_attr": {
        const type = this.#type(node.outputs[0]);
        const data = printType({ dtype: node.data.dtype, shape: node.data.shape });
        if (this.#graph.stage !== "local" && printType(type) !== data) {
          throw this.#error(`its type is ${printType(type)}, its data ${data}`, node);
        }
        return;
      }
      case "call_function":
      case "call_module": {
        for (const inner of subgraphsOf(node.attributes)) {
          // Captures only: a read of anything else is found as one that does not exist.
          new Verifier(inner, new Set([...node.captures ?? [], ...this.#outer])).run();
        }
        return;
      }
      case "collective":
        return this.#collective(node);
      case "output": {
        if (!last) throw this.#error("it is not the last node", node);
        const { inputs, names } = node;
        if (inputs.length !== names.length) {
          throw this.#error(`it has ${inputs.length} results and ${names.length} names`, node);
        }
        const twice = names.find((name, i) => names.indexOf(name) !== i);
        if (twice !== undefined) throw this.#error(`two results are called "${twice}"`, node);
      }
    }
  }

  #type(name: string) {
    return this.#graph.values.get(name)!.type;
  }

  #value(value: Value, node: Node): void {
    const { type: { shape }, ints, placement } = value;
    const wrong = shape?.find((d) => typeof d === "number" && !(Number.isInteger(d) && d >= 0));
    if (wrong !== undefined) {
      throw this.#error(`"${value.name}" is ${printType(value.type)}: no size is ${wrong}`, node);
    }
    if (ints) {
      const count = ints.dims.reduce((a, b) => a * b, 1);
      if (count !== ints.elements.length) {
        throw this.#error(`"${value.name}" has ${ints.elements.length} known elements for dims [${ints.dims}]`, node);
      }
    }
    if (placement === undefined) {
      const isOpen = this.#graph.stage === "annotated" && node.kind === "get_attr";
      if (RULES[this.#graph.stage].placements && !isOpen) throw this.#error(`"${value.name}" has no placement`, node);
      return;
    }
    if (this.#graph.stage === "global" && placement.kind !== "R") {
      throw this.#error(`"${value.name}" is placed ${printPlacement(placement)} in a global graph`, node);
    }
    // What a rank's own graph says of placements is a note of where its values came from: shapes are local there.
    if (this.#graph.stage !== "local" && placement.kind === "S") this.#shard(value.name, shape, placement, node);
  }

  #shard(name: string, shape: Shape | undefined, { dim, layout }: { dim: number; layout: Layout }, node: Node): void {
    const placed = `"${name}" is placed S(${dim})`;
    if (!shape) throw this.#error(`${placed}, but its shape is not known`, node);
    const size = shape[dim];
    if (size === undefined) throw this.#error(`${placed}, but has ${shape.length} dims`, node);
    if (layout.parts.length !== (this.#ranks ??= layout.parts.length)) {
      throw this.#error(`${placed} over ${layout.parts.length} ranks, other values over ${this.#ranks}`, node);
    }
    const whole = dimMul(layout.outer, layout.size);
    if (!dimEquals(size, whole)) {
      throw this.#error(`${placed} by a layout of ${dimKey(whole)} elements, but the dim has ${dimKey(size)}`, node);
    }
    const outside = layout.parts.flat().find(([a, b]) => a < 0 || b > layout.size || a > b);
    if (outside) throw this.#error(`${placed}, range ${outside[0]}-${outside[1]} leaves ${layout.size}`, node);
    const holes = layout.parts.some((part) => part.some(([a], i) => i > 0 && a < part[i - 1]![1]));
    if (holes) throw this.#error(`${placed} by ranges that are not ascending: ${layout.key}`, node);
    if (!isCover(layout)) throw this.#error(`${placed}, but no rank holds some of it: ${layout.key}`, node);
  }

  #collective(node: Collective): void {
    if (!RULES[this.#graph.stage].collectives) {
      throw this.#error(`a ${this.#graph.stage} graph has no collectives`, node);
    }
    const needsShard = ["all_gather", "reduce_scatter", "slice"].includes(node.collective);
    if (needsShard !== (node.shard !== undefined)) {
      throw this.#error(`${node.collective} ${needsShard ? "needs" : "has no"} shard`, node);
    }
    const reduces = ["all_reduce", "reduce_scatter", "mask"].includes(node.collective);
    if (reduces !== (node.reduction !== undefined)) {
      throw this.#error(`${node.collective} ${reduces ? "needs a" : "has no"} reduction`, node);
    }
    if (node.from && node.collective !== "slice") throw this.#error(`${node.collective} has no "from"`, node);
    if (this.#graph.stage === "local") return;
    const [input, output] = [this.#graph.values.get(node.inputs[0])!, this.#graph.values.get(node.outputs[0])!];
    if (printType(input.type) !== printType(output.type)) {
      throw this.#error(`it turns ${printType(input.type)} into ${printType(output.type)}`, node);
    }
    const [from, to] = this.#ends(node);
    for (const [end, value, want] of [["input", input, from], ["output", output, to]] as const) {
      const found = value.placement ?? REPLICATE;
      if (placementKey(found) !== placementKey(want)) {
        throw this.#error(
          `its ${end} "${value.name}" is placed ${printPlacement(found)}, and must be ${printPlacement(want)}`,
          node,
        );
      }
    }
    if (node.collective === "reduce_scatter" && !isCover(node.shard!.layout)) {
      throw this.#error(`its layout leaves elements out: ${node.shard!.layout.key}`, node);
    }
    if (node.from && !contains(node.from, node.shard!.layout)) {
      throw this.#error(`${node.shard!.layout.key} is no part of ${node.from.key}`, node);
    }
  }

  /** The placements that a collective turns into each other. */
  #ends({ collective, shard, from, reduction }: Collective): readonly [Placement, Placement] {
    const sharded: Placement = shard ? { kind: "S", ...shard } : REPLICATE;
    const partial: Placement = { kind: "P", reduction: reduction ?? "sum" };
    switch (collective) {
      case "all_reduce":
        return [partial, REPLICATE];
      case "reduce_scatter":
        return [partial, sharded];
      case "all_gather":
        return [sharded, REPLICATE];
      case "slice":
        return [from ? { kind: "S", dim: shard!.dim, layout: from } : REPLICATE, sharded];
      case "mask":
        return [REPLICATE, partial];
    }
  }

  #carried(): void {
    const output = this.#graph.nodes.at(-1)!;
    const [ins, outs] = [new Set<string>(), new Set<number>()];
    for (const { input, output: at } of this.#graph.carried) {
      const pair = `carried pair ("${input}", ${at ?? "-"})`;
      const source = this.#graph.nodes.find((n) => n.kind === "placeholder" && n.outputs[0] === input);
      if (!source && (at === undefined || this.#graph.values.has(input))) {
        throw this.#error(`${pair} names no input`);
      }
      const name = at === undefined ? undefined : output.kind === "output" ? output.inputs[at] : undefined;
      if (at !== undefined && name === undefined) throw this.#error(`${pair} names no result`);
      if (ins.has(input) || (at !== undefined && outs.has(at))) {
        throw this.#error(`${pair} shares an end with another pair`);
      }
      ins.add(input);
      if (at === undefined || name === undefined) continue;
      outs.add(at);
      if (!source) continue;
      const [a, b] = [this.#graph.values.get(input)!, this.#graph.values.get(name)!];
      const dims = [a, b].map((v) => v.type.shape?.length);
      if (dims[0] !== undefined && dims[1] !== undefined && dims[0] !== dims[1]) {
        throw this.#error(`${pair} joins ${printType(a.type)} and ${printType(b.type)}`);
      }
      if (a.type.dtype && b.type.dtype && a.type.dtype !== b.type.dtype) {
        throw this.#error(`${pair} joins ${printType(a.type)} and ${printType(b.type)}`);
      }
      if (!RULES[this.#graph.stage].placements) continue;
      const [p, q] = [a.placement ?? REPLICATE, b.placement ?? REPLICATE];
      if (placementKey(p) !== placementKey(q)) {
        throw this.#error(`${pair} is placed ${printPlacement(p)} and ${printPlacement(q)}: both must be equal`);
      }
    }
  }
}
