/** Attention, with heads in a dim or in the width. Source: ONNX Attention-23. */
import { type Dim, dimAdd, dimDivide, dimMul } from "../core/dim.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { InferContext, Inferred, OpDef, TypedContext } from "./def.ts";
import { at, NO_FACTORS } from "./factors.ts";
import {
  attentionFlops,
  batchFactor,
  emitHeads,
  f32,
  headFactor,
  type Heads,
  localHeadCount,
  maskHeads,
} from "./heads.ts";
import { emitUnchanged } from "./shapes.ts";

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
    const shared = heads.q / heads.kv, separate = context.inputs[0]!.shape!.length === 4;
    const valueSize = separate ? v[3] : v[2];
    if (typeof valueSize !== "number") return NO_FACTORS;
    const unit = separate ? 0 : valueSize / heads.kv;
    const mask = maskHeads(context, 3, heads.q);
    const cache = at(1, { shared });
    const places = {
      inputs: {
        0: separate ? at(1) : at(2, { inner: heads.size }),
        1: separate ? cache : at(2, { inner: heads.size, shared }),
        2: separate ? cache : at(2, { inner: unit, shared }),
        ...(mask === undefined ? {} : { 3: at(mask) }),
        4: cache,
        5: cache,
      },
      outputs: { 0: separate ? at(1) : at(2, { inner: unit }), 1: cache, 2: cache, 3: at(1) },
    };
    const sequences = batchFactor(context, {
      // A mask of fewer dims is one for all sequences.
      inputs: { 0: 0, 1: 0, 2: 0, ...(context.inputs[3]?.shape?.length === 4 ? { 3: 0 } : {}), 4: 0, 5: 0 },
      outputs: { 0: 0, 1: 0, 2: 0, 3: 0 },
    });
    return { factors: [headFactor(context, "h", heads.q, places), ...sequences] };
  },
  localize: (context) => {
    const heads = onnxHeads(context);
    const separate = context.inputs[0]?.shape?.length === 4;
    if (!heads) return emitUnchanged(context);
    const [q, kv] = [0, 1].map((i) =>
      localHeadCount(context.inputTensors[i], separate ? 1 : 2, separate ? 1 : heads.size)
    );
    if (q === undefined || kv === undefined) return emitUnchanged(context);
    const counts = separate ? {} : { q_num_heads: int(q), kv_num_heads: int(kv) };
    return emitHeads(context, { ...context.attributes, ...counts }, q);
  },
  carries: () => [[4, 1], [5, 2]],
  flops: attentionFlops,
  examples: [
    { inputs: [f32(1, 4, 3, 8), f32(1, 2, 3, 8), f32(1, 2, 3, 8)] },
    {
      inputs: [f32(1, 3, 32), f32(1, 5, 16), f32(1, 5, 16)],
      attributes: { q_num_heads: int(4), kv_num_heads: int(2) },
    },
    { inputs: [f32(1, 6, 3, 8), f32(1, 1, 3, 8), f32(1, 1, 3, 8), f32(1, 6, 3, 3)] },
    { inputs: [f32(2, 4, 3, 8), f32(2, 2, 3, 8), f32(2, 2, 3, 8), f32(2, 1, 3, 3)] },
    {
      inputs: [f32(1, 3, 48), f32(1, 3, 16), f32(1, 3, 16), undefined, f32(1, 2, 2, 8), f32(1, 2, 2, 8)],
      attributes: { q_num_heads: int(6), kv_num_heads: int(2) },
      outputs: 3,
    },
  ],
};
