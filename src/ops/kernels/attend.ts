/**
 * Scaled dot-product attention as steps. Few queries, as in decoding: one kernel that reads the cache once, for as many keys as memory on the
 * device tells. Many queries: one that goes through the keys tile by tile, on tensor cores where floats have 16 bits. Doubles, and heads that
 * are too large: scores by one batched product, a softmax that scales, caps and masks, and the mix of values by another; query heads that
 * share a key/value head are rows of the same product.
 */
import { broadcast, stridesOf, whole } from "./access.ts";
import type { Access, AttentionSizes, KernelStep, Operand, Params } from "./kernel.ts";
import { matmulSteps } from "./products.ts";
import { softmaxRows } from "./rows.ts";
import type { AttentionStream } from "./attention_stream.ts";
import { blockedAttention } from "./blocked_attention.ts";
import { streamedAttention } from "./streamed_attention.ts";
import { tiledAttention } from "./tiled_attention.ts";

/** An operand of `[batch, heads, queries, keys]` that masks; broadcast from its own shape. */
export interface Mask {
  readonly operand: Operand;
  readonly shape: readonly number[];
  /** Added to the scores, or (bool) true where a key is attended to. */
  readonly kind: "added" | "kept";
}

/** What an attention is made of. */
export interface Attention {
  readonly sizes: AttentionSizes;
  /** Contiguous `[batch, heads, queries, size]`. */
  readonly query: Operand;
  /** `[batch, kvHeads, keys, size]`, and `valueSize` for values: rows lie together, heads `room` rows apart. */
  readonly key: Operand;
  readonly value: Operand;
  /** Keys that there is room for in the memory of `key` and `value`; as many as there are by default. */
  readonly room?: number | undefined;
  readonly scale: number;
  /** 0 for none. */
  readonly softcap: number;
  readonly masks: readonly Mask[];
  /** The first key that is attended to, and the first after it that is not, by an expression over `i0` batch, `i1` head, `i2` query. */
  readonly from?: string | undefined;
  readonly until?: string | undefined;
  /** A condition for keys between, over these and `r0` key. In all three, `c0`, … are `reads`. */
  readonly condition?: string | undefined;
  /** Over `[batch, heads, queries, keys]`. */
  readonly reads?: readonly Access[];
  readonly params?: Params;
}

/** Where the result goes: over `[batch, heads, queries, valueSize]`, whose last stride is 1. */
export type AttentionResult = Access;

/** Gives scratch memory. */
export type Take = (dtype: Operand["dtype"], shape: readonly number[]) => Operand;

/** More queries than this are products of matrices. */
const FEW_QUERIES = 4;
/** Elements of a head that threads can hold for their queries. */
const LARGEST_HEAD = 256;
/** Blocks that a GPU can be given at once, and keys that are worth a block. */
const BLOCKS = 512, KEYS_PER_BLOCK = 128;

/** The steps of an attention. */
export function attend(
  attention: Attention,
  to: { readonly result: AttentionResult; readonly take: Take },
): KernelStep[] {
  const { batch, heads, size, valueSize, queries } = attention.sizes, { dtype } = attention.query;
  if (size > LARGEST_HEAD || valueSize > LARGEST_HEAD || dtype === "f64") return multiplied(attention, to);
  if (queries <= FEW_QUERIES) return streamed(attention, to);
  if (batch * heads * queries === 0) return [];
  const isHalf = dtype === "f16" || dtype === "bf16";
  // Elements are read and written in pairs, and copied by eights.
  const isEven = to.result.strides.slice(0, 3).every((s) => s % 2 === 0) && to.result.offset % 2 === 0;
  const isTiled = isHalf && size % 8 === 0 && valueSize % 8 === 0 && isEven;
  return [(isTiled ? tiledAttention : blockedAttention)(streamOf(attention, to.result))];
}

/** A condition or limit with `c0`, … as the reads behind `base` others. */
function named(expression: string | undefined, base: number): string | undefined {
  return expression?.replace(/\bc(\d+)\b/g, (_, i) => `x${base + Number(i)}`);
}

/** A score by the product of query and key; masks are `x` from number `first` on. */
function scoreOf(
  attention: Attention,
  dot: string,
  first: number,
  conditions: readonly (string | undefined)[],
): string {
  let score = `${dot} * scale`;
  if (attention.softcap !== 0) score = `softcap * f_tanh(${score} / softcap)`;
  attention.masks.forEach((m, i) => {
    score = m.kind === "added" ? `(${score}) + x${first + i}` : `(x${first + i} ? (${score}) : -INFINITY)`;
  });
  const condition = named(conditions.filter((c) => c !== undefined).join(" && "), first + attention.masks.length);
  return condition ? `((${condition}) ? (${score}) : -INFINITY)` : score;
}

function paramsOf(attention: Attention): Params {
  return { scale: { float: attention.scale }, softcap: { float: attention.softcap }, ...attention.params };
}

function masksOf({ sizes: { batch, heads, queries, keys }, masks }: Attention): Access[] {
  return masks.map((m) => broadcast(m.operand, m.shape, [batch, heads, queries, keys]));
}

/** What the kernels are given that go through keys once. */
function streamOf(attention: Attention, result: AttentionResult): AttentionStream {
  const { sizes, masks } = attention, { batch, heads, kvHeads, queries, keys, size, valueSize } = sizes;
  const room = attention.room ?? keys;
  const cache = (operand: Operand, width: number): Access => {
    return { operand, offset: 0, strides: [kvHeads * room * width, room * width, width, 1] };
  };
  const limit = (expression: string | undefined) => named(expression, masks.length);
  return {
    sizes,
    query: whole(attention.query, [batch, heads, queries, size]),
    key: cache(attention.key, size),
    value: cache(attention.value, valueSize),
    result,
    reads: [...masksOf(attention), ...attention.reads ?? []],
    score: scoreOf(attention, "dot", 0, [attention.condition]),
    from: limit(attention.from),
    until: limit(attention.until),
    params: paramsOf(attention),
  };
}

function streamed(attention: Attention, to: { readonly result: AttentionResult; readonly take: Take }): KernelStep[] {
  const { batch, heads, kvHeads, queries, keys, valueSize } = attention.sizes, room = attention.room ?? keys;
  if (batch * heads * queries === 0) return [];
  const rows = batch * kvHeads * queries;
  const parts = Math.max(1, Math.min(Math.ceil(room / KEYS_PER_BLOCK), Math.ceil(BLOCKS / rows)));
  const partial = to.take("f32", [batch, heads, queries, parts, valueSize + 2]);
  return streamedAttention({ ...streamOf(attention, to.result), parts, partial });
}

function multiplied(attention: Attention, to: { readonly result: AttentionResult; readonly take: Take }): KernelStep[] {
  const { sizes, query, key, value, from, until } = attention;
  const { batch, heads, kvHeads, queries, keys, size, valueSize } = sizes;
  const lead = [batch, kvHeads], rows = (heads / kvHeads) * queries, room = attention.room ?? keys;
  const shape = [batch, heads, queries, keys], scores = to.take(query.dtype, shape);
  const reads: Access[] = [whole(scores, shape), ...masksOf(attention), ...attention.reads ?? []];
  const wanted = [batch, heads, queries, valueSize], { result } = to;
  const isWhole = stridesOf(wanted).every((s, d) => wanted[d] === 1 || s === result.strides[d]) && result.offset === 0;
  const mixed = isWhole ? result.operand : to.take(result.operand.dtype, wanted);
  return [
    ...matmulSteps([
      { operand: query, lead, rows, columns: size },
      { operand: key, lead, rows: keys, columns: size, pitch: room * size },
      { operand: scores, lead, rows, columns: keys },
    ], { transposeB: true }),
    softmaxRows({ outer: shape.slice(0, 3), inner: [keys], reads, params: paramsOf(attention) }, reads[0]!, {
      value: scoreOf(attention, "x0", 1, [from && `r0 >= ${from}`, until && `r0 < ${until}`, attention.condition]),
    }),
    ...matmulSteps([
      { operand: scores, lead, rows, columns: keys },
      { operand: value, lead, rows: keys, columns: valueSize, pitch: room * valueSize },
      { operand: mixed, lead, rows, columns: valueSize },
    ]),
    ...(isWhole ? [] : [
      { kind: "map", shape: wanted, reads: [whole(mixed, wanted)], write: result, expression: "x0" } as const,
    ]),
  ];
}
