/** GroupQueryAttention, with queries, keys and values apart or packed. Source: com.microsoft, ContribOperators.md. */
import { dimAdd, dimMax, dimSub } from "../core/dim.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { Attributes } from "../graph/graph.ts";
import type { InferContext, Inferred, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { at, NO_FACTORS } from "./factors.ts";
import {
  attentionFlops,
  batchFactor,
  emitHeads,
  f32,
  headFactor,
  type Heads,
  localHeadCount,
  localUnits,
  maskHeads,
  type Places,
} from "./heads.ts";
import { emitZeros } from "./selected_rows.ts";
import { emitUnchanged } from "./shapes.ts";

function gqaHeads(context: InferContext | TypedContext): Heads | undefined {
  const q = intOf(context.attributes, "num_heads"), kv = intOf(context.attributes, "kv_num_heads");
  const width = context.inputs[0]?.shape?.at(-1);
  if (!q || !kv || typeof width !== "number") return undefined;
  return { q, kv, size: width / (context.inputs[1] ? q : q + 2 * kv) };
}

/**
 * The least room of a cache that is a ring: it keeps the last keys of a window and overwrites older ones, as genai's builder has
 * layers with sliding windows do. Undefined of a cache that grows.
 */
function ringOf(attributes: Attributes): number | undefined {
  return intOf(attributes, "sliding_window_cache") === 1 ? intOf(attributes, "local_window_size") : undefined;
}

/** The local inputs, with room for a window in a ring: a state that has just begun has none. */
function withRoom(context: LocalizeContext): readonly string[] {
  const { emit, names, attributes } = context, ring = ringOf(attributes);
  if (ring === undefined) return names;
  return names.map((name, i) => {
    const past = context.inputTensors[i]?.localShape?.[2], made = context.outputTensors[i - 2]?.localShape;
    if ((i !== 3 && i !== 4) || name === "" || past === undefined || !made) return name;
    const missing = dimSub(dimMax(past, ring), past);
    if (missing === 0) return name;
    const room = emitZeros(emit, context.inputs[i]!.dtype!, made.with(2, missing));
    return emit.op("Concat", [name, room], { axis: int(2) });
  });
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
    const ring = ringOf(context.attributes),
      grown = total === undefined ? dimAdd(past, sequence!) : dimMax(past, total);
    // The cache may be longer than what it holds.
    const length = ring === undefined ? grown : dimMax(past, ring);
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
    const shared = q / kv, bias = maskHeads(context, 10, q);
    const extra: Places = { ...(bias === undefined ? {} : { 10: at(bias) }), 11: at(0) };
    const query = at(2, { inner: size }), cache = at(1, { shared });
    const sequences = batchFactor(context, {
      inputs: { 0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 9: 0, 10: 0 },
      outputs: { 0: 0, 1: 0, 2: 0 },
    });
    if (context.inputs[1]) {
      const step = at(2, { inner: size, shared });
      const inputs = { 0: query, 1: step, 2: step, 3: cache, 4: cache, ...extra };
      const heads = headFactor(context, "h", q, { inputs, outputs: { 0: query, 1: cache, 2: cache } });
      return { factors: [heads, ...sequences] };
    }
    const packed = (offset: number) => at(2, { inner: size, offset, shared });
    return {
      alike: true,
      factors: [
        headFactor(context, "hq", q, { inputs: { 0: query, ...extra }, outputs: { 0: query } }),
        headFactor(context, "hk", q, { inputs: { 0: packed(q * size), 3: cache }, outputs: { 1: cache } }),
        headFactor(context, "hv", q, { inputs: { 0: packed((q + kv) * size), 4: cache }, outputs: { 2: cache } }),
        ...sequences,
      ],
    };
  },
  localize: (given) => {
    const context = { ...given, names: withRoom(given) };
    const heads = gqaHeads(context);
    const units = heads && localUnits(context, heads.size);
    if (!heads || units === undefined) return emitUnchanged(context);
    const kv = context.inputs[1]
      ? localHeadCount(context.inputTensors[1], -1, heads.size)
      : (localHeadCount(context.inputTensors[0], -1, heads.size)! - units) / 2;
    const counts = { num_heads: int(units), kv_num_heads: int(kv!) };
    return emitHeads(context, { ...context.attributes, ...counts }, units);
  },
  localizesWhole: ({ attributes }) => ringOf(attributes) !== undefined,
  carries: () => [[3, 1], [4, 2]],
  inPlace: () => [{ input: 3, output: 1, dim: 2 }, { input: 4, output: 2, dim: 2 }],
  flops: attentionFlops,
  examples: [
    example({ query: 64, heads: 4, kv: 2, apart: true }),
    example({ query: 96, heads: 6, kv: 1, apart: true, bias: true }),
    example({ query: 96, heads: 6, kv: 2, apart: true, bias: true }),
    // Queries, keys and values in one: (4 + 2 · 2) · 16, and (6 + 2 · 2) · 16.
    example({ query: 128, heads: 4, kv: 2, apart: false }),
    example({ query: 160, heads: 6, kv: 2, apart: false, bias: true }),
  ],
};

function example(
  { query, heads, kv, apart, bias }: {
    readonly query: number;
    readonly heads: number;
    readonly kv: number;
    readonly apart: boolean;
    readonly bias?: boolean;
  },
): OpDef["examples"][number] {
  const step = apart ? f32(1, 3, kv * 16) : undefined;
  return {
    inputs: [
      f32(1, 3, query),
      step,
      step,
      f32(1, kv, 0, 16),
      f32(1, kv, 0, 16),
      { dtype: "i32", shape: [1] },
      { dtype: "i32", shape: [] },
      ...(bias ? [undefined, undefined, undefined, f32(1, heads, 3, 3)] : []),
    ],
    constants: { 5: [2], 6: [3] },
    attributes: { num_heads: int(heads), kv_num_heads: int(kv) },
    outputs: 3,
  };
}
