/** Ops that search or accumulate along a dim, which must be whole: ArgMax, ArgMin, TopK, CumSum. */
import type { Dim } from "../core/dim.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { InferContext, OpDef, TypedContext } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import { constantInts } from "./known_ints.ts";
import { plainNumbers, tellsRows } from "./rows.ts";
import { emitZeros } from "./selected_rows.ts";
import { emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";
import { otherDims } from "./windows.ts";

function axisOf(context: InferContext | TypedContext, fallback: number): number {
  return normalizeAxis(intOf(context.attributes, "axis") ?? fallback, context.inputs[0]!.shape!.length);
}

/** ArgMax and ArgMin. Source: ONNX ArgMax-13. */
export function argOps(): OpDef[] {
  return ["ArgMax", "ArgMin"].map((op): OpDef => ({
    op,
    domain: "",
    since: 11,
    inputs: ["data"],
    infer: (context) => {
      const shape = context.inputs[0]?.shape;
      if (!shape) return [{ dtype: "i64", shape: undefined }];
      const axis = axisOf(context, 0);
      const keep = (intOf(context.attributes, "keepdims") ?? 1) === 1;
      return [{ dtype: "i64", shape: shape.flatMap((d, i): Dim[] => (i !== axis ? [d] : keep ? [1] : [])) }];
    },
    numbers: ({ inputs, ...context }) => {
      const size = inputs[0]?.shape?.[axisOf({ ...context, inputs }, 0)];
      return [size === undefined || tellsRows(context.facts[0]?.numbers) ? undefined : plainNumbers(0, size)];
    },
    factors: (context) => {
      const shape = context.inputs[0]?.shape;
      if (!shape) return { factors: [] };
      const axis = axisOf(context, 0);
      const keep = (intOf(context.attributes, "keepdims") ?? 1) === 1;
      const factors = shape.flatMap((size, d): Factor[] =>
        d === axis || size === 1
          ? []
          : [{ name: `d${d}`, size, inputs: [at(d)], outputs: [at(d > axis && !keep ? d - 1 : d)] }]
      );
      return { factors };
    },
    examples: [
      { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { axis: int(-1), keepdims: int(0) } },
      { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { axis: int(1) } },
    ],
  }));
}

export const TOP_K: OpDef = {
  op: "TopK",
  domain: "",
  since: 11,
  inputs: ["X", "K"],
  infer: (context) => {
    const [x] = context.inputs;
    if (!x?.shape) return [unknownShape(x), { dtype: "i64", shape: undefined }];
    const axis = axisOf(context, -1);
    const k = context.ints[1]?.elements[0] ?? context.fresh("topk");
    const shape = x.shape.map((d, i) => (i === axis ? k : d));
    return [{ dtype: x.dtype, shape }, { dtype: "i64", shape }];
  },
  factors: (context) => {
    const shape = context.inputs[0]?.shape;
    if (!shape) return { factors: [] };
    return { factors: otherDims(shape, axisOf(context, -1), { inputs: 2, outputs: context.outputs.length }) };
  },
  // ONNX Runtime's kernel divides by the number of rows.
  localize: (context) => {
    const isEmpty = context.inputTensors[0]?.localShape?.includes(0);
    if (!isEmpty) return emitUnchanged(context);
    return context.outputTensors.map((t) => (t ? emitZeros(context.emit, t.type.dtype!, t.localShape!) : ""));
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [2, 8] }, { dtype: "i64", shape: [1] }],
      constants: { 1: [3] },
      outputs: 2,
    },
  ],
};

export const CUM_SUM: OpDef = {
  op: "CumSum",
  domain: "",
  since: 11,
  inputs: ["x", "axis"],
  infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
  factors: ({ inputs, ints }) => {
    const shape = inputs[0]?.shape, axis = constantInts(ints[1])?.[0];
    if (!shape || axis === undefined) return { factors: [] };
    return { factors: otherDims(shape, normalizeAxis(axis, shape.length), { inputs: 2, outputs: 1 }), linear: [[0]] };
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 5] }, { dtype: "i64", shape: [] }], constants: { 1: [1] } },
  ],
};
