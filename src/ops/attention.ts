/**
 * Attention as one op: heads are a factor whose units are `head_size` elements of fused dims.
 *
 * With fewer kv heads than query heads the unit is a group: one kv head and the query heads that share it. Where q, k and v
 * are fused in one dim (packed queries, biases, weights) each is a window of it. Head counts in attributes are those of
 * the rank. Source: ONNX Attention-23; com.microsoft: ContribOperators.md.
 */
import { type Dim, dimAdd, dimDivide, dimMax, dimMul } from "../core/dim.ts";
import { int, intOf, ints as intsAttribute, intsOf } from "../graph/attributes.ts";
import type { Attributes } from "../graph/graph.ts";
import type { InferContext, Inferred, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { type At, at, type Factor, type FactorRule, NO_FACTORS } from "./factors.ts";
import { emitZeros } from "./selected_rows.ts";
import { emitUnchanged } from "./shapes.ts";

/** Places of a factor, by input and output position. */
export type Places = Readonly<Record<number, At | null | undefined>>;

/** The factor of heads at its places. */
export function headFactor(
  context: TypedContext,
  name: string,
  size: Dim,
  places: { inputs: Places; outputs: Places },
): Factor {
  return {
    name,
    size,
    inputs: context.inputs.map((input, i) => (input ? places.inputs[i] ?? null : null)),
    outputs: context.outputs.map((output, i) => (output ? places.outputs[i] ?? null : null)),
  };
}

/** A mask's head dim, where it has one: the third from the right. */
export function maskHeads(context: TypedContext, input: number, heads: number): number | undefined {
  const shape = context.inputs[input]?.shape;
  return shape && shape.length >= 3 && heads > 1 && shape.at(-3) === heads ? shape.length - 3 : undefined;
}

/** Emits the op with this rank's head counts; zeros of the right shapes where the rank has no head. */
export function emitHeads(context: LocalizeContext, attributes: Attributes, heads: Dim): readonly string[] {
  const { emit, node, names } = context;
  if (heads !== 0) {
    return emit.ops(node.op, names, attributes, { domain: node.domain, outputs: node.outputs.length });
  }
  return context.outputTensors.map((t) => (t ? emitZeros(emit, t.type.dtype!, t.localShape!) : ""));
}

/** How many units of `unit` elements rank-local output 0 has in its last dim. */
function localUnits(context: LocalizeContext, unit: number): number | undefined {
  const size = context.outputTensors[0]?.localShape?.at(-1);
  return typeof size === "number" ? size / unit : undefined;
}

const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });

interface Heads {
  readonly q: number;
  readonly kv: number;
  readonly size: number;
}

function gqaHeads(context: InferContext | TypedContext): Heads | undefined {
  const q = intOf(context.attributes, "num_heads"), kv = intOf(context.attributes, "kv_num_heads");
  const width = context.inputs[0]?.shape?.at(-1);
  if (!q || !kv || typeof width !== "number") return undefined;
  return { q, kv, size: width / (context.inputs[1] ? q : q + 2 * kv) };
}

export const GROUP_QUERY_ATTENTION: OpDef = {
  op: "GroupQueryAttention",
  domain: "com.microsoft",
  since: 1,
  inputs: [
    "query",
    "key",
    "value",
    "past_key",
    "past_value",
    "seqlens_k",
    "total_sequence_length",
    "cos_cache",
    "sin_cache",
    "position_ids",
    "attention_bias",
    "head_sink",
  ],
  infer: (context) => {
    const [x] = context.inputs;
    const heads = gqaHeads(context);
    if (!x?.shape || !heads) {
      return Array.from({ length: context.outputCount }, () => ({ dtype: x?.dtype, shape: undefined }));
    }
    const [batch, sequence] = x.shape;
    const past = context.inputs[3]?.shape?.[2] ?? 0;
    const total = context.ints[6]?.elements[0];
    const pastSize = context.inputs[3]?.shape?.[3];
    // The cache may be longer than what it holds.
    const length = total === undefined ? dimAdd(past, sequence!) : dimMax(past, total);
    const cache: Inferred = {
      dtype: context.inputs[3]?.dtype ?? x.dtype,
      // Exporters may leave the size of a head open in the cache.
      shape: [batch!, heads.kv, length, typeof pastSize === "number" ? pastSize : heads.size],
    };
    return [{ dtype: x.dtype, shape: [batch!, sequence!, heads.q * heads.size] }, cache, cache].slice(
      0,
      context.outputCount,
    );
  },
  factors: (context) => {
    const heads = gqaHeads(context);
    if (!heads) return NO_FACTORS;
    const { q, kv, size } = heads;
    const group = (q / kv) * size, bias = maskHeads(context, 10, q);
    const extra: Places = {
      ...(bias === undefined ? {} : { 10: at(bias, { inner: q / kv }) }),
      11: at(0, { inner: q / kv }),
    };
    if (context.inputs[1]) {
      const inputs = {
        0: at(2, { inner: group }),
        1: at(2, { inner: size }),
        2: at(2, { inner: size }),
        3: at(1),
        4: at(1),
      };
      const outputs = { 0: at(2, { inner: group }), 1: at(1), 2: at(1) };
      return { factors: [headFactor(context, "h", kv, { inputs: { ...inputs, ...extra }, outputs })] };
    }
    const packed = (inner: number, offset: number) => at(2, { inner, offset });
    return {
      alike: true,
      factors: [
        headFactor(context, "hq", kv, {
          inputs: { 0: packed(group, 0), ...extra },
          outputs: { 0: at(2, { inner: group }) },
        }),
        headFactor(context, "hk", kv, { inputs: { 0: packed(size, q * size), 3: at(1) }, outputs: { 1: at(1) } }),
        headFactor(context, "hv", kv, {
          inputs: { 0: packed(size, (q + kv) * size), 4: at(1) },
          outputs: { 2: at(1) },
        }),
      ],
    };
  },
  localize: (context) => {
    const heads = gqaHeads(context);
    const units = heads && localUnits(context, heads.size);
    if (!heads || units === undefined) return emitUnchanged(context);
    const groups = units / (heads.q / heads.kv);
    const counts = { num_heads: int(units), kv_num_heads: int(groups) };
    return emitHeads(context, { ...context.attributes, ...counts }, units);
  },
  carries: () => [[3, 1], [4, 2]],
  inPlace: () => [{ input: 3, output: 1, dim: 2 }, { input: 4, output: 2, dim: 2 }],
  flops: attentionFlops,
  examples: [
    {
      inputs: [
        f32(1, 3, 64),
        f32(1, 3, 32),
        f32(1, 3, 32),
        f32(1, 2, 0, 16),
        f32(1, 2, 0, 16),
        { dtype: "i32", shape: [1] },
        { dtype: "i32", shape: [] },
      ],
      constants: { 5: [2], 6: [3] },
      attributes: { num_heads: int(4), kv_num_heads: int(2) },
      outputs: 3,
    },
  ],
};

/** Scores and weighted values: 4 · tokens · keys · width, with as many keys as the cache has, else as tokens. */
export function attentionFlops({ inputs, outputs }: TypedContext): Dim {
  const y = outputs[0]?.shape ?? [];
  const keys = outputs[1]?.shape?.at(-2) ?? inputs[1]?.shape?.at(1) ?? y[1] ?? 1;
  return y.reduce<Dim>(dimMul, dimMul(4, keys));
}

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
      return { factors: [headFactor(context, "h", heads, { inputs, outputs })] };
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
  ],
};

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
  ],
};

function onnxHeads(context: InferContext | TypedContext): Heads | undefined {
  const [q, k] = context.inputs.map((i) => i?.shape);
  if (!q || !k) return undefined;
  const fromDims = q.length === 4;
  const counts = fromDims
    ? [q[1], k[1]]
    : [intOf(context.attributes, "q_num_heads"), intOf(context.attributes, "kv_num_heads")];
  const width = fromDims ? q[3] : q[2];
  const [h, kv] = counts;
  if (typeof h !== "number" || typeof kv !== "number" || typeof width !== "number") return undefined;
  return { q: h, kv, size: fromDims ? width : width / h };
}

export const ATTENTION: OpDef = {
  op: "Attention",
  domain: "",
  since: 23,
  inputs: ["Q", "K", "V", "attn_mask", "past_key", "past_value"],
  infer: (context) => {
    const [q, k, v] = context.inputs;
    const heads = onnxHeads(context);
    if (!q?.shape || !k?.shape || !v?.shape || !heads) {
      return Array.from({ length: context.outputCount }, () => ({ dtype: q?.dtype, shape: undefined }));
    }
    const separate = q.shape.length === 4;
    const valueSize = separate ? v.shape[3]! : dimDivide(v.shape[2]!, heads.kv)!;
    const length = separate ? k.shape[2]! : k.shape[1]!;
    const total = dimAdd(context.inputs[4]?.shape?.[2] ?? 0, length);
    const batch = q.shape[0]!, sequence = separate ? q.shape[2]! : q.shape[1]!;
    const y = separate ? [batch, heads.q, sequence, valueSize] : [batch, sequence, dimMul(heads.q, valueSize)];
    const cache = (size: Dim): Inferred => ({ dtype: k.dtype, shape: [batch, heads.kv, total, size] });
    const scores = { dtype: q.dtype, shape: [batch, heads.q, sequence, total] };
    return [{ dtype: q.dtype, shape: y }, cache(heads.size), cache(valueSize), scores].slice(0, context.outputCount);
  },
  factors: (context) => {
    const heads = onnxHeads(context);
    const v = context.inputs[2]?.shape;
    if (!heads || !v) return NO_FACTORS;
    const group = heads.q / heads.kv, separate = context.inputs[0]!.shape!.length === 4;
    const valueSize = separate ? v[3] : v[2];
    if (typeof valueSize !== "number") return NO_FACTORS;
    const unit = separate ? 0 : valueSize / heads.kv;
    const mask = maskHeads(context, 3, heads.q);
    const places = {
      inputs: {
        0: separate ? at(1, { inner: group }) : at(2, { inner: group * heads.size }),
        1: separate ? at(1) : at(2, { inner: heads.size }),
        2: separate ? at(1) : at(2, { inner: unit }),
        ...(mask === undefined ? {} : { 3: at(mask, { inner: group }) }),
        4: at(1),
        5: at(1),
      },
      outputs: {
        0: separate ? at(1, { inner: group }) : at(2, { inner: group * unit }),
        1: at(1),
        2: at(1),
        3: at(1, { inner: group }),
      },
    };
    return { factors: [headFactor(context, "h", heads.kv, places)] };
  },
  localize: (context) => {
    const heads = onnxHeads(context);
    const separate = context.inputs[0]?.shape?.length === 4;
    if (!heads) return emitUnchanged(context);
    const local = context.inputTensors[1]?.localShape?.[separate ? 1 : 2];
    if (typeof local !== "number") return emitUnchanged(context);
    const kv = separate ? local : local / heads.size;
    const counts = separate ? {} : { q_num_heads: int((kv * heads.q) / heads.kv), kv_num_heads: int(kv) };
    return emitHeads(context, { ...context.attributes, ...counts }, kv);
  },
  carries: () => [[4, 1], [5, 2]],
  flops: attentionFlops,
  examples: [
    { inputs: [f32(1, 4, 3, 8), f32(1, 2, 3, 8), f32(1, 2, 3, 8)] },
    {
      inputs: [f32(1, 3, 32), f32(1, 5, 16), f32(1, 5, 16)],
      attributes: { q_num_heads: int(4), kv_num_heads: int(2) },
    },
  ],
};

interface RotaryForm {
  readonly domain: string;
  readonly since: number;
  readonly inputs: readonly string[];
  /** Position of the cosine table. */
  readonly cos: number;
  readonly examples: OpDef["examples"];
}

/** RotaryEmbedding, in ONNX's form and in ONNX Runtime's older one. */
export function rotaryOps(): OpDef[] {
  const forms: RotaryForm[] = [
    {
      domain: "com.microsoft",
      since: 1,
      inputs: ["input", "position_ids", "cos_cache", "sin_cache"],
      cos: 2,
      examples: [
        {
          inputs: [f32(1, 3, 32), { dtype: "i64", shape: [1, 3] }, f32(16, 4), f32(16, 4)],
          ranges: { 1: [0, 16] },
        },
      ],
    },
    {
      domain: "",
      since: 23,
      inputs: ["X", "cos_cache", "sin_cache", "position_ids"],
      cos: 1,
      examples: [
        {
          inputs: [f32(1, 4, 3, 8), f32(16, 4), f32(16, 4), { dtype: "i64", shape: [1, 3] }],
          ranges: { 3: [0, 16] },
        },
        {
          inputs: [f32(1, 3, 32), f32(16, 4), f32(16, 4), { dtype: "i64", shape: [1, 3] }],
          ranges: { 3: [0, 16] },
          attributes: { num_heads: int(4) },
        },
      ],
    },
  ];
  return forms.map((form): OpDef => ({
    op: "RotaryEmbedding",
    domain: form.domain,
    since: form.since,
    inputs: form.inputs,
    infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
    factors: (context) => rotaryFactors(context, form.cos),
    localize: (context) => {
      const size = rotaryHeadSize(context, form.cos), local = context.outputTensors[0]?.localShape;
      const heads = local?.length === 4
        ? local[1]
        : typeof local?.[2] === "number" && size
        ? local[2] / size
        : undefined;
      if (typeof heads !== "number") return emitUnchanged(context);
      const stated = intOf(context.attributes, "num_heads") ?? 0;
      return emitHeads(
        context,
        stated > 0 ? { ...context.attributes, num_heads: int(heads) } : context.attributes,
        heads,
      );
    },
    examples: form.examples,
  }));
}

function rotaryHeadSize(context: TypedContext, cos: number): number | undefined {
  const heads = intOf(context.attributes, "num_heads") ?? 0;
  const width = context.inputs[0]?.shape?.at(-1), half = context.inputs[cos]?.shape?.at(-1);
  if (heads > 0) return typeof width === "number" ? width / heads : undefined;
  return typeof half === "number" ? half * 2 : undefined;
}

function rotaryFactors(context: TypedContext, cos: number): FactorRule {
  const shape = context.inputs[0]?.shape;
  if (!shape) return NO_FACTORS;
  if (shape.length === 4) {
    return { factors: [headFactor(context, "h", shape[1]!, { inputs: { 0: at(1) }, outputs: { 0: at(1) } })] };
  }
  const size = rotaryHeadSize(context, cos), width = shape.at(-1);
  if (!size || typeof width !== "number" || width % size !== 0) return NO_FACTORS;
  const place = { 0: at(2, { inner: size }) };
  return { factors: [headFactor(context, "h", width / size, { inputs: place, outputs: place })] };
}
