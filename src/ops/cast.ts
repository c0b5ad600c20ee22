/** Cast and CastLike. Source: ONNX Cast-13, CastLike-15. */
import { type DType, dtypeFromOnnx, dtypeInfo } from "../core/dtype.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { KnownInts, TensorType } from "../graph/types.ts";
import type { Inferred, OpDef } from "./def.ts";
import { elementwiseFactors, isWidening } from "./elementwise.ts";
import { isIntegral, mapKnown } from "./known_ints.ts";
import { tellsRows } from "./rows.ts";

function castTo(x: TensorType | undefined, dtype: DType | undefined, content: KnownInts | undefined): Inferred {
  const type = { dtype, shape: x?.shape };
  if (!content || !isIntegral(dtype)) return type;
  const ints = dtype === "bool"
    ? mapKnown([content], (d) => (typeof d === "number" ? Number(d !== 0) : undefined))
    : content;
  return ints ? { ...type, ints } : type;
}

export const CAST: OpDef = {
  op: "Cast",
  domain: "",
  since: 13,
  inputs: ["input"],
  infer: ({ inputs, attributes, ints }) => {
    const to = intOf(attributes, "to");
    return [castTo(inputs[0], to === undefined ? undefined : dtypeFromOnnx(to), ints[0])];
  },
  factors: (context) =>
    elementwiseFactors(context, isWidening(context.inputs[0]?.dtype, context.outputs[0]?.dtype) ? [[0]] : undefined),
  numbers: (
    { outputs: [to], facts: [fact] },
  ) => [to?.dtype === "i64" || to?.dtype === "i32" ? fact?.numbers : undefined],
  examples: (["i64", "f64", "bool", "f16"] as const).map((to) => ({
    inputs: [{ dtype: "f32", shape: [2, 5] }],
    attributes: { to: int(dtypeInfo(to).onnx) },
  })),
};

export const CAST_LIKE: OpDef = {
  op: "CastLike",
  domain: "",
  since: 15,
  inputs: ["input", "target_type"],
  infer: ({ inputs, ints }) => [castTo(inputs[0], inputs[1]?.dtype, ints[0])],
  rows: ({ facts: [fact] }) => (tellsRows(fact?.numbers) ? undefined : [{ place: fact?.place }]),
  // Only the dtype of the second input is read: it may be sharded in any way, so it belongs to no factor.
  factors: (context) => {
    const widening = isWidening(context.inputs[0]?.dtype, context.outputs[0]?.dtype);
    const { factors, ...rest } = elementwiseFactors(
      { ...context, inputs: context.inputs.slice(0, 1) },
      widening ? [[0]] : undefined,
    );
    return { factors: factors.map((f) => ({ ...f, inputs: [f.inputs[0]!, null] })), ...rest };
  },
  examples: [{ inputs: [{ dtype: "f32", shape: [2, 5] }, { dtype: "f64", shape: [1] }] }],
};
