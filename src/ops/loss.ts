/** ONNX's losses, on whole logits. Source: ONNX SoftmaxCrossEntropyLoss-13, NegativeLogLikelihoodLoss-13. */
import { int, string, stringOf } from "../graph/attributes.ts";
import type { Inferred, OpDef, TypedContext } from "./def.ts";
import { at, type Factor } from "./factors.ts";

/** Dims of the samples: they pass where the loss is not averaged. `logits [n,c,…]` with the classes in `classDim`, `labels [n,…]`. */
export function sampleFactors({ inputs, outputs, attributes }: TypedContext, classDim = 1): Factor[] {
  const labels = inputs[1]?.shape;
  const reduction = stringOf(attributes, "reduction") ?? "mean";
  // A mean divides by the number of all samples, which a rank does not know.
  if (!labels || reduction === "mean") return [];
  return labels.flatMap((size, d): Factor[] => {
    const dim = d < classDim ? d : d + 1;
    return size === 1 ? [] : [{
      name: `n${d}`,
      size,
      inputs: inputs.map((_, i) => (i === 0 ? at(dim) : i === 1 ? at(d) : null)),
      outputs: outputs.map((_, o) => (o === 1 ? at(dim) : reduction === "none" ? at(d) : null)),
      ...(reduction === "sum" ? { reduce: "sum" as const } : {}),
    }];
  });
}

/** ONNX's losses. */
export function lossOps(): OpDef[] {
  return ["SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"].map((op): OpDef => ({
    op,
    domain: "",
    since: 12,
    inputs: ["scores", "labels", "weights"],
    infer: ({ inputs, attributes, outputCount }) => {
      const [scores, labels] = inputs;
      const none = stringOf(attributes, "reduction") === "none";
      const loss: Inferred = { dtype: scores?.dtype, shape: none ? labels?.shape : [] };
      return [loss, { dtype: scores?.dtype, shape: scores?.shape }].slice(0, outputCount);
    },
    factors: (context) => ({ factors: sampleFactors(context) }),
    examples: [
      {
        inputs: [{ dtype: "f32", shape: [4, 7] }, { dtype: "i64", shape: [4] }],
        ranges: { 1: [0, 7] },
        attributes: { reduction: string("mean"), ignore_index: int(-100) },
      },
      {
        inputs: [{ dtype: "f32", shape: [4, 7] }, { dtype: "i64", shape: [4] }],
        ranges: { 1: [0, 7] },
        attributes: { reduction: string("none") },
      },
    ],
  }));
}
