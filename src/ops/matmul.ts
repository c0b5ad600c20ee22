/** MatMul: `y[*,m,n] = Σk a[*,m,k] · b[*,k,n]`. Source: ONNX MatMul-13. */
import { type Dim, dimMul } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import type { OpDef } from "./def.ts";
import { einsumFactors } from "./factors.ts";
import { isDataDependent } from "./known_ints.ts";
import { emitZeros } from "./selected_rows.ts";
import { broadcast, emitUnchanged, requireShape } from "./shapes.ts";

function notation(inputs: readonly (TensorType | undefined)[]): string {
  const [a, b] = [inputs[0]!.shape!.length, inputs[1]!.shape!.length];
  const left = a === 1 ? "k" : "*mk", right = b === 1 ? "k" : b === 2 ? "kn" : "*kn";
  return `${left},${right}->${a > 1 || b > 2 ? "*" : ""}${a > 1 ? "m" : ""}${b > 1 ? "n" : ""}`;
}

export const MATMUL: OpDef = {
  op: "MatMul",
  domain: "",
  since: 13,
  inputs: ["A", "B"],
  infer: (context) => {
    const [a, b] = context.inputs;
    if (!a?.shape || !b?.shape) return [{ dtype: a?.dtype, shape: undefined }];
    const [x, y] = [requireShape(context, 0, 1), requireShape(context, 1, 1)];
    const k = x.at(-1)!, k2 = y.length === 1 ? y[0]! : y.at(-2)!;
    if (typeof k === "number" && typeof k2 === "number" && k !== k2) {
      throw new ShapeError(`Cannot multiply [${x}] by [${y}] in ${context.node.name}: inner sizes are ${k} and ${k2}`);
    }
    const batch = broadcast(x.slice(0, -2), y.slice(0, -2));
    const shape: Shape = [...batch, ...(x.length > 1 ? [x.at(-2)!] : []), ...(y.length > 1 ? [y.at(-1)!] : [])];
    return [{ dtype: a.dtype, shape }];
  },
  factors: ({ inputs, outputs }) => ({
    factors: einsumFactors(notation(inputs), inputs, outputs),
    linear: [[0], [1]],
  }),
  // ONNX Runtime does not broadcast a batch of one to a batch of none.
  localize: (context) => {
    const y = context.outputTensors[0]!;
    if (!y.localShape?.includes(0) || y.localShape.some(isDataDependent)) return emitUnchanged(context);
    return [emitZeros(context.emit, y.type.dtype!, y.localShape)];
  },
  flops: ({ inputs, outputs }) => {
    const k = inputs[0]!.shape!.at(-1)!;
    return outputs[0]!.shape!.reduce<Dim>((n, d) => dimMul(n, d), dimMul(2, k));
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [4, 8] }, { dtype: "f32", shape: [8, 6] }] },
    { inputs: [{ dtype: "f32", shape: [2, 5, 8] }, { dtype: "f32", shape: [8, 7] }] },
    { inputs: [{ dtype: "f32", shape: [2, 3, 4, 8] }, { dtype: "f32", shape: [2, 3, 8, 6] }] },
    { inputs: [{ dtype: "f32", shape: [1, 3, 4, 8] }, { dtype: "f32", shape: [2, 1, 8, 6] }] },
    { inputs: [{ dtype: "f32", shape: [8] }, { dtype: "f32", shape: [8, 6] }] },
    { inputs: [{ dtype: "f32", shape: [3, 8] }, { dtype: "f32", shape: [8] }] },
  ],
};
