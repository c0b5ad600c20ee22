/** What is lowered together: a node, or several that become one kernel; and which of them are alike, whatever the sizes. */
import { type Dim, dimEquals, dimKey } from "../../core/dim.ts";
import { type Call, type Collective, type Graph, isCall, outputOf, readsOf, valueOf } from "../../graph/graph.ts";
import { growthOf, isElementwise } from "../../ops/kernels/table.ts";

/** Nodes that are lowered together, in order. Steps of a unit name its values by their position in these lists. */
export interface Unit {
  readonly nodes: readonly (Call | Collective)[];
  /** Values that nodes outside of it have made; "" is left out. */
  readonly inputs: readonly string[];
  /** Values that nodes outside of it may read. */
  readonly outputs: readonly string[];
  /** Whether its outputs grow in the memory of the states that it reads, where there are states. */
  readonly grows: boolean;
  /** Of units with equal keys all that a lowering sees is equal, at any sizes; null for a unit that has no equals. */
  readonly key: string | null;
}

/** The carried input that each value extends in place, by the value's name. */
export function statesInPlace(units: readonly Unit[]): Map<string, string> {
  const out = new Map<string, string>();
  for (const { grows, nodes: [node] } of units) {
    if (!grows || !isCall(node!)) continue;
    for (const { input, output } of growthOf(node)) out.set(node.outputs[output]!, node.inputs[input]!);
  }
  return out;
}

/** The units of a graph: elementwise calls that feed one other alone are one with it, other nodes one each. */
export function unitsOf(graph: Graph<"local">): Unit[] {
  const readers = new Map<string, number>(), { inputs: results } = outputOf(graph);
  for (const node of graph.nodes) for (const name of readsOf(node)) readers.set(name, (readers.get(name) ?? 0) + 1);
  const next = new Map(graph.carried.flatMap((c) => (c.output === undefined ? [] : [[c.input, results[c.output]!]])));
  const grows = (node: Call | Collective): boolean => {
    const growth = isCall(node) ? growthOf(node) : [];
    return growth.length > 0 && growth.every(({ input, output, dim }) => {
      // Nobody else may read the state: its memory is longer than what it holds, and changes under who reads it late.
      const state = node.inputs[input] ?? "", extended = node.outputs[output] ?? "";
      if (state === "" || extended === "" || growthDim(graph, state, extended) !== dim) return false;
      return next.get(state) === extended && readers.get(state) === 1 && readers.get(extended) === 1;
    });
  };
  const isRead = (name: string) => readers.has(name), chains = chainsOf(graph, { readers, results: new Set(results) });
  return graph.nodes.flatMap((node): Unit[] => {
    if (!isCall(node) && node.kind !== "collective") return [];
    const nodes = chains.get(node);
    if (nodes === null) return [];
    if (nodes !== undefined) {
      const made = new Set(nodes.flatMap((n) => n.outputs));
      const inputs = [...new Set(nodes.flatMap((n) => n.inputs))].filter((n) => !made.has(n));
      return [{ nodes, inputs, outputs: node.outputs, grows: false, key: keyOf(graph, nodes, isRead) }];
    }
    const own = grows(node), key = keyOf(graph, [node], isRead);
    return [{ nodes: [node], inputs: node.inputs, outputs: node.outputs, grows: own, key: key && `${own} ${key}` }];
  });
}

/** By their last node, calls that become one; null for those that are in the chain of a later one. */
function chainsOf(
  graph: Graph<"local">,
  o: { readonly readers: ReadonlyMap<string, number>; readonly results: ReadonlySet<string> },
): Map<Call | Collective, readonly Call[] | null> {
  const out = new Map<Call | Collective, readonly Call[] | null>(), makers = new Map<string, Call>();
  const shapeOf = (name: string) => valueOf(graph, name).type.shape?.map(dimKey).join();
  const joins = (node: Call) =>
    isElementwise(node) && node.outputs.length === 1 && valueOf(graph, node.outputs[0]!).ints === undefined;
  for (const node of graph.nodes) {
    if (!isCall(node) || !joins(node)) continue;
    const [output] = node.outputs as readonly [string], chain: Call[] = [];
    for (const name of new Set(node.inputs)) {
      const maker = makers.get(name);
      if (!maker || o.results.has(name) || o.readers.get(name) !== node.inputs.filter((n) => n === name).length) {
        continue;
      }
      if (shapeOf(name) === undefined || shapeOf(name) !== shapeOf(output)) continue;
      chain.push(...out.get(maker) ?? [maker]);
      out.set(maker, null);
    }
    makers.set(output, node);
    if (chain.length > 0) out.set(node, [...chain, node]);
  }
  return out;
}

/** All that lowerings see of `nodes`, with symbols for sizes. */
function keyOf(
  graph: Graph<"local">,
  nodes: readonly (Call | Collective)[],
  isRead: (name: string) => boolean,
): string | null {
  const names = new Map<string, number>();
  const parts: unknown[] = [];
  for (const node of nodes) {
    if (!isCall(node)) return null;
    const attributes = Object.entries(node.attributes);
    if (attributes.some(([, a]) => a.kind === "tensor" || a.kind === "graph")) return null;
    const values = [...node.inputs, ...node.outputs].map((name) => {
      if (name === "") return null;
      if (!names.has(name)) names.set(name, names.size);
      const { type, ints } = valueOf(graph, name);
      return [names.get(name), type.dtype, type.shape?.map(dimKey), ints?.elements.map(dimKey), isRead(name)];
    });
    parts.push([node.domain, node.op, attributes, node.inputs.length, values]);
  }
  return JSON.stringify(parts);
}

/** The first dim in which a value and what extends it differ. */
function growthDim(graph: Graph<"local">, from: string, to: string): number | undefined {
  const [a, b] = [from, to].map((name) => valueOf(graph, name).type.shape);
  return a && b && growingDim(a, b);
}

/** The first dim in which the shapes of a state before and after a step differ. */
export function growingDim(from: readonly Dim[], to: readonly Dim[]): number | undefined {
  const dim = from.findIndex((d, i) => !dimEquals(d, to[i] ?? 0));
  return dim < 0 ? undefined : dim;
}
