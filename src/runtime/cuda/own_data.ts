/** Graphs that outlive the file that they were read from: what a step still reads on the host is theirs. */
import { inlineData } from "../../graph/builder.ts";
import {
  type Attribute,
  type Attributes,
  type Call,
  type Graph,
  isCall,
  type Node,
  type TensorData,
} from "../../graph/graph.ts";
import { isControl } from "./host_nodes.ts";

/** Elements of a constant that may be sizes: types of subgraphs are inferred anew, with what is in them. */
const SMALL = 1024;

/** `graph` with tensor attributes of its own, and with constants of its own in subgraphs where they are small, or where the host runs them. */
export function withOwnData<S extends Graph>(graph: S): S {
  const nodes = graph.nodes.map((node) => (isCall(node) ? ownCall(node) : node));
  return { ...graph, nodes };
}

/** All subgraphs of `graph`, and theirs, that a GPU may run. */
export function deviceSubgraphs(graph: Graph): Graph[] {
  return graph.nodes.flatMap((node) => {
    if (!isCall(node) || !isControl(node)) return [];
    const own = Object.values(node.attributes).flatMap((a) => (a.kind === "graph" ? [a.value] : []));
    return own.flatMap((g) => [g, ...deviceSubgraphs(g)]);
  });
}

function ownCall(node: Call): Call {
  const entries = Object.entries(node.attributes);
  if (!entries.some(([, a]) => a.kind === "tensor" || a.kind === "graph")) return node;
  const isOnHost = !isControl(node);
  const attributes: Attributes = Object.fromEntries(entries.map(([key, a]) => [key, ownAttribute(a, isOnHost)]));
  return { ...node, attributes };
}

function ownAttribute(attribute: Attribute, isOnHost: boolean): Attribute {
  if (attribute.kind === "tensor") return { kind: "tensor", value: copied(attribute.value) };
  if (attribute.kind !== "graph") return attribute;
  const graph = withOwnData(attribute.value);
  const nodes = graph.nodes.map((node): Node => {
    if (node.kind !== "get_attr") return node;
    const isSmall = node.data.shape.reduce((a, b) => a * b, 1) <= SMALL;
    return isOnHost || isSmall ? { ...node, data: copied(node.data) } : node;
  });
  return { kind: "graph", value: { ...graph, nodes } };
}

function copied(data: TensorData): TensorData {
  return inlineData(data.dtype, data.shape, data.bytes().slice());
}
