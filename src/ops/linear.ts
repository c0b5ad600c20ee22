/**
 * Linear: `y[*,n] = Σk x[*,k] · w[k,n] + b[n]`; the layer that column and row parallelism cut.
 *
 * Inputs `x`, `weight` (`[k,n]`, or `[n,k]` with `transB = 1`), optional `bias`.
 */
import { type Dim, dimMul } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { int, intOf, ints as intsAttribute } from "../graph/attributes.ts";
import type { LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { einsumFactors, type FactorRule } from "./factors.ts";
import { isDataDependent } from "./known_ints.ts";
import { emitZeros } from "./selected_rows.ts";
import { unknownShape } from "./shapes.ts";

function isTransposed(context: { readonly attributes: TypedContext["attributes"] }): boolean {
  return intOf(context.attributes, "transB") === 1;
}

function linearFactors(context: TypedContext): FactorRule {
  const { inputs, outputs } = context;
  const bias = inputs.length > 2 && inputs[2] !== undefined;
  const notation = `*k,${isTransposed(context) ? "nk" : "kn"}${bias ? ",n" : ""}->*n`;
  const factors = einsumFactors(notation, inputs.slice(0, bias ? 3 : 2), outputs).map((f) => ({
    ...f,
    inputs: inputs.map((_, i) => f.inputs[i] ?? null),
    ...(f.name === "k" && bias ? { addends: [2] } : {}),
  }));
  return { factors, linear: bias ? [[0, 2], [1, 2]] : [[0], [1]] };
}

/** One rank's part as ops of ai.onnx. A constant bias of a partial result is added by rank 0 alone. */
function localizeLinear(context: LocalizeContext): readonly string[] {
  const { emit, names, inputTensors, rank } = context;
  const [x, w, b] = inputTensors;
  const isZero = b?.placement.kind === "P" && rank !== 0 && context.constants[2];
  const bias = names[2] && !isZero ? names[2] : "";
  const y = context.outputTensors[0]!.localShape;
  const inner = w?.localShape?.[isTransposed(context) ? 1 : 0];
  if (inner === 0 && y && !y.some(isDataDependent)) {
    const zeros = emitZeros(emit, context.outputs[0]!.dtype!, y);
    return [bias ? emit.op("Add", [zeros, bias]) : zeros];
  }
  const isMatrix = x?.type.shape?.length === 2;
  if (isMatrix && (bias !== "" || isTransposed(context))) {
    const operands = [names[0]!, names[1]!, ...(bias ? [bias] : [])];
    return [emit.op("Gemm", operands, isTransposed(context) ? { transB: int(1) } : {})];
  }
  const weight = isTransposed(context) ? emit.op("Transpose", [names[1]!], { perm: intsAttribute([1, 0]) }) : names[1]!;
  const product = emit.op("MatMul", [names[0]!, weight]);
  return [bias ? emit.op("Add", [product, bias]) : product];
}

const X = { dtype: "f32", shape: [2, 3, 8] } as const, B = { dtype: "f32", shape: [6] } as const;

export const LINEAR: OpDef = {
  op: "Linear",
  domain: "shardwise",
  since: 1,
  inputs: ["x", "weight", "bias"],
  module: true,
  infer: (context) => {
    const [x, w] = context.inputs;
    if (!x?.shape || !w?.shape) return [unknownShape(x)];
    const [n, k] = isTransposed(context) ? [w.shape[0]!, w.shape[1]!] : [w.shape[1]!, w.shape[0]!];
    const k2 = x.shape.at(-1);
    if (typeof k === "number" && typeof k2 === "number" && k !== k2) {
      throw new ShapeError(`Cannot apply ${context.node.name} to [${x.shape}]: it takes ${k} features, found ${k2}`);
    }
    return [{ dtype: x.dtype, shape: [...x.shape.slice(0, -1), n] }];
  },
  factors: linearFactors,
  flops: ({ inputs, outputs }) => outputs[0]!.shape!.reduce<Dim>(dimMul, dimMul(2, inputs[0]!.shape!.at(-1)!)),
  localize: localizeLinear,
  examples: [
    { inputs: [X, { dtype: "f32", shape: [8, 6] }, B] },
    { inputs: [X, { dtype: "f32", shape: [6, 8] }, B], attributes: { transB: int(1) } },
    { inputs: [{ dtype: "f32", shape: [4, 8] }, { dtype: "f32", shape: [6, 8] }, B], attributes: { transB: int(1) } },
    { inputs: [X, { dtype: "f32", shape: [8, 6] }] },
  ],
};
