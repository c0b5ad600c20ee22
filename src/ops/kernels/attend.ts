/**
 * Scaled dot-product attention as steps: scores by one batched product, a softmax that scales, caps and masks, and the mix of values by
 * another. Query heads that share a key/value head are rows of the same product.
 */
import { broadcast, stridesOf } from "./access.ts";
import { matmulSteps } from "./products.ts";
import type { Access, KernelStep, KernelTensor, Operand, Params } from "./kernel.ts";
import { softmaxRows } from "./rows.ts";

/** Sizes of an attention. */
export interface AttentionSizes {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  /** Elements of a query or key, and of a value. */
  readonly size: number;
  readonly valueSize: number;
}

/** An operand of `[batch, heads, queries, keys]` that masks; broadcast from its own shape. */
export interface Mask {
  readonly operand: Operand;
  readonly shape: readonly number[];
  /** Added to the scores, or (bool) true where a key is attended to. */
  readonly kind: "added" | "kept";
}

/** What an attention is made of; `query`, `key` and `value` are contiguous `[batch, heads, length, size]`. */
export interface Attention {
  readonly sizes: AttentionSizes;
  readonly query: Operand;
  readonly key: Operand;
  readonly value: Operand;
  /** `[batch, heads, queries, valueSize]`, contiguous. */
  readonly result: Operand;
  /** A scratch operand for `[batch, heads, queries, keys]`. */
  readonly scores: Operand;
  readonly scale: number;
  /** 0 for none. */
  readonly softcap: number;
  readonly masks: readonly Mask[];
  /** A condition over the index (`i0` batch, `i1` head, `i2` query, `r0` key) under which a key is attended to; `m0`, … are `reads`. */
  readonly condition?: string | undefined;
  /** Reads of the condition by `x` after the masks' (`condition` names them `c0`, …). */
  readonly reads?: readonly Access[];
  readonly params?: Params;
}

/** The scratch tensor that an attention needs. */
export function scoresOf(sizes: AttentionSizes, dtype: KernelTensor["dtype"]): KernelTensor {
  return { dtype, shape: [sizes.batch, sizes.heads, sizes.queries, sizes.keys] };
}

/** The steps of an attention. */
export function attend(attention: Attention): KernelStep[] {
  const { sizes, query, key, value, result, scores, masks } = attention;
  const { batch, heads, kvHeads, queries, keys, size, valueSize } = sizes;
  const lead = [batch, kvHeads], rows = (heads / kvHeads) * queries;
  const shape = [batch, heads, queries, keys], over = [...shape];
  const maskReads = masks.map((m) => broadcast(m.operand, m.shape, over));
  const reads: Access[] = [
    { operand: scores, offset: 0, strides: stridesOf(shape) },
    ...maskReads,
    ...attention.reads ?? [],
  ];
  let score = "x0 * scale";
  if (attention.softcap !== 0) score = `softcap * f_tanh(${score} / softcap)`;
  masks.forEach((m, i) => {
    score = m.kind === "added" ? `(${score}) + x${i + 1}` : `(x${i + 1} ? (${score}) : -INFINITY)`;
  });
  const condition = attention.condition?.replace(/\bc(\d+)\b/g, (_, i) => `x${1 + masks.length + Number(i)}`);
  if (condition) score = `((${condition}) ? (${score}) : -INFINITY)`;
  const params: Params = {
    scale: { float: attention.scale },
    softcap: { float: attention.softcap },
    ...attention.params,
  };
  return [
    ...matmulSteps([
      { operand: query, lead, rows, columns: size },
      { operand: key, lead, rows: keys, columns: size },
      { operand: scores, lead, rows, columns: keys },
    ], { transposeB: true }),
    softmaxRows({ outer: shape.slice(0, 3), inner: [keys], reads, params }, reads[0]!, { value: score }),
    ...matmulSteps([
      { operand: scores, lead, rows, columns: keys },
      { operand: value, lead, rows: keys, columns: valueSize },
      { operand: result, lead, rows, columns: valueSize },
    ]),
  ];
}
