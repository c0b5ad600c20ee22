/** The rules, in the order in which they are tried: earlier ones bring graphs into the form that later ones know. */
import { CACHED_ATTENTION } from "./cached_attention.ts";
import { DROP_NOOPS } from "./drop_noops.ts";
import { FOLD_SCALARS } from "./fold_scalars.ts";
import { GELU } from "./gelu.ts";
import { INTERLEAVED_ROTARY } from "./interleaved_rotary.ts";
import { MULTI_HEAD_ATTENTION } from "./multi_head_attention.ts";
import { PARTIAL_ROTARY } from "./partial_rotary.ts";
import type { Rewrite } from "./rewrite.ts";
import { RMS_NORM } from "./rms_norm.ts";
import { ROTARY_EMBEDDING } from "./rotary_embedding.ts";
import { SILU } from "./silu.ts";
import { WHOLE_SCATTER } from "./whole_scatter.ts";

/** What makes patterns alike, before equal calls are merged. */
export const CLEANING_RULES: readonly Rewrite[] = [FOLD_SCALARS, DROP_NOOPS, WHOLE_SCATTER];

/** What turns patterns into fused ops. */
export const FUSING_RULES: readonly Rewrite[] = [
  RMS_NORM,
  GELU,
  SILU,
  ROTARY_EMBEDDING,
  INTERLEAVED_ROTARY,
  PARTIAL_ROTARY,
  CACHED_ATTENTION,
  MULTI_HEAD_ATTENTION,
];
