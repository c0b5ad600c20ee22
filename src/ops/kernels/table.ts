/** How ops run on a GPU: every lowering, by op. An op that is not in it runs on CPU ranks only. */
import { intOf } from "../../graph/attributes.ts";
import type { Call } from "../../graph/graph.ts";
import { ATTENTION } from "./attention.ts";
import { CONV } from "./conv.ts";
import { EINSUM } from "./einsum.ts";
import { EMBED_NORM } from "./embed_norm.ts";
import { FUSED_PRODUCTS } from "./fused_products.ts";
import { GATHERS } from "./gathers.ts";
import type { Lowering } from "./kernel.ts";
import { LOSSES } from "./losses.ts";
import { MAPS } from "./maps.ts";
import { MOE } from "./moe.ts";
import { MOVES } from "./moves.ts";
import { NBITS } from "./nbits.ts";
import { NORMS } from "./norms.ts";
import { PRODUCTS } from "./products.ts";
import { QUANTISED } from "./quantised.ts";
import { ROWS } from "./rows.ts";
import { SCANS } from "./scans.ts";
import { SCATTERS } from "./scatters.ts";

const ALL: Readonly<Record<string, Lowering>> = {
  ...MAPS,
  ...MOVES,
  ...GATHERS,
  ...PRODUCTS,
  ...ROWS,
  ...ATTENTION,
  ...QUANTISED,
  ...CONV,
  ...EINSUM,
  ...FUSED_PRODUCTS,
  ...EMBED_NORM,
  ...LOSSES,
  ...MOE,
  ...NBITS,
  ...NORMS,
  ...SCANS,
  ...SCATTERS,
};

/** The lowering of an op, if it has one. */
export function loweringOf(node: { readonly domain: string; readonly op: string }): Lowering | undefined {
  const key = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
  return Object.hasOwn(ALL, key) ? ALL[key] : undefined;
}

/**
 * Ops that may write an output behind what an input holds, in the input's memory, which has room for more. Both must be given and asked for.
 */
const GROWTH: Readonly<Record<string, readonly Growth[]>> = {
  "com.microsoft.GroupQueryAttention": [{ input: 3, output: 1, dim: 2 }, { input: 4, output: 2, dim: 2 }],
  "com.microsoft.MultiHeadAttention": [{ input: 6, output: 1, dim: 2 }, { input: 7, output: 2, dim: 2 }],
  Attention: [{ input: 4, output: 1, dim: 2 }, { input: 5, output: 2, dim: 2 }],
};

const ROWWISE = new Set([...Object.keys(NORMS), "Softmax", "LogSoftmax"].filter((op) => op !== "GroupNormalization"));

/** Whether an op computes each element of its output from elements of its inputs. */
export function isElementwise(node: { readonly domain: string; readonly op: string }): boolean {
  return Object.hasOwn(MAPS, node.domain === "" ? node.op : `${node.domain}.${node.op}`);
}

/** Whether an op reduces rows and computes their elements from the results: a norm, a softmax. */
export function isRowwise(node: { readonly domain: string; readonly op: string }): boolean {
  return ROWWISE.has(node.domain === "" ? node.op : `${node.domain}.${node.op}`);
}

/** An output that is an input and more along `dim`. */
export interface Growth {
  readonly input: number;
  readonly output: number;
  /** Counted from either end. */
  readonly dim: number;
}

/** Which outputs of a call may grow in the memory of an input. */
export function growthOf(node: Pick<Call, "domain" | "op" | "inputs" | "attributes">): readonly Growth[] {
  const key = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
  if (key !== "Concat") return GROWTH[key] ?? [];
  const dim = intOf(node.attributes, "axis");
  return node.inputs.length === 2 && dim !== undefined ? [{ input: 0, output: 0, dim }] : [];
}

/** Ops that read tensors with gaps between rows; products, if these are rows of a matrix or within one. */
const READ_WITH_GAPS = new Set([
  ...Object.keys(MAPS),
  ...["Expand", "Flatten", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"],
]);
const PRODUCTS_WITH_GAPS = new Set(["MatMul", "com.microsoft.FusedMatMul"]);

/** Whether an op reads a tensor of `rank` dims that has gaps along dim `dim`. */
export function readsGaps(
  node: { readonly domain: string; readonly op: string },
  { dim, rank }: { readonly dim: number; readonly rank: number },
): boolean {
  const key = node.domain === "" ? node.op : `${node.domain}.${node.op}`;
  return READ_WITH_GAPS.has(key) || (PRODUCTS_WITH_GAPS.has(key) && dim >= rank - 2);
}
