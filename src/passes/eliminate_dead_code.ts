/**
 * Drops the nodes that no result needs. Placeholders stay: they are the callers' contract. In a rank's graph collectives do too, as
 * the others wait for its part, and constants: where one lies in the file that ranks share follows from those before it, which all count,
 * whether they read them or not.
 */
import { type Graph, type Node, readsOf, type Stage, type Value } from "../graph/graph.ts";

/** The graph without dead nodes. */
export function eliminateDeadCode<S extends Stage>(graph: Graph<S>): Graph<S> {
  const needed = new Set<string>();
  const kept: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    const ofAllRanks = graph.stage === "local" && (node.kind === "collective" || node.kind === "get_attr");
    const live = node.kind === "placeholder" || node.kind === "output" || ofAllRanks ||
      node.outputs.some((name) => needed.has(name));
    if (!live) continue;
    for (const name of readsOf(node)) needed.add(name);
    kept.push(node);
  }
  if (kept.length === graph.nodes.length) return graph;
  const values = new Map<string, Value>();
  for (const node of kept) {
    for (const name of node.outputs) {
      const value = graph.values.get(name);
      if (value) values.set(name, value);
    }
  }
  return { ...graph, nodes: kept.toReversed(), values };
}
