/** FusedMatMul: MatMul of transposed operands, scaled. Source: ONNX Runtime ContribOperators.md. */
import { type Dim, dimMul } from "../core/dim.ts";
import { float, int, intOf } from "../graph/attributes.ts";
import type { InferContext, OpDef, TypedContext } from "./def.ts";
import { einsumFactors } from "./factors.ts";
import { broadcast, unknownShape } from "./shapes.ts";

function isPlain(context: InferContext | TypedContext): boolean {
  return !intOf(context.attributes, "transBatchA") && !intOf(context.attributes, "transBatchB") &&
    context.inputs.every((i) => (i?.shape?.length ?? 0) >= 2);
}

export const FUSED_MATMUL: OpDef = {
  op: "FusedMatMul",
  domain: "com.microsoft",
  since: 1,
  inputs: ["A", "B"],
  infer: (context) => {
    const [a, b] = context.inputs;
    if (!a?.shape || !b?.shape || !isPlain(context)) return [unknownShape(a)];
    const m = a.shape.at(intOf(context.attributes, "transA") ? -1 : -2)!;
    const n = b.shape.at(intOf(context.attributes, "transB") ? -2 : -1)!;
    return [{ dtype: a.dtype, shape: [...broadcast(a.shape.slice(0, -2), b.shape.slice(0, -2)), m, n] }];
  },
  factors: (context) => {
    if (!isPlain(context)) return { factors: [] };
    const a = intOf(context.attributes, "transA") ? "km" : "mk", b = intOf(context.attributes, "transB") ? "nk" : "kn";
    const star = (i: number) => (context.inputs[i]!.shape!.length > 2 ? "*" : "");
    const out = star(0) || star(1);
    const notation = `${star(0)}${a},${star(1)}${b}->${out}mn`;
    return { factors: einsumFactors(notation, context.inputs, context.outputs), linear: [[0], [1]] };
  },
  flops: ({ inputs, outputs, attributes }) => {
    const k = inputs[0]!.shape!.at(intOf(attributes, "transA") ? -2 : -1)!;
    return outputs[0]!.shape!.reduce<Dim>(dimMul, dimMul(2, k));
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [2, 4, 8] }, { dtype: "f32", shape: [2, 6, 8] }],
      attributes: { transB: int(1), alpha: float(0.5) },
    },
  ],
};
