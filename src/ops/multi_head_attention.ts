/** MultiHeadAttention, and the Attention that makes q, k and v itself. Source: com.microsoft, ContribOperators.md. */
import { type Dim, dimAdd, dimDivide, dimEquals, dimMul } from "../core/dim.ts";
import { float, int, intOf, ints as intsAttribute, intsOf } from "../graph/attributes.ts";
import type { InferContext, Inferred, OpDef, TypedContext } from "./def.ts";
import { at, type Factor, NO_FACTORS } from "./factors.ts";
import { attentionFlops, batchFactor, emitHeads, f32, headFactor, localUnits, maskHeads } from "./heads.ts";
import { emitUnchanged } from "./shapes.ts";

export const MULTI_HEAD_ATTENTION: OpDef = {
  op: "MultiHeadAttention",
  domain: "com.microsoft",
  since: 1,
  inputs: ["query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value"],
  infer: (context) => {
    const [x, k, v] = context.inputs;
    const heads = intOf(context.attributes, "num_heads");
    if (x?.shape?.length !== 3 || !heads) {
      return Array.from({ length: context.outputCount }, () => ({ dtype: x?.dtype, shape: undefined }));
    }
    const [batch, sequence, width] = x.shape as [Dim, Dim, Dim];
    const valueWidth = v?.shape?.length === 3 ? v.shape[2]! : width;
    const length = k?.shape?.length === 4 ? k.shape[2]! : k?.shape?.[1] ?? sequence;
    const total = dimAdd(context.inputs[6]?.shape?.[2] ?? 0, length);
    const cache = (w: Dim): Inferred => {
      const size = dimDivide(w, heads);
      return { dtype: x.dtype, shape: size === undefined ? undefined : [batch, heads, total, size] };
    };
    const y = { dtype: x.dtype, shape: [batch, sequence, valueWidth] };
    return [y, cache(width), cache(valueWidth)].slice(0, context.outputCount);
  },
  factors: (context) => {
    const [x, k, v, b] = context.inputs.map((i) => i?.shape);
    const heads = intOf(context.attributes, "num_heads");
    const width = x?.at(-1), valueWidth = v?.length === 3 ? v[2] : width;
    if (x?.length !== 3 || !k || !v || !heads || typeof width !== "number" || typeof valueWidth !== "number") {
      return NO_FACTORS;
    }
    const [size, valueSize] = [width / heads, valueWidth / heads];
    const mask = maskHeads(context, 5, heads);
    const kAt = k.length === 4 ? at(1) : at(2, { inner: size }),
      vAt = v.length === 4 ? at(1) : at(2, { inner: valueSize });
    const q = {
      inputs: { 0: at(2, { inner: size }), ...(mask === undefined ? {} : { 5: at(mask) }) },
      outputs: { 0: at(2, { inner: valueSize }) },
    };
    const kPlaces = { inputs: { 1: kAt, 6: at(1) }, outputs: { 1: at(1) } };
    const vPlaces = { inputs: { 2: vAt, 7: at(1) }, outputs: { 2: at(1) } };
    if (!b) {
      const inputs = { ...q.inputs, ...kPlaces.inputs, ...vPlaces.inputs };
      const outputs = { ...q.outputs, ...kPlaces.outputs, ...vPlaces.outputs };
      return { factors: [headFactor(context, "h", heads, { inputs, outputs }), ...rowFactors(context)] };
    }
    const bias = (inner: number, offset: number) => ({ 3: at(0, { inner, offset }) });
    return {
      alike: true,
      factors: [
        headFactor(context, "hq", heads, { inputs: { ...q.inputs, ...bias(size, 0) }, outputs: q.outputs }),
        headFactor(context, "hk", heads, {
          inputs: { ...kPlaces.inputs, ...bias(size, width) },
          outputs: kPlaces.outputs,
        }),
        headFactor(context, "hv", heads, {
          inputs: { ...vPlaces.inputs, ...bias(valueSize, 2 * width) },
          outputs: vPlaces.outputs,
        }),
        ...rowFactors(context),
      ],
    };
  },
  localize: (context) => {
    const heads = intOf(context.attributes, "num_heads");
    const width = context.outputs[0]?.shape?.at(-1);
    if (!heads || typeof width !== "number") return emitUnchanged(context);
    const units = localUnits(context, width / heads);
    if (units === undefined) return emitUnchanged(context);
    return emitHeads(context, { ...context.attributes, num_heads: int(units) }, units);
  },
  carries: () => [[6, 1], [7, 2]],
  flops: attentionFlops,
  examples: [
    { inputs: [f32(1, 3, 32), f32(1, 3, 32), f32(1, 3, 32)], attributes: { num_heads: int(4) } },
    { inputs: [f32(2, 3, 32), f32(2, 5, 32), f32(2, 5, 32), f32(96)], attributes: { num_heads: int(4) } },
    // A bias for all heads, and one for each; keys and values by heads.
    {
      inputs: [f32(2, 5, 32), f32(2, 3, 32), f32(2, 3, 16), undefined, undefined, f32(1, 1, 5, 3)],
      attributes: { num_heads: int(4), scale: float(0.5) },
    },
    {
      inputs: [f32(2, 3, 24), f32(2, 3, 5, 8), f32(2, 3, 5, 8), undefined, undefined, f32(2, 3, 3, 5)],
      attributes: { num_heads: int(3) },
    },
  ],
};

/** Sequences of the batch, and tokens of the query: each row of scores is a softmax of its own. */
function rowFactors(context: TypedContext): readonly Factor[] {
  const shapes = context.inputs.map((i) => i?.shape), [batch, sequence] = shapes[0] as [Dim, Dim];
  const padding = shapes[4];
  // A padding mask of one dim is a length for each sequence, or these and more behind each other.
  if (padding?.length === 1 && !dimEquals(padding[0]!, batch)) return [];
  const factors = batchFactor(context, {
    inputs: { 0: 0, 1: 0, 2: 0, 4: 0, 5: 0, 6: 0, 7: 0 },
    outputs: { 0: 0, 1: 0, 2: 0 },
  });
  const isCausal = intOf(context.attributes, "unidirectional") === 1;
  if (isCausal || dimEquals(sequence, 1) || context.outputs[1] || context.outputs[2]) return factors;
  const tokens = at(1);
  const inputs = {
    0: tokens,
    ...(padding?.length === 3 ? { 4: tokens } : {}),
    ...(shapes[5] ? { 5: at(2) } : {}),
  };
  return [...factors, headFactor(context, "s", sequence, { inputs, outputs: { 0: tokens } })];
}

/** Widths of q, k and v of com.microsoft Attention. */
function packedWidths(context: InferContext | TypedContext): readonly number[] | undefined {
  const given = intsOf(context.attributes, "qkv_hidden_sizes");
  if (given) return given;
  const width = context.inputs[1]?.shape?.[1];
  return typeof width === "number" ? [width / 3, width / 3, width / 3] : undefined;
}

export const PACKED_ATTENTION: OpDef = {
  op: "Attention",
  domain: "com.microsoft",
  since: 1,
  inputs: ["input", "weights", "bias", "mask_index", "past", "attention_bias", "past_sequence_length"],
  infer: (context) => {
    const [x] = context.inputs;
    const widths = packedWidths(context), heads = intOf(context.attributes, "num_heads");
    if (!x?.shape || !widths || !heads) {
      return Array.from({ length: context.outputCount }, () => ({ dtype: x?.dtype, shape: undefined }));
    }
    const [batch, sequence] = x.shape as [Dim, Dim];
    const total = dimAdd(context.inputs[4]?.shape?.[3] ?? 0, sequence);
    return [
      { dtype: x.dtype, shape: [batch, sequence, widths[2]!] },
      { dtype: x.dtype, shape: [2, batch, heads, total, widths[2]! / heads] },
    ].slice(0, context.outputCount);
  },
  factors: (context) => {
    const widths = packedWidths(context), heads = intOf(context.attributes, "num_heads");
    if (!widths || !heads) return NO_FACTORS;
    const [q, k, v] = widths as [number, number, number];
    const mask = maskHeads(context, 5, heads);
    const fused = (width: number, offset: number) => {
      const inner = width / heads;
      return { 1: at(1, { inner, offset }), 2: at(0, { inner, offset }) };
    };
    return {
      alike: true,
      factors: [
        headFactor(context, "hq", heads, {
          inputs: { ...fused(q, 0), ...(mask === undefined ? {} : { 5: at(mask) }) },
          outputs: {},
        }),
        headFactor(context, "hk", heads, { inputs: fused(k, q), outputs: {} }),
        headFactor(context, "hv", heads, {
          inputs: { ...fused(v, q + k), 4: at(2) },
          outputs: { 0: at(2, { inner: v / heads }), 1: at(2) },
        }),
        ...batchFactor(context, { inputs: { 0: 0, 3: 0, 4: 1, 5: 0 }, outputs: { 0: 0, 1: 1 } }),
      ],
    };
  },
  localize: (context) => {
    const widths = packedWidths(context), heads = intOf(context.attributes, "num_heads");
    const units = widths && heads ? localUnits(context, widths[2]! / heads) : undefined;
    if (!widths || !heads || units === undefined) return emitUnchanged(context);
    const sizes = intsOf(context.attributes, "qkv_hidden_sizes")
      ? { qkv_hidden_sizes: intsAttribute(widths.map((w) => (w / heads) * units)) }
      : {};
    return emitHeads(context, { ...context.attributes, num_heads: int(units), ...sizes }, units);
  },
  carries: () => [[4, 1]],
  flops: ({ inputs, outputs }) => {
    const x = inputs[0]!.shape!, w = inputs[1]!.shape!;
    return dimAdd(
      [x[0]!, x[1]!, w[0]!, w[1]!].reduce<Dim>(dimMul, 2),
      outputs[0]!.shape!.reduce<Dim>(dimMul, dimMul(4, outputs[1]?.shape?.[3] ?? x[1]!)),
    );
  },
  examples: [
    {
      inputs: [f32(1, 3, 32), f32(32, 96), f32(96)],
      attributes: { num_heads: int(4), unidirectional: int(1) },
    },
    { inputs: [f32(2, 3, 32), f32(32, 96), f32(96)], attributes: { num_heads: int(4) } },
  ],
};
