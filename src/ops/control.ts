/** Control flow. Its subgraphs run replicated; types are those that both branches declare. Source: ONNX If-13, Loop-13. */
import { dimEquals } from "../core/dim.ts";
import type { Attributes } from "../graph/graph.ts";
import { outputOf } from "../graph/graph.ts";
import type { TensorType } from "../graph/types.ts";
import type { OpDef } from "./def.ts";

/** Types of the results of a subgraph attribute. */
function resultTypes(attributes: Attributes, name: string): readonly TensorType[] {
  const attribute = attributes[name];
  if (attribute?.kind !== "graph") return [];
  const graph = attribute.value;
  return outputOf(graph).inputs.map((i) => graph.values.get(i)?.type ?? { dtype: undefined, shape: undefined });
}

/** Types of the inputs of a subgraph attribute. */
function inputTypes(attributes: Attributes, name: string): readonly TensorType[] {
  const attribute = attributes[name];
  if (attribute?.kind !== "graph") return [];
  const { nodes, values } = attribute.value;
  return nodes.flatMap((n) => (n.kind === "placeholder" ? [values.get(n.outputs[0])!.type] : []));
}

export const IF: OpDef = {
  op: "If",
  domain: "",
  since: 11,
  inputs: ["cond"],
  infer: (context) => {
    const a = resultTypes(context.attributes, "then_branch"), b = resultTypes(context.attributes, "else_branch");
    return Array.from({ length: context.outputCount }, (_, i) => {
      const [x, y] = [a[i], b[i]];
      const dtype = x?.dtype ?? y?.dtype;
      if (!x?.shape || !y?.shape || x.shape.length !== y.shape.length) return { dtype, shape: undefined };
      const shape = x.shape.map((d, k) => (dimEquals(d, y.shape![k]!) ? d : context.fresh(`if_${i}_${k}`)));
      return { dtype, shape };
    });
  },
  examples: [],
};

export const LOOP: OpDef = {
  op: "Loop",
  domain: "",
  since: 11,
  inputs: ["M", "cond", "...v_initial"],
  infer: (context) => {
    const results = resultTypes(context.attributes, "body").slice(1), inputs = inputTypes(context.attributes, "body");
    const carried = context.inputs.length - 2, rounds = context.fresh("loop");
    return Array.from({ length: context.outputCount }, (_, i) => {
      const result = results[i];
      if (i >= carried) {
        const each = result?.shape?.map((d, k) => (typeof d === "number" ? d : context.fresh(`loop_${i}_${k}`)));
        return { dtype: result?.dtype, shape: each && [rounds, ...each] };
      }
      const initial = context.inputs[i + 2], before = inputs[i + 2]?.shape, after = result?.shape;
      const dtype = result?.dtype ?? initial?.dtype;
      if (!initial?.shape || after?.length !== initial.shape.length) return { dtype, shape: undefined };
      // What a loop carries keeps a size that its body gives back as it got it, and may change any other.
      const shape = initial.shape.map((d, k) => {
        const to = after[k]!, from = before?.[k];
        const isKept = typeof to === "number" ? to === d : from !== undefined && dimEquals(to, from);
        return isKept ? d : context.fresh(`loop_${i}_${k}`);
      });
      return { dtype, shape };
    });
  },
  examples: [],
};
