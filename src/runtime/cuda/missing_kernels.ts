/** Ops of a graph that no GPU runs, told all at once and before anything is uploaded. */
import { GraphError } from "../../core/errors.ts";
import { type Graph, isCall, valueOf } from "../../graph/graph.ts";
import { requireSeparateRows } from "../../ops/kernels/bounded.ts";
import { loweringOf } from "../../ops/kernels/table.ts";

/** @throws {GraphError} Naming the ops of `graph` that have no kernel, and how often each comes; or one that mixes rows which data counts. */
export function requireKernels(graph: Graph<"local">): void {
  const missing = new Map<string, number>();
  for (const node of graph.nodes) {
    if (!isCall(node) || loweringOf(node)) continue;
    // What the host computes from sizes needs no kernel.
    if (node.outputs.every((n) => n === "" || valueOf(graph, n).ints !== undefined)) continue;
    const name = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
    missing.set(name, (missing.get(name) ?? 0) + 1);
  }
  if (missing.size === 0) return requireSeparateRows(graph);
  const list = [...missing].map(([name, count]) => (count === 1 ? name : `${count} ${name}`)).join(", ");
  throw new GraphError(`Cannot run "${graph.name}" on a GPU: no kernel for ${list}`, {
    hint: "run this model with device cpu",
  });
}
