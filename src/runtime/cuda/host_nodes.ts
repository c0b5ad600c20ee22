/**
 * Which nodes of a graph the host runs because no GPU does: ops without a kernel, control flow, and what needs sizes that only data tells.
 * Found before anything is uploaded; what a lowering refuses at the sizes of a step comes to it then (`LoweringError`).
 */
import { dependsOnData, symbolsOf } from "../../core/dim.ts";
import { GraphError } from "../../core/errors.ts";
import { type Call, type Graph, isCall, valueOf } from "../../graph/graph.ts";
import { countsRows, requireSeparateRows } from "../../ops/kernels/bounded.ts";
import { loweringOf } from "../../ops/kernels/table.ts";

/** A node's op as messages name it. */
export function opName({ domain, op }: Call): string {
  return domain === "" ? op : `${domain}.${op}`;
}

/** Whether a node decides what runs: its subgraphs are then programs of their own. */
export function isControl(node: Call): boolean {
  return ["If", "Loop"].includes(opName(node));
}

/** Whether the host knows all that a node gives from the sizes of a step's inputs, so that nobody runs it. */
export function isKnown(graph: Graph<"local">, node: Call): boolean {
  return isSizes(graph, node) &&
    node.outputs.every((n) => n === "" || !valueOf(graph, n).ints!.elements.some(dependsOnData));
}

/** Whether all that a node gives are sizes, which the host knows where it knows how many rows there are. */
function isSizes(graph: Graph<"local">, node: Call): boolean {
  return node.outputs.every((n) => n === "" || valueOf(graph, n).ints !== undefined);
}

/** The nodes of `graph` that the host runs; none where the whole graph is one program of the GPU. */
export function hostNodes(graph: Graph<"local">): ReadonlySet<string> {
  const calls = graph.nodes.filter(isCall), isOdd = (node: Call) => !countsRows(node) && needsHost(graph, node);
  const isWhole = calls.every((node) => isSizes(graph, node) || !isOdd(node));
  if (isWhole && (!calls.some(countsRows) || keepsRowsApart(graph))) return new Set();
  // Rows that data counts have their true number between parts, so that it is the host which counts them.
  const onHost = calls.filter((node) => !isKnown(graph, node) && (countsRows(node) || isOdd(node)));
  return new Set(onHost.map((node) => node.name));
}

function keepsRowsApart(graph: Graph<"local">): boolean {
  try {
    requireSeparateRows(graph);
    return true;
  } catch (error) {
    if (error instanceof GraphError) return false;
    throw error;
  }
}

function needsHost(graph: Graph<"local">, node: Call): boolean {
  if (!loweringOf(node)) return true;
  const named = (names: readonly string[]) => names.filter((n) => n !== "").map((n) => valueOf(graph, n).type);
  const inputs = named(node.inputs), outputs = named(node.outputs);
  if ([...inputs, ...outputs].some((t) => t.dtype === undefined || t.shape === undefined)) return true;
  const known = new Set<string>();
  for (const d of inputs.flatMap((t) => t.shape!)) symbolsOf(d, known);
  // Sizes that come about in this node: only its data tells them.
  return outputs.some((t) => t.shape!.some((d) => dependsOnData(d) && !symbolsOf(d).isSubsetOf(known)));
}

/** The ops of `nodes`, and how often each comes: `Loop, 2 Resize`. */
export function opsOf(graph: Graph<"local">, nodes: ReadonlySet<string>): string {
  const counts = new Map<string, number>();
  for (const node of graph.nodes) {
    if (isCall(node) && nodes.has(node.name)) counts.set(opName(node), (counts.get(opName(node)) ?? 0) + 1);
  }
  return [...counts].map(([name, n]) => (n === 1 ? name : `${n} ${name}`)).join(", ");
}
