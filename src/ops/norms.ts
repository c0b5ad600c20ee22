/** Softmax and normalisations: the normalised dims are whole on a rank, all others pass. */
import { type Dim, dimMul } from "../core/dim.ts";
import { float, int, intOf } from "../graph/attributes.ts";
import type { Shape } from "../graph/types.ts";
import type { InferContext, Inferred, OpDef, TypedContext } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import { batchFactor } from "./heads.ts";
import { normalizeAxis, unknownShape } from "./shapes.ts";

/** Softmax and LogSoftmax. Before opset 13 all dims from the axis on are one. Source: ONNX Softmax-13, Softmax-11. */
export function softmaxOps(): OpDef[] {
  return ["Softmax", "LogSoftmax"].map((op): OpDef => ({
    op,
    domain: "",
    since: 11,
    inputs: ["input"],
    infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
    factors: ({ inputs, attributes, opset }) => {
      const shape = inputs[0]?.shape;
      if (!shape || shape.length === 0) return { factors: [] };
      const coerced = opset < 13;
      const axis = normalizeAxis(intOf(attributes, "axis") ?? (coerced ? 1 : -1), shape.length);
      const factors = shape.flatMap((size, d): Factor[] =>
        (coerced ? d >= axis : d === axis) || size === 1
          ? []
          : [{ name: `d${d}`, size, inputs: [at(d)], outputs: [at(d)] }]
      );
      return { factors };
    },
    flops: ({ inputs }) => (inputs[0]!.shape ?? []).reduce<Dim>(dimMul, 5),
    examples: [
      { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], opset: 13 },
      { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { axis: int(1) }, opset: 13 },
      { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { axis: int(2) }, opset: 11 },
    ],
  }));
}

/** The shape of the statistics: normalised dims are 1. */
function statistics(shape: Shape, axis: number): Shape {
  return shape.map((d, i) => (i < axis ? d : 1));
}

/** How an op's outputs relate to its normalised input. */
type NormOutput = "same" | "statistics";

/** Factors of all dims before `axis`; `data` are the inputs that have the dims, others are replicated. */
function normFactors(context: TypedContext, options: { axis: number; data: readonly number[] }): Factor[] {
  const shape = context.inputs[0]?.shape;
  if (!shape) return [];
  return shape.slice(0, options.axis).flatMap((size, d): Factor[] =>
    size === 1 ? [] : [{
      name: `d${d}`,
      size,
      inputs: context.inputs.map((input, i) =>
        options.data.includes(i) && input?.shape?.length === shape.length ? at(d) : null
      ),
      outputs: context.outputs.map(() => at(d)),
    }]
  );
}

interface NormRow {
  readonly op: string;
  readonly domain: string;
  readonly since: number;
  readonly inputs: readonly string[];
  /** Inputs with the dims of input 0. */
  readonly data: readonly number[];
  readonly outputs: readonly NormOutput[];
  readonly examples: OpDef["examples"];
}

const X = { dtype: "f32", shape: [2, 3, 8] } as const, W = { dtype: "f32", shape: [8] } as const;
const EPSILON = { epsilon: float(1e-5) };

const ROWS: readonly NormRow[] = [
  {
    op: "LayerNormalization",
    domain: "",
    since: 17,
    inputs: ["X", "Scale", "B"],
    data: [0],
    outputs: ["same", "statistics", "statistics"],
    examples: [
      { inputs: [X, W, W], attributes: EPSILON },
      { inputs: [X, W], attributes: { axis: int(-1) }, outputs: 3 },
    ],
  },
  {
    op: "RMSNormalization",
    domain: "",
    since: 23,
    inputs: ["X", "scale"],
    data: [0],
    outputs: ["same"],
    examples: [{ inputs: [X, W], attributes: EPSILON }],
  },
  {
    // ONNX Runtime registers it in the default domain.
    op: "SimplifiedLayerNormalization",
    domain: "",
    since: 1,
    inputs: ["X", "scale"],
    data: [0],
    outputs: ["same", "statistics"],
    examples: [{ inputs: [X, W], attributes: EPSILON, opset: 21 }],
  },
  {
    op: "SkipLayerNormalization",
    domain: "com.microsoft",
    since: 1,
    inputs: ["input", "skip", "gamma", "beta", "bias"],
    data: [0, 1],
    outputs: ["same", "statistics", "statistics", "same"],
    examples: [{ inputs: [X, X, W, W, W], attributes: EPSILON }],
  },
  {
    op: "SkipSimplifiedLayerNormalization",
    domain: "com.microsoft",
    since: 1,
    inputs: ["input", "skip", "gamma", "bias"],
    data: [0, 1],
    outputs: ["same", "statistics", "statistics", "same"],
    examples: [{ inputs: [X, X, W], attributes: EPSILON }],
  },
];

/** LayerNormalization and its relatives. Source: ONNX LayerNormalization-17; ContribOperators.md. */
export function normOps(): OpDef[] {
  return ROWS.map((row): OpDef => {
    const axisOf = (context: InferContext | TypedContext) =>
      normalizeAxis(intOf(context.attributes, "axis") ?? -1, context.inputs[0]!.shape!.length);
    return {
      op: row.op,
      domain: row.domain,
      since: row.since,
      inputs: row.inputs,
      infer: (context) => {
        const [x] = context.inputs;
        return row.outputs.slice(0, context.outputCount).map((kind): Inferred => {
          if (!x?.shape) return unknownShape(x);
          if (kind === "same") return { dtype: x.dtype, shape: x.shape };
          return { dtype: "f32", shape: statistics(x.shape, axisOf(context)) };
        });
      },
      factors: (context) => ({
        factors: context.inputs[0]?.shape ? normFactors(context, { axis: axisOf(context), data: row.data }) : [],
      }),
      flops: ({ inputs }) => (inputs[0]!.shape ?? []).reduce<Dim>(dimMul, 8),
      examples: row.examples,
    };
  });
}

/** EmbedLayerNormalization: sums of embeddings, normalised. Its tables are whole on a rank: un-fuse it to shard them. */
export const EMBED_LAYER_NORMALIZATION: OpDef = {
  op: "EmbedLayerNormalization",
  domain: "com.microsoft",
  since: 1,
  inputs: [
    "input_ids",
    "segment_ids",
    "word_embedding",
    "position_embedding",
    "segment_embedding",
    "gamma",
    "beta",
    "mask",
    "position_ids",
  ],
  infer: ({ inputs, outputCount }) => {
    const ids = inputs[0]?.shape, table = inputs[2];
    const hidden = table?.shape?.[1];
    const y = { dtype: table?.dtype, shape: ids && hidden !== undefined ? [...ids, hidden] : undefined };
    const mask: Inferred = { dtype: "i32", shape: ids ? [ids[0]!] : undefined };
    return [y, mask, y].slice(0, outputCount);
  },
  factors: (context) => ({
    factors: context.inputs[0]?.shape
      ? batchFactor(context, { inputs: { 0: 0, 1: 0, 7: 0, 8: 0 }, outputs: { 0: 0, 1: 0, 2: 0 } })
      : [],
  }),
  examples: [
    {
      inputs: [
        { dtype: "i32", shape: [2, 3] },
        undefined,
        { dtype: "f32", shape: [10, 8] },
        { dtype: "f32", shape: [6, 8] },
        undefined,
        { dtype: "f32", shape: [8] },
        { dtype: "f32", shape: [8] },
      ],
      ranges: { 0: [0, 10] },
      outputs: 2,
    },
  ],
};
