/**
 * A ScatterND that writes every element, as torch.onnx exports `data[:, :] = updates`, is what it writes.
 *
 * ```text
 * %n = ScatterND(%data, Concat(Unsqueeze(Expand(0, 1, 2, … along dim 0)), Unsqueeze(Expand(… along dim 1)), …), %updates)
 *   ->  %updates
 * ```
 */
import { dimEquals } from "../../core/dim.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, Rewrite } from "./rewrite.ts";

export const WHOLE_SCATTER: Rewrite = {
  name: "whole_scatter",
  summary: "a ScatterND that writes every element is left out",
  at: (node, m): Answer => {
    if (opKey(node) !== "ScatterND" || !writesEverything(node, m)) return undefined;
    return { nodes: [{ ...node, op: "Identity", inputs: [node.inputs[2]!], attributes: {} }], values: [] };
  },
};

/** Whether ScatterND's indices are those of all elements, in order: `data[:, :] = updates`, as torch exports it. */
function writesEverything(node: Call, m: Matcher): boolean {
  const [data = "", indices = ""] = node.inputs;
  const shape = m.shape(data), of = m.call(indices, "Concat");
  const reduction = node.attributes.reduction?.value ?? "none";
  if (!shape || m.shape(indices)?.length !== shape.length + 1 || reduction !== "none") return false;
  if (!of || m.concatDim(of) !== shape.length || of.inputs.length !== shape.length) return false;
  return of.inputs.every((column, dim) => {
    const opened = m.call(column, "Unsqueeze", "Reshape"), wide = opened?.inputs[0];
    const ofAll = wide === undefined ? undefined : m.shape(wide);
    if (
      m.shape(column)?.at(-1) !== 1 || ofAll?.length !== shape.length || ofAll.some((d, i) => !dimEquals(d, shape[i]!))
    ) return false;
    const source = m.call(wide!, "Expand")?.inputs[0] ?? wide!;
    if (shape[dim] === 1) return m.ints(source)?.every((i) => i === 0) ?? false;
    return m.counts(source, { fromRight: shape.length - dim, start: 0, length: shape[dim]! });
  });
}
