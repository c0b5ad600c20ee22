/** The vocabulary: every op that is described, by key. An op that is not in it runs replicated. */
import { opKey } from "../graph/graph.ts";
import { ATTENTION } from "./attention.ts";
import { biasActivationOps, binaryOps, CLIP, variadicOps, WHERE } from "./binary.ts";
import { CACHED_ATTENTION } from "./cached_attention.ts";
import { CAST, CAST_LIKE } from "./cast.ts";
import { CONCAT, SPLIT } from "./concat.ts";
import { GROUP_QUERY_ATTENTION } from "./group_query_attention.ts";
import { MULTI_HEAD_ATTENTION, PACKED_ATTENTION } from "./multi_head_attention.ts";
import { rotaryOps } from "./rotary.ts";
import { IF, LOOP } from "./control.ts";
import { CONV } from "./conv.ts";
import { CROSS_ENTROPY_LOSS } from "./cross_entropy.ts";
import type { OpDef } from "./def.ts";
import { SQUEEZE, TRANSPOSE, UNSQUEEZE } from "./dims.ts";
import { EINSUM } from "./einsum.ts";
import { EMBEDDING } from "./embedding.ts";
import { EXPAND, TILE } from "./expand.ts";
import { FUSED_MATMUL } from "./fused_matmul.ts";
import { GATHER } from "./gather.ts";
import { GEMM } from "./gemm.ts";
import { CONSTANT_OF_SHAPE, EYE_LIKE, NON_ZERO, ONE_HOT, RANGE, SHAPE, SIZE, SIZES, TRILU } from "./generators.ts";
import { imageOps } from "./images.ts";
import { GATHER_ELEMENTS, GATHER_ND, SCATTER_ELEMENTS, SCATTER_ND } from "./indexing.ts";
import { PLAIN_LAYERS } from "./layer_roles.ts";
import { LINEAR } from "./linear.ts";
import { lossOps } from "./loss.ts";
import { MATMUL } from "./matmul.ts";
import { moeOps } from "./moe.ts";
import { EMBED_LAYER_NORMALIZATION, normOps, softmaxOps } from "./norms.ts";
import {
  DEQUANTIZE_LINEAR,
  DYNAMIC_QUANTIZE_LINEAR,
  MATMUL_INTEGER,
  MATMUL_NBITS,
  QUANTIZE_LINEAR,
} from "./quantised.ts";
import { randomOps } from "./random.ts";
import { EMBEDDING_NBITS, GATHER_BLOCK_QUANTIZED } from "./quantised_tables.ts";
import { reduceOps } from "./reduce.ts";
import { FLATTEN, RESHAPE } from "./reshape.ts";
import { argOps, CUM_SUM, TOP_K } from "./search.ts";
import { PAD, SLICE } from "./slice.ts";
import { DROPOUT, unaryOps } from "./unary.ts";

const ALL: readonly OpDef[] = [
  ...unaryOps(),
  ...binaryOps(),
  ...variadicOps(),
  ...biasActivationOps(),
  ...reduceOps(),
  ...argOps(),
  ...softmaxOps(),
  ...normOps(),
  ...rotaryOps(),
  ...lossOps(),
  ...moeOps(),
  ...randomOps(),
  ...imageOps(),
  ATTENTION,
  CACHED_ATTENTION,
  CAST,
  CAST_LIKE,
  CLIP,
  CONCAT,
  CONSTANT_OF_SHAPE,
  CONV,
  CROSS_ENTROPY_LOSS,
  CUM_SUM,
  DEQUANTIZE_LINEAR,
  DROPOUT,
  DYNAMIC_QUANTIZE_LINEAR,
  EINSUM,
  EMBEDDING,
  EMBEDDING_NBITS,
  EMBED_LAYER_NORMALIZATION,
  EXPAND,
  EYE_LIKE,
  FLATTEN,
  FUSED_MATMUL,
  GATHER,
  GATHER_BLOCK_QUANTIZED,
  GATHER_ELEMENTS,
  GATHER_ND,
  GEMM,
  GROUP_QUERY_ATTENTION,
  IF,
  LINEAR,
  LOOP,
  MATMUL,
  MATMUL_INTEGER,
  MATMUL_NBITS,
  MULTI_HEAD_ATTENTION,
  NON_ZERO,
  ONE_HOT,
  PACKED_ATTENTION,
  PAD,
  QUANTIZE_LINEAR,
  RANGE,
  RESHAPE,
  SCATTER_ELEMENTS,
  SCATTER_ND,
  SHAPE,
  SIZE,
  SIZES,
  SLICE,
  SPLIT,
  SQUEEZE,
  TILE,
  TOP_K,
  TRANSPOSE,
  TRILU,
  UNSQUEEZE,
  WHERE,
];

/** All definitions by {@linkcode opKey}. */
export const OPS: ReadonlyMap<string, OpDef> = new Map(ALL.map((d) => [opKey(d), d]));

/** The definition of a call's op, if it is described; a parallel layer has that of its plain counterpart. */
export function opDef(node: { readonly domain: string; readonly op: string }): OpDef | undefined {
  const plain = node.domain === "shardwise" ? PLAIN_LAYERS.get(node.op) : undefined;
  return OPS.get(opKey(plain === undefined ? node : { domain: node.domain, op: plain }));
}
