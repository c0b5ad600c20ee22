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
    const results = resultTypes(context.attributes, "body").slice(1);
    const carried = context.inputs.length - 2;
    return Array.from({ length: context.outputCount }, (_, i) => {
      // What a loop carries may change its shape; what it scans gets a dim of iterations in front.
      const dtype = results[i]?.dtype ?? (i < carried ? context.inputs[i + 2]?.dtype : undefined);
      return { dtype, shape: undefined };
    });
  },
  examples: [],
};
