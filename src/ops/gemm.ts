/** Gemm: `y[m,n] = alpha · a[m,k] · b[k,n] + beta · c`. Source: ONNX Gemm-13. */
import { type Dim, dimMul } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { OpDef, TypedContext } from "./def.ts";
import { einsumFactors, type FactorRule } from "./factors.ts";
import { unknownShape } from "./shapes.ts";

function gemmFactors({ inputs, outputs, attributes }: TypedContext): FactorRule {
  const a = intOf(attributes, "transA") ? "km" : "mk", b = intOf(attributes, "transB") ? "nk" : "kn";
  const c = inputs[2]?.shape;
  const bias = !c ? "" : c.length === 0 ? "," : c.length === 1 ? ",n" : ",mn";
  const factors = einsumFactors(`${a},${b}${bias}->mn`, inputs.slice(0, c ? 3 : 2), outputs).map((f) => ({
    ...f,
    // An operand that is left out has no places.
    inputs: inputs.map((_, i) => f.inputs[i] ?? null),
    ...(f.name === "k" && c ? { addends: [2] } : {}),
  }));
  return { factors, linear: c ? [[0, 2], [1, 2]] : [[0], [1]] };
}

export const GEMM: OpDef = {
  op: "Gemm",
  domain: "",
  since: 11,
  inputs: ["A", "B", "C"],
  infer: ({ inputs, attributes, node }) => {
    const [a, b] = inputs;
    if (!a?.shape || !b?.shape) return [unknownShape(a)];
    if (a.shape.length !== 2 || b.shape.length !== 2) {
      throw new ShapeError(`Cannot multiply [${a.shape}] by [${b.shape}] in ${node.name}: Gemm takes matrices`);
    }
    const [m, k] = intOf(attributes, "transA") ? [a.shape[1]!, a.shape[0]!] : [a.shape[0]!, a.shape[1]!];
    const [n, k2] = intOf(attributes, "transB") ? [b.shape[0]!, b.shape[1]!] : [b.shape[1]!, b.shape[0]!];
    if (typeof k === "number" && typeof k2 === "number" && k !== k2) {
      throw new ShapeError(
        `Cannot multiply [${a.shape}] by [${b.shape}] in ${node.name}: inner sizes are ${k} and ${k2}`,
      );
    }
    return [{ dtype: a.dtype, shape: [m, n] }];
  },
  factors: gemmFactors,
  flops: ({ inputs, outputs, attributes }) => {
    const k = inputs[0]!.shape![intOf(attributes, "transA") ? 0 : 1]!;
    return outputs[0]!.shape!.reduce<Dim>(dimMul, dimMul(2, k));
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [4, 8] }, { dtype: "f32", shape: [8, 6] }] },
    {
      inputs: [{ dtype: "f32", shape: [4, 8] }, { dtype: "f32", shape: [6, 8] }, { dtype: "f32", shape: [6] }],
      attributes: { transB: int(1) },
    },
    {
      inputs: [{ dtype: "f32", shape: [8, 4] }, { dtype: "f32", shape: [8, 6] }, { dtype: "f32", shape: [4, 1] }],
      attributes: { transA: int(1) },
    },
  ],
};
