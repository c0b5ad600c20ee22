/** Which carried states of a program grow in place: the op that extends them may write into the memory that it reads. */
import { dependsOnData } from "../core/dim.ts";
import { type Graph, isCall, type Node, readsOf, valueOf } from "../graph/graph.ts";
import { opDef } from "../ops/table.ts";
import { type Program, segmentsOf } from "./program.ts";

/**
 * For each carried input of `program` that may share its memory with the output that continues it, the dim along which it
 * grows. Nothing but the op that extends it may read the state, before or after: the memory is longer than what it holds.
 */
export function statesInPlace(program: Program): ReadonlyMap<string, number> {
  const out = new Map<string, number>();
  const outputs = new Map(program.outputs.map((o) => [o.name, o.value]));
  for (const { input, output } of program.carried) {
    const value = output === undefined ? undefined : outputs.get(output);
    const dim = value?.kind === "value" ? growthDim(program, input, value.name) : undefined;
    if (dim !== undefined) out.set(input, dim);
  }
  return out;
}

function growthDim(program: Program, input: string, output: string): number | undefined {
  const stored = program.stored.get(output);
  // Memory is set out before a step, so the sizes must be known then.
  if (!stored?.type.dtype || stored.shared || !stored.type.shape || stored.type.shape.some(dependsOnData)) {
    return undefined;
  }
  let dim: number | undefined;
  for (const segment of segmentsOf(program)) {
    for (const [placeholder, source] of segment.inputs) {
      const isState = source.kind === "input" && source.name === input;
      if (!isState) {
        if (source.kind === "value" && source.name === output) return undefined;
        continue;
      }
      const readers = segment.graph.nodes.filter((n) => readsOf(n).includes(placeholder));
      if (readers.length !== 1 || segment.index !== stored.writtenBy || dim !== undefined) return undefined;
      dim = dimOf(segment.graph, readers[0]!, { from: placeholder, to: output });
      if (dim === undefined) return undefined;
      // The result itself must not be read in its segment, but as a result.
      if (segment.graph.nodes.some((n) => n.kind !== "output" && readsOf(n).includes(output))) return undefined;
    }
  }
  return dim;
}

function dimOf(graph: Graph, node: Node, { from, to }: { from: string; to: string }): number | undefined {
  if (!isCall(node)) return undefined;
  const value = (name: string) => (name === "" ? undefined : valueOf(graph, name));
  const places = opDef(node)?.inPlace?.({
    node,
    attributes: node.attributes,
    opset: graph.opsets.get(node.domain) ?? 1,
    inputs: node.inputs.map((n) => value(n)?.type),
    ints: node.inputs.map((n) => value(n)?.ints),
    outputs: node.outputs.map((n) => value(n)?.type),
  });
  return places?.find((p) => node.inputs[p.input] === from && node.outputs[p.output] === to)?.dim;
}
