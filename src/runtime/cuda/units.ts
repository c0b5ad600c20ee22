/** What is lowered together: a node, or several that become one kernel; and which of them are alike, whatever the sizes. */
import { type Dim, dimEquals, dimKey } from "../../core/dim.ts";
import {
  type Call,
  type Collective,
  consumers,
  type Graph,
  isCall,
  type Node,
  outputOf,
  readsOf,
  valueOf,
} from "../../graph/graph.ts";
import { intOf } from "../../graph/attributes.ts";
import { axisOf } from "../../ops/kernels/access.ts";
import { growthOf, isElementwise, isRowwise, readsGaps } from "../../ops/kernels/table.ts";

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

/** A state that grows in place: the carried input that it is, and the dim along which. */
export interface GrowingState {
  readonly input: string;
  readonly dim: number;
}

/** The states that values extend in place, by the value's name. */
export function statesInPlace(graph: Graph<"local">, units: readonly Unit[]): Map<string, GrowingState> {
  const out = new Map<string, GrowingState>();
  for (const { grows, nodes: [node] } of units) {
    if (!grows || !isCall(node!)) continue;
    for (const { input, output, dim } of growthOf(node)) {
      const name = node.outputs[output]!, rank = valueOf(graph, name).type.shape!.length;
      out.set(name, { input: node.inputs[input]!, dim: axisOf(dim, rank) });
    }
  }
  return out;
}

/** The units of a graph: elementwise calls that feed one other alone are one with it, other nodes one each. */
export function unitsOf(graph: Graph<"local">): Unit[] {
  const readers = new Map<string, number>(), { inputs: results } = outputOf(graph), reading = consumers(graph);
  for (const node of graph.nodes) for (const name of readsOf(node)) readers.set(name, (readers.get(name) ?? 0) + 1);
  const next = new Map(graph.carried.flatMap((c) => (c.output === undefined ? [] : [[c.input, results[c.output]!]])));
  const grows = (node: Call | Collective): boolean => {
    const growth = isCall(node) ? growthOf(node) : [];
    return growth.length > 0 && growth.every(({ input, output, dim }) => {
      const state = node.inputs[input] ?? "", extended = node.outputs[output] ?? "";
      if (state === "" || extended === "" || next.get(state) !== extended) return false;
      const rank = valueOf(graph, extended).type.shape?.length ?? 0, own = axisOf(dim, rank);
      if (growthDim(graph, state, extended) !== own) return false;
      // Nobody else may read the state, as it changes under who reads it late; and what it becomes has gaps between its rows.
      return readers.get(state) === 1 && results.filter((r) => r === extended).length === 1 &&
        reading.get(extended)!.every((n) => {
          if (n.kind === "output") return true;
          // Who asks for its size alone does not read it.
          const isSize = isCall(n) && n.outputs.every((o) => o === "" || valueOf(graph, o).ints !== undefined);
          return isSize || (isCall(n) && readsGaps(n, { dim: own, rank }));
        });
    });
  };
  const extended = new Set<string>();
  /** Which inputs have gaps between their rows, where states grow in place. */
  const gaps = (inputs: readonly string[]) => inputs.map((n) => Number(extended.has(n))).join("");
  const isRead = (name: string) => readers.has(name),
    chains = chainsOf(graph, { readers, results: new Set(results), reading });
  return graph.nodes.flatMap((node): Unit[] => {
    if (!isCall(node) && node.kind !== "collective") return [];
    const nodes = chains.get(node);
    if (nodes === null) return [];
    if (nodes !== undefined) {
      const made = new Set(nodes.flatMap((n) => n.outputs));
      const inputs = [...new Set(nodes.flatMap((n) => n.inputs))].filter((n) => !made.has(n));
      const key = keyOf(graph, nodes, isRead);
      const isInside = (n: Node) => nodes.includes(n as Call);
      // What others read too is a result as well.
      const kept = nodes.slice(0, -1).flatMap((n) => n.outputs).filter((name) =>
        reading.has(name) && !reading.get(name)!.every(isInside)
      );
      const outputs = [...node.outputs, ...kept],
        own = [...made].map((name) => Number(outputs.includes(name))).join("");
      return [{ nodes, inputs, outputs, grows: false, key: key && `${own} ${gaps(inputs)} ${key}` }];
    }
    const own = grows(node), key = keyOf(graph, [node], isRead);
    if (own && isCall(node)) {
      for (const { output } of growthOf(node)) extended.add(node.outputs[output]!);
    }
    const unit = { nodes: [node], inputs: node.inputs, outputs: node.outputs, grows: own };
    return [{ ...unit, key: key && `${own} ${gaps(node.inputs)} ${key}` }];
  });
}

/** Whether a call reduces the last dims of its input and gives elements in the same order. */
function reducesRows(graph: Graph<"local">, node: Call): boolean {
  if (!isRowwise(node)) return false;
  const rank = valueOf(graph, node.inputs[0]!).type.shape?.length, axis = intOf(node.attributes, "axis") ?? -1;
  const isSoftmax = node.op === "Softmax" || node.op === "LogSoftmax", opset = graph.opsets.get("") ?? 1;
  // A softmax before opset 13 reduces all dims from its axis on, as norms do.
  return rank !== undefined && (!isSoftmax || opset < 13 || axisOf(axis, rank) === rank - 1);
}

/**
 * By their last node, calls that become one; null for those that are in the chain of a later one. Elementwise calls are one with who alone
 * reads them; around a call that reduces rows, others may read them too, later than all of the chain.
 */
function chainsOf(
  graph: Graph<"local">,
  o: {
    readonly readers: ReadonlyMap<string, number>;
    readonly results: ReadonlySet<string>;
    readonly reading: ReadonlyMap<string, readonly Node[]>;
  },
): Map<Call | Collective, readonly Call[] | null> {
  const out = new Map<Call | Collective, readonly Call[] | null>(), makers = new Map<string, Call>();
  const positions = new Map<Node, number>(graph.nodes.map((node, i) => [node, i]));
  const shapeOf = (name: string) => valueOf(graph, name).type.shape?.map(dimKey).join();
  const isRows = (node: Call) => reducesRows(graph, node);
  const joins = (node: Call) =>
    (isRows(node) && node.outputs[0] !== "") ||
    (isElementwise(node) && node.outputs.length === 1 && valueOf(graph, node.outputs[0]!).ints === undefined);
  const isReadAlone = (name: string, node: Call) =>
    !o.results.has(name) && o.readers.get(name) === node.inputs.filter((n) => n === name).length;
  /** Whether who reads what `made` make, other than `all` do, comes later than the last of these. */
  const areReadLater = (made: readonly Call[], all: readonly Call[]) =>
    made.flatMap((n) => n.outputs).every((name) =>
      (o.reading.get(name) ?? []).every((n) =>
        all.includes(n as Call) || positions.get(n)! > positions.get(all.at(-1)!)!
      )
    );
  for (const node of graph.nodes) {
    if (!isCall(node) || !joins(node)) continue;
    const output = node.outputs[0]!, chain: Call[] = [];
    let hasRows = isRows(node);
    for (const name of new Set(node.inputs)) {
      const maker = makers.get(name), own = maker && out.get(maker);
      if (!maker || own === null || shapeOf(name) === undefined || shapeOf(name) !== shapeOf(output)) continue;
      const made = own ?? [maker], bringsRows = made.some(isRows);
      if (hasRows && bringsRows) continue;
      const fits = hasRows || bringsRows ? areReadLater(made, [...chain, ...made, node]) : isReadAlone(name, node);
      if (!fits) continue;
      chain.push(...made);
      out.set(maker, null);
      hasRows ||= bringsRows;
    }
    makers.set(output, node);
    if (chain.length > 0) out.set(node, [...chain.sort((a, b) => positions.get(a)! - positions.get(b)!), node]);
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
