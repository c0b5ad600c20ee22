/** Short names for what a segment reads and writes. */
import { type Graph, isCall, type Node, outputOf, type Value } from "../../graph/graph.ts";

/**
 * `graph` with values named `i0…` (inputs), `o0…` (outputs) and `v0…`: ONNX Runtime copies and looks up the names of inputs and outputs
 * at each run, and exporters' are long. Nodes keep theirs, by which messages call them. Graphs with subgraphs stay as they are.
 */
export function withShortNames(graph: Graph<"local">): Graph<"local"> {
  if (graph.nodes.some((n) => isCall(n) && Object.values(n.attributes).some((a) => a.kind === "graph"))) return graph;
  const names = new Map<string, string>(), output = outputOf(graph);
  let inputs = 0, others = 0;
  output.inputs.forEach((name, i) => names.set(name, `o${i}`));
  for (const node of graph.nodes) {
    for (const name of node.outputs) {
      if (name === "" || names.has(name)) continue;
      names.set(name, node.kind === "placeholder" ? `i${inputs++}` : `v${others++}`);
    }
  }
  const short = (name: string) => names.get(name) ?? name;
  const nodes = graph.nodes.map((node): Node => {
    switch (node.kind) {
      case "placeholder":
      case "get_attr":
        return { ...node, outputs: [short(node.outputs[0])] };
      case "collective":
        return { ...node, inputs: [short(node.inputs[0])], outputs: [short(node.outputs[0])] };
      case "output":
        return { ...node, inputs: node.inputs.map(short), names: node.inputs.map(short) };
      default:
        return { ...node, inputs: node.inputs.map(short), outputs: node.outputs.map(short) };
    }
  });
  const values = new Map(
    [...graph.values].map(([name, v]): [string, Value] => [short(name), { ...v, name: short(name) }]),
  );
  return { ...graph, nodes, values };
}
