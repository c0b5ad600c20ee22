/** GroupQueryAttention, with queries, keys and values apart or packed. Source: com.microsoft, ContribOperators.md. */
import { dimAdd, dimMax } from "../core/dim.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { InferContext, Inferred, OpDef, TypedContext } from "./def.ts";
import { at, NO_FACTORS } from "./factors.ts";
import { attentionFlops, emitHeads, f32, headFactor, type Heads, localUnits, maskHeads, type Places } from "./heads.ts";
import { emitUnchanged } from "./shapes.ts";

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
