/** Nodes with subgraphs (If, Loop): the values of enclosing scopes that they read. */
import type { Attribute, Call, Graph, Node } from "./graph.ts";
import { isCall } from "./graph.ts";

/** The names that `graph` and its nested graphs read from enclosing scopes, in order of first use. */
export function capturesOf(graph: Graph): string[] {
  const own = new Set(graph.nodes.flatMap((n) => n.outputs));
  const captures = new Set<string>();
  for (const node of graph.nodes) {
    const nested = isCall(node) ? graphsOf(node).flatMap(capturesOf) : [];
    const reads = node.kind === "placeholder" || node.kind === "get_attr" ? [] : node.inputs;
    for (const name of [...reads, ...nested]) if (name !== "" && !own.has(name)) captures.add(name);
  }
  return [...captures];
}

/** `node` with its captures, and the reads of them in its subgraphs, renamed. */
export function renameCaptures(node: Call, names: ReadonlyMap<string, string>): Call {
  if (!node.captures) return node;
  const captures = node.captures.map((n) => names.get(n) ?? n);
  if (captures.every((n, i) => n === node.captures![i])) return node;
  const attributes = Object.fromEntries(
    Object.entries(node.attributes).map(([key, a]): [string, Attribute] => [
      key,
      a.kind === "graph" ? { kind: "graph", value: renameReads(a.value, names) } : a,
    ]),
  );
  return { ...node, captures, attributes };
}

function renameReads(graph: Graph<"global">, names: ReadonlyMap<string, string>): Graph<"global"> {
  const own = new Set(graph.nodes.flatMap((n) => n.outputs));
  const outer = new Map([...names].filter(([from]) => !own.has(from)));
  const rename = (n: string) => outer.get(n) ?? n;
  const nodes = graph.nodes.map((node): Node => {
    if (node.kind === "output") return { ...node, inputs: node.inputs.map(rename) };
    if (!isCall(node)) return node;
    return renameCaptures({ ...node, inputs: node.inputs.map(rename) }, outer);
  });
  return { ...graph, nodes };
}

function graphsOf(node: Call): Graph<"global">[] {
  return Object.values(node.attributes).flatMap((a) => (a.kind === "graph" ? [a.value] : []));
}
