/**
 * Looks through aliases: every reader of an `Identity` reads its operand.
 *
 * ```text
 * %w2 = Identity(%w)   %y = Mul(%x, %w2)      ->      %y = Mul(%x, %w)
 * ```
 * Exporters write them for parameters of equal content; planning has to see the constant. An Identity that names a
 * result of the graph, or that a subgraph captures, stays.
 */
import { type Graph, isCall, type Node, type Stage } from "../graph/graph.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";

/** The graph without aliases between nodes. */
export function foldConstants<S extends Stage>(graph: Graph<S>): Graph<S> {
  const aliases = new Map<string, string>();
  const resolve = (name: string) => aliases.get(name) ?? name;
  for (const node of graph.nodes) {
    if (!isCall(node) || node.op !== "Identity" || node.domain !== "") continue;
    const [input] = node.inputs, [output] = node.outputs;
    if (input && output) aliases.set(output, resolve(input));
  }
  if (aliases.size === 0) return graph;
  const nodes = graph.nodes.map((node): Node =>
    isCall(node) && node.inputs.some((name) => aliases.has(name)) ? { ...node, inputs: node.inputs.map(resolve) } : node
  );
  return eliminateDeadCode({ ...graph, nodes });
}
