/** Calls that give what they read, in a graph that a GPU runs: whoever reads them reads what they read. */
import { type Call, type Graph, isCall, type Node, outputOf, readsOf, valueOf } from "../../graph/graph.ts";
import { renameCaptures } from "../../graph/subgraphs.ts";

/** Whether the results of `node` are its input, as they are. */
function isCopy(graph: Graph<"local">, { domain, op, inputs, outputs }: Call): boolean {
  if (domain !== "" || inputs[0] === "" || outputs.length !== 1) return false;
  const [from, to] = [inputs[0]!, outputs[0]!].map((n) => valueOf(graph, n).type.dtype);
  return op === "Identity" || (op === "Cast" && from !== undefined && from === to);
}

/** The graph without copies; those stay by which one value would be two results. */
export function withoutCopies(graph: Graph<"local">): Graph<"local"> {
  const names = new Map<string, string>(), results = new Set(outputOf(graph).inputs);
  const nameOf = (name: string) => names.get(name) ?? name;
  const nodes = graph.nodes.flatMap((node): Node[] => {
    if (isCall(node) && isCopy(graph, node)) {
      const [to] = node.outputs as readonly [string], from = nameOf(node.inputs[0]!);
      if (!results.has(to) || !results.has(from)) {
        names.set(to, from);
        if (results.has(to)) results.add(from);
        return [];
      }
    }
    if (!readsOf(node).some((n) => names.has(n))) return [node];
    if (node.kind === "output") return [{ ...node, inputs: node.inputs.map(nameOf) }];
    if (node.kind === "collective") return [{ ...node, inputs: [nameOf(node.inputs[0])] }];
    return isCall(node) ? [renameCaptures({ ...node, inputs: node.inputs.map(nameOf) }, names)] : [node];
  });
  return names.size === 0 ? graph : { ...graph, nodes };
}
