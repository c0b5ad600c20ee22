/**
 * Reshape targets without inputs: where a symbolic target can be said in Reshape's own words (0 copies the input's dim,
 * -1 is inferred), it becomes a constant, and the executor has one input fewer to feed.
 */
import { dimEquals } from "../core/dim.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { type Call, type Graph, isCall, outputOf, valueOf } from "../graph/graph.ts";
import type { Shape } from "../graph/types.ts";
import type { Segment, Source } from "./program.ts";

/** `segment` with constant Reshape targets where that is possible, and without the inputs that are no longer read. */
export function replaceSizes(segment: Segment): { readonly graph: Graph<"local">; readonly sizes: Segment } {
  const { graph } = segment;
  const targets = new Map<Call, bigint[]>();
  for (const node of graph.nodes) {
    if (!isCall(node) || node.op !== "Reshape" || node.domain !== "") continue;
    const source = segment.inputs.get(node.inputs[1]!);
    const from = valueOf(graph, node.inputs[0]!).type.shape;
    const target = source?.kind === "sizes" && from ? constantTarget(source.elements, from) : undefined;
    if (target) targets.set(node, target);
  }
  if (targets.size === 0) return { graph, sizes: segment };

  const read = new Set(
    graph.nodes.flatMap((n) => {
      if (n.kind === "output") return n.inputs;
      if (!isCall(n)) return [];
      return [...(targets.has(n) ? [n.inputs[0]!] : n.inputs), ...(n.captures ?? [])];
    }),
  );
  const builder = new GraphBuilder("local", graph.name, graph.opsets);
  const constants = new Map<string, string>();
  const inputs = new Map<string, Source>();
  for (const node of graph.nodes) {
    if (node.kind === "output") break;
    if (node.kind === "placeholder") {
      const name = node.outputs[0];
      if (!read.has(name)) continue;
      inputs.set(name, segment.inputs.get(name)!);
    }
    const values = node.outputs.filter((o) => o !== "").map((o) => valueOf(graph, o));
    const target = isCall(node) ? targets.get(node) : undefined;
    if (!isCall(node) || !target) {
      builder.append(node, values);
      continue;
    }
    const key = target.join(",");
    let constant = constants.get(key);
    if (constant === undefined) {
      constant = builder.freshValue("target");
      builder.getAttr(constant, inlineData("i64", [target.length], BigInt64Array.from(target)));
      constants.set(key, constant);
    }
    // With constants, 0 means "copy" again.
    const { allowzero: _, ...attributes } = node.attributes;
    builder.append({ ...node, inputs: [node.inputs[0]!, constant], attributes }, values);
  }
  const { inputs: results, names } = outputOf(graph);
  const replaced = builder.finish({ inputs: results, names });
  return { graph: replaced, sizes: { ...segment, graph: replaced, inputs } };
}

function constantTarget(target: Shape, from: Shape): bigint[] | undefined {
  let inferred = 0;
  const out = target.map((dim, i) => {
    if (dim === -1) inferred++;
    if (typeof dim === "number") return BigInt(dim);
    if (from[i] !== undefined && dimEquals(dim, from[i]!)) return 0n;
    inferred++;
    return -1n;
  });
  // A literal 0 means "copy" here, and nothing can be inferred beside an empty dim.
  return inferred <= 1 && !target.includes(0) ? out : undefined;
}
