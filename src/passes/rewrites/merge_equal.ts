/**
 * Calls that compute the same from the same become one: exporters write a layer's mask and tables out in every layer.
 *
 * ```text
 * %a = Where(%mask, 0, -inf)   %b = Where(%mask, 0, -inf)     ->     one of them
 * ```
 */
import { type Call, type Graph, isCall, type Node, opKey, outputOf } from "../../graph/graph.ts";
import { opDef } from "../../ops/table.ts";
import { eliminateDeadCode } from "../eliminate_dead_code.ts";

/** The graph with equal calls merged. Results of the graph, and what a subgraph reads by name, keep their own. */
export function mergeEqual(graph: Graph<"global">): Graph<"global"> {
  const results = new Set([
    ...outputOf(graph).inputs,
    ...graph.nodes.flatMap((node) => isCall(node) ? node.captures ?? [] : []),
  ]);
  const known = new Map<string, Call>(), aliases = new Map<string, string>();
  const constants = new Map<string, string>(), values = new Map(graph.values);
  const nodes = graph.nodes.flatMap((node): Node[] => {
    if (node.kind === "get_attr") {
      // Small constants are equal by content; weights are never read here.
      const { dtype, shape, location } = node.data, count = shape.reduce((a, b) => a * b, 1);
      if (count > 4 || results.has(node.outputs[0])) return [node];
      const key = `${dtype}[${shape}]${location ? "" : "!"}${node.data.bytes().join()}`;
      const first = constants.get(key);
      if (first === undefined) constants.set(key, node.outputs[0]);
      else aliases.set(node.outputs[0], first);
      return [node];
    }
    if (!isCall(node)) return [node];
    const inputs = node.inputs.map((name) => aliases.get(name) ?? name);
    const here = inputs.every((name, i) => name === node.inputs[i]) ? node : { ...node, inputs };
    if (node.captures || node.kind === "call_module" || opDef(node)?.draws?.(node)) return [here];
    const key = keyOf(graph, here);
    const first = key === undefined ? undefined : known.get(key);
    if (!first) {
      if (key !== undefined) known.set(key, here);
      return [here];
    }
    if (node.outputs.some((name) => results.has(name))) return [here];
    node.outputs.forEach((name, i) => {
      aliases.set(name, first.outputs[i]!);
      values.delete(name);
    });
    return [];
  });
  return aliases.size === 0 ? graph : eliminateDeadCode({ ...graph, nodes, values });
}

/** An identity of what a call computes; none where an attribute is no plain data. */
function keyOf(graph: Graph, node: Call): string | undefined {
  let text = `${opKey(node)}(${node.inputs.join()})${node.outputs.map((o) => (o === "" ? "-" : "+")).join("")}`;
  if (node.op === "Sizes") {
    const { ints } = graph.values.get(node.outputs[0]!)!;
    text += `[${ints?.dims}]=${ints?.elements.join()}`;
  }
  for (const name of Object.keys(node.attributes).sort()) {
    const { kind, value } = node.attributes[name]!;
    if (kind === "graph") return undefined;
    text += kind === "tensor"
      ? value.shape.reduce((a, b) => a * b, 1) > 4
        ? `;${node.name}`
        : `;${name}=${value.dtype}[${value.shape}]${value.bytes().join()}`
      : `;${name}=${kind}:${JSON.stringify(value)}`;
  }
  return text;
}
