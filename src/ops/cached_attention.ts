/**
 * CachedAttention: causal attention over a cache that grows, in the form that a rewrite finds it in an exporter's graph
 * (src/passes/rewrites/cached_attention.ts).
 *
 * ```text
 * y[b,s,h] = Σt softmax_t(cap(scale · q[b,s,h] · k[b,t,h/G]) + bias[b,h,s,t]) · v[b,t,h/G],   t ≤ past + s
 * ```
 * `k` and `v` are what the cache holds and what is added to it; `G` query heads share a key/value head. `cap(x)` is
 * `c·tanh(x / c)` where attribute `softcap` is not 0. A row of which the bias hides every key (by -∞ or the lowest number)
 * gives no number that may be used. Where `keep` and `later` are there, the result is
 * `keep[b,s] · y[b,s,h] + Σu later[b,s,u] · value[b,u,h/G]`, `u` over this step's tokens: what rows get that see no key up to
 * themselves, but some after. On the CPU it is com.microsoft's GroupQueryAttention, which writes the new keys behind the old
 * ones, in place.
 */
import { type Dim, dimAdd, dimMul } from "../core/dim.ts";
import { float, floatOf, int, intOf, ints as intsAttribute } from "../graph/attributes.ts";
import type { Attributes } from "../graph/graph.ts";
import { attentionFlops, emitHeads, headFactor, type Heads, localHeadCount, maskHeads } from "./heads.ts";
import type { InferContext, Inferred, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { at, NO_FACTORS } from "./factors.ts";
import { unknownShape } from "./shapes.ts";

/** Names of the inputs by position. */
const INPUTS = [
  "query",
  "key",
  "value",
  "past_key",
  "past_value",
  "seqlens_k",
  "total_sequence_length",
  "bias",
  "keep",
  "later",
];

function headsOf({ attributes, inputs }: Pick<InferContext, "attributes" | "inputs">): Heads | undefined {
  const q = intOf(attributes, "num_heads"), kv = intOf(attributes, "kv_num_heads"), width = inputs[0]?.shape?.at(-1);
  return q && kv && typeof width === "number" ? { q, kv, size: width / q } : undefined;
}

export const CACHED_ATTENTION: OpDef = {
  op: "CachedAttention",
  domain: "shardwise",
  since: 1,
  inputs: INPUTS,
  infer: (context) => {
    const [q, , , past] = context.inputs;
    const heads = headsOf(context);
    if (!q?.shape || !past?.shape || !heads) return [unknownShape(q), unknownShape(q), unknownShape(q)];
    const [batch, sequence] = q.shape as [Dim, Dim];
    const cache: Inferred = {
      dtype: past.dtype,
      shape: [batch, heads.kv, dimAdd(past.shape[2]!, sequence), heads.size],
    };
    return [{ dtype: q.dtype, shape: q.shape }, cache, cache];
  },
  factors: (context) => {
    const heads = headsOf(context);
    if (!heads) return NO_FACTORS;
    const { q, kv, size } = heads, shared = q / kv, bias = maskHeads(context, 7, q);
    const step = at(2, { inner: size, shared }), cache = at(1, { shared });
    const places = {
      inputs: {
        0: at(2, { inner: size }),
        1: step,
        2: step,
        3: cache,
        4: cache,
        ...(bias === undefined ? {} : { 7: at(bias) }),
      },
      outputs: { 0: at(2, { inner: size }), 1: cache, 2: cache },
    };
    const rows = at(0);
    // A mask may be one for all rows.
    const masks = [7, 8, 9].filter((i) => context.inputs[i]?.shape?.[0] !== 1).map((i) => [i, rows] as const);
    const batch = {
      inputs: { 0: rows, 1: rows, 2: rows, 3: rows, 4: rows, 5: rows, ...Object.fromEntries(masks) },
      outputs: { 0: rows, 1: rows, 2: rows },
    };
    const count = context.inputs[0]!.shape![0]!;
    return {
      factors: [
        headFactor(context, "h", q, places),
        ...(count === 1 ? [] : [headFactor(context, "b", count, batch)]),
      ],
    };
  },
  localize: (context) => {
    const [y, ...cache] = context.plain ? emitPlain(context) : emitGroupQueryAttention(context);
    return [withLater(y!, context), ...cache];
  },
  carries: () => [[3, 1], [4, 2]],
  // ONNX Runtime: "batch_size must be 1 when sequence_length > 1 and past context is given".
  limits: ({ inputs }) => [
    { size: inputs[0]!.shape![0]!, most: 1 },
    { size: inputs[0]!.shape![1]!, most: 1 },
    { size: inputs[3]!.shape![2]!, most: 0 },
  ],
  flops: attentionFlops,
  examples: [
    example({ batch: 1, sequence: 2, past: 3, heads: 4, kv: 2, size: 8 }),
    example({ batch: 2, sequence: 1, past: 3, heads: 6, kv: 3, size: 16, bias: [2, 6, 1, 4] }),
    example({ batch: 2, sequence: 3, past: 0, heads: 3, kv: 3, size: 8, bias: [2, 1, 3, 3], softcap: 2 }),
    example({ batch: 1, sequence: 2, past: 2, heads: 6, kv: 1, size: 8, bias: [1, 6, 2, 4] }),
    example({ batch: 2, sequence: 3, past: 0, heads: 4, kv: 2, size: 8, bias: [2, 1, 3, 3], later: true }),
  ],
};

/** This rank's heads. */
function localHeads(context: LocalizeContext): Heads {
  const heads = headsOf(context)!;
  const width = context.outputTensors[0]!.localShape!.at(-1) as number;
  return { q: width / heads.size, kv: localHeadCount(context.inputTensors[3], 1, 1)!, size: heads.size };
}

function scaleOf({ attributes }: Pick<TypedContext, "attributes">, size: number): number {
  return floatOf(attributes, "scale") ?? 1 / Math.sqrt(size);
}

function emitGroupQueryAttention(context: LocalizeContext): readonly string[] {
  const { q, kv, size } = localHeads(context);
  if (q === 0) return emitHeads(context, {}, 0);
  const softcap = floatOf(context.attributes, "softcap") ?? 0;
  const attributes: Attributes = {
    num_heads: int(q),
    kv_num_heads: int(kv),
    scale: float(scaleOf(context, size)),
    ...(softcap === 0 ? {} : { softcap: float(softcap) }),
  };
  const bias = context.names[7] ?? "";
  const inputs = [...context.names.slice(0, 7), ...(bias === "" ? [] : ["", "", "", bias])];
  return context.emit.ops("GroupQueryAttention", inputs, attributes, { domain: "com.microsoft", outputs: 3 });
}

/** `keep · y`, and the weighted values of later tokens. */
function withLater(y: string, context: LocalizeContext): string {
  const { emit, names } = context, [keep = "", later = ""] = names.slice(8);
  const { q, kv, size } = localHeads(context);
  if (keep === "" || q === 0) return y;
  const [batch, sequence] = context.outputTensors[0]!.localShape as [Dim, Dim];
  const kept = emit.op("Mul", [y, keep]), mixed = emit.op("MatMul", [later, names[2]!]);
  if (q === kv) return emit.op("Add", [kept, mixed]);
  const heads = (x: string, shared: number) => emit.op("Reshape", [x, emit.sizes([batch, sequence, kv, shared, size])]);
  const sum = emit.op("Add", [heads(kept, q / kv), heads(mixed, 1)]);
  return emit.op("Reshape", [sum, emit.sizes([batch, sequence, dimMul(q, size)])]);
}

/** The definition, op by op. */
function emitPlain(context: LocalizeContext): readonly string[] {
  const { emit, names, inputTensors } = context;
  const { q, kv, size } = localHeads(context);
  if (q === 0) return emitHeads(context, {}, 0);
  const [batch, sequence] = inputTensors[0]!.localShape as [Dim, Dim];
  const past = inputTensors[3]!.localShape![2]!, total = dimAdd(past, sequence);
  const dtype = inputTensors[0]!.type.dtype!;
  const transpose = (x: string, perm: readonly number[]) => emit.op("Transpose", [x], { perm: intsAttribute(perm) });
  const heads = (x: string, count: number) =>
    transpose(emit.op("Reshape", [x, emit.sizes([batch, sequence, count, size])]), [0, 2, 1, 3]);
  const keys = emit.op("Concat", [names[3]!, heads(names[1]!, kv)], { axis: int(2) });
  const values = emit.op("Concat", [names[4]!, heads(names[2]!, kv)], { axis: int(2) });
  const repeated = (x: string) => {
    if (q === kv) return x;
    const opened = emit.op("Reshape", [x, emit.sizes([batch, kv, 1, total, size])]);
    const expanded = emit.op("Expand", [opened, emit.sizes([batch, kv, q / kv, total, size])]);
    return emit.op("Reshape", [expanded, emit.sizes([batch, q, total, size])]);
  };
  const query = emit.op("Mul", [heads(names[0]!, q), emit.scalar(dtype, scaleOf(context, size))]);
  let scores = emit.op("MatMul", [query, transpose(repeated(keys), [0, 1, 3, 2])]);
  const softcap = floatOf(context.attributes, "softcap") ?? 0;
  if (softcap !== 0) {
    const cap = emit.scalar(dtype, softcap);
    scores = emit.op("Mul", [emit.op("Tanh", [emit.op("Div", [scores, cap])]), cap]);
  }
  if (names[7]) scores = emit.op("Add", [scores, names[7]]);
  const one = emit.sizes([1], true);
  const range = (from: Dim, to: Dim) => emit.op("Range", [emit.sizes([from], true), emit.sizes([to], true), one]);
  const rows = emit.op("Reshape", [range(past, total), emit.sizes([sequence, 1])]);
  const isFuture = emit.op("Greater", [range(0, total), rows]);
  scores = emit.op("Where", [isFuture, emit.scalar(dtype, -Infinity), scores]);
  const weights = emit.op("Softmax", [scores], { axis: int(-1) });
  const mixed = transpose(emit.op("MatMul", [weights, repeated(values)]), [0, 2, 1, 3]);
  return [emit.op("Reshape", [mixed, emit.sizes([batch, sequence, dimMul(q, size)])]), keys, values];
}

interface ExampleSizes {
  readonly batch: number;
  readonly sequence: number;
  readonly past: number;
  readonly heads: number;
  readonly kv: number;
  readonly size: number;
  readonly bias?: readonly number[];
  readonly softcap?: number;
  readonly later?: boolean;
}

function example(
  { batch, sequence, past, heads, kv, size, bias, softcap, later }: ExampleSizes,
): OpDef["examples"][number] {
  const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });
  const kvWidth = kv * size;
  return {
    inputs: [
      f32(batch, sequence, heads * size),
      f32(batch, sequence, kvWidth),
      f32(batch, sequence, kvWidth),
      f32(batch, kv, past, size),
      f32(batch, kv, past, size),
      { dtype: "i32", shape: [batch] },
      { dtype: "i32", shape: [] },
      bias ? f32(...bias) : undefined,
      ...(later ? [f32(batch, sequence, 1), f32(batch, sequence, sequence)] : []),
    ],
    constants: { 5: Array.from({ length: batch }, () => past + sequence - 1), 6: [past + sequence] },
    attributes: {
      num_heads: int(heads),
      kv_num_heads: int(kv),
      ...(softcap === undefined ? {} : { softcap: float(softcap) }),
    },
    outputs: 3,
  };
}
