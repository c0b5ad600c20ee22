/**
 * An exporter's attention without a growing cache (encoders, cross attention, prompts alone) becomes MultiHeadAttention.
 *
 * ```text
 * %y = Reshape(Transpose(MatMul(Softmax(MatMul(%q · a, Transpose(%keys) · b) + %mask), %values)))     -> [batch,sequence,heads·dim]
 *   ->
 * %y = MultiHeadAttention(%q, %keys, %values, attention_bias: %mask) {scale = a·b}
 * ```
 * attention_pattern.ts says what else may stand there. Keys and values stay apart by heads where they are so (a cache that is only
 * read, rotary positions), and are taken from the layer that made them where heads were split from its width.
 *
 * Why it is exact for every input: the mask is added as it is, a row that -∞ hides whole is NaN in both, and the op's
 * softmax takes off the highest score, as Softmax does. Scores whose place a number takes lose themselves in it (`HIDES`).
 */
import type { Dim } from "../../core/dim.ts";
import { float, int, ints as intsAttribute, intsOf } from "../../graph/attributes.ts";
import type { Call } from "../../graph/graph.ts";
import { type Attention, attentionAt } from "./attention_pattern.ts";
import { type MaskShape, rowsThatSee } from "./blind_rows.ts";
import { HIDES, type MaskTerm } from "./causal_mask.ts";
import { Emit } from "./emit.ts";
import { oneMask, type ScoreSizes, shapeOfMask } from "./mask_terms.ts";
import { type FusedDType, isFused, type Matcher } from "./matcher.ts";
import { type Heads, HEADS_FIRST, isSplitWidth, mergeHeads, turnHeads } from "./merge_heads.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

export const MULTI_HEAD_ATTENTION: Rewrite = {
  name: "multi_head_attention",
  summary: "attention without a growing cache becomes one op",
  at: (node, m, names) => {
    const found = attentionAt(node, m);
    return found === undefined || typeof found === "string" ? found : rewrite(node, found, m, names);
  },
};

function rewrite(node: Call, found: Attention, m: Matcher, names: FreshNames): Answer {
  const { scores, terms, guarded } = found;
  const { dtype, shape: queryShape } = m.value(scores.query).type;
  const keys = scores.keys, values: Heads = { name: found.values, form: "heads first" };
  const keyShape = byTokens(keys, m), valueShape = byTokens(values, m);
  if (queryShape?.length !== 4 || keyShape?.length !== 4 || valueShape?.length !== 4) {
    return "queries, keys and values are not all [batch, heads, sequence, dim]";
  }
  const [batch, heads, sequence, size] = queryShape as [Dim, Dim, Dim, Dim], total = keyShape[1]!;
  const valueSize = valueShape[3]!;
  if (typeof heads !== "number" || typeof size !== "number" || typeof valueSize !== "number") {
    return "the number of heads, or their size, is not known";
  }
  if (!isFused(dtype)) return `${dtype} is not rewritten, only f32 and f16`;
  const fits = [keyShape, valueShape].every((s) =>
    m.sameDim(s[0], batch) && m.sameDim(s[1], total) && m.sameDim(s[2], heads)
  );
  if (!fits || keyShape[3] !== size) return "queries, keys and values are of different sizes, or heads share keys";
  if (scores.softcap !== 0) return "scores have a soft cap, which ONNX Runtime's op does not know";
  if (!(scores.scale > 0)) return `scores are scaled by ${scores.scale}`;
  const sizes = { batch, heads, sequence, total };
  const mask = terms.length === 0 ? undefined : shapeOfMask(terms, m, sizes);
  if (terms.length > 0 && !mask) return "the mask is not [batch or 1, heads or 1, sequence or 1, keys]";
  const problem = termsProblem(terms, dtype) ??
    (guarded && mask && mask[1] !== 1 ? "rows that see nothing are set to 0, and the mask differs by head" : undefined);
  if (problem !== undefined) return problem;
  const seen = found.inner.find((name) =>
    m.isResult(name) || !m.readers(name).every((r) => r === node || r.outputs.some((o) => found.inner.includes(o)))
  );
  if (seen !== undefined) return `"${seen}", inside of the attention, is read elsewhere`;
  const merged = mergedResult(node, m);
  if (!merged) return "the heads are not merged behind the attention";

  // From here on nothing may be refused: what is emitted is shared with other layers.
  const emit = new Emit(names, node);
  const bias = mask && wholeMask(terms, emit, { m, dtype, mask, sizes });
  const type = { dtype, shape: [batch, sequence, heads * valueSize] } as const;
  const isWhole = merged.width !== undefined;
  const attended = isWhole && !(guarded && bias) ? merged.width! : names.of(`${node.name}.attention`);
  emit.append({
    kind: "call_function",
    domain: "com.microsoft",
    op: "MultiHeadAttention",
    inputs: [
      mergeHeads({ name: scores.query, form: "heads first" }, m, emit),
      ...keysAndValues(keys, values, m, emit),
      ...(bias ? ["", "", bias.name] : []),
    ],
    outputs: [attended],
    attributes: { num_heads: int(heads), scale: float(scores.scale) },
  }, true);
  emit.values.push({ name: attended, type });
  let y = attended;
  if (guarded && bias) {
    const see = emit.shared(`rows ${bias.name}`, () => {
      const rows = rowsThatSee(bias.name, -Infinity, emit, { m, dtype, shape: bias.shape });
      const shape = [bias.shape[0], sequence, 1];
      return emit.call({ op: "Reshape", inputs: [rows, emit.sizes([0, -1, 1])], type: { dtype: "bool", shape } });
    });
    const inputs = [see, y, emit.scalar(0, dtype)];
    y = emit.call({ op: "Where", inputs, type, ...(isWhole ? { output: merged.width! } : {}) });
  }
  if (!isWhole) splitAgain(y, merged, { heads, m, emit });
  return emit.replacement(merged.gone);
}

/** The shape of heads as `[batch, tokens, heads, dim]`. */
function byTokens({ name, form }: Heads, m: Matcher): readonly Dim[] | undefined {
  const shape = m.shape(name);
  return form === "tokens first" || shape?.length !== 4 ? shape : HEADS_FIRST.map((d) => shape[d]!);
}

/** Why a sum cannot say what the terms of a mask do; undefined where it can. */
function termsProblem(terms: readonly MaskTerm[], dtype: FusedDType): string | undefined {
  for (const term of terms) {
    if (term.kind === "where" && term.hidden > HIDES) {
      return `scores are replaced by ${term.hidden}, in which they would not be lost if it were added`;
    }
    // -65504 and a score are rounded, where this is all that a row sees.
    if (term.kind === "add" && dtype === "f16") return "a mask is added to scores of 16 bits, which round it";
  }
  return undefined;
}

/**
 * Keys and values for the op: with their heads merged where that moves nothing, else both by heads. Those must be of one size: "'key' and
 * 'value' shall have same shape".
 */
function keysAndValues(keys: Heads, values: Heads, m: Matcher, emit: Emit): string[] {
  const both = [keys, values], [size, valueSize] = both.map((x) => m.shape(x.name)![3]);
  if (size !== valueSize || both.every((x) => isSplitWidth(x, m))) return both.map((x) => mergeHeads(x, m, emit));
  return both.map((x) => (x.form === "heads first" ? x.name : turnHeads(x.name, m, emit)));
}

/** The mask with a row for every token, as the op takes it. */
function wholeMask(
  terms: readonly MaskTerm[],
  emit: Emit,
  { m, dtype, mask, sizes }: {
    readonly m: Matcher;
    readonly dtype: FusedDType;
    readonly mask: MaskShape;
    readonly sizes: ScoreSizes;
  },
): { readonly name: string; readonly shape: MaskShape } {
  const name = oneMask(terms, emit, { m, dtype, shape: mask });
  if (m.sameDim(mask[2], sizes.sequence)) return { name, shape: mask };
  const shape: MaskShape = [mask[0], mask[1], sizes.sequence, mask[3]];
  const whole = emit.shared(
    `whole ${name} ${sizes.sequence}`,
    () => emit.call({ op: "Expand", inputs: [name, emit.sizes(shape)], type: { dtype, shape } }),
  );
  return { name: whole, shape };
}

/** What becomes of the attention's result, `[batch, heads, sequence, dim]`. */
interface Merged {
  /** The value that it is as `[batch, sequence, heads·dim]`, where there is one. */
  readonly width?: string;
  /** Else the value that its transpose is, and the dims of `[batch, sequence, heads, dim]` in its order. */
  readonly turned?: { readonly name: string; readonly perm: readonly number[] };
  /** Nodes that are no longer needed. */
  readonly gone: readonly string[];
}

function mergedResult(node: Call, m: Matcher): Merged | undefined {
  const transpose = m.onlyReader(node.outputs[0]!);
  const perm = transpose?.op === "Transpose" ? intsOf(transpose.attributes, "perm") : undefined;
  if (!transpose || perm?.length !== 4) return undefined;
  const turned = transpose.outputs[0]!,
    [batch, sequence, heads, size] = HEADS_FIRST.map((d) => m.shape(node.outputs[0]!)?.[d]);
  const reshape = perm.every((d, i) => d === HEADS_FIRST[i]) ? m.onlyReader(turned) : undefined;
  const to = reshape?.op === "Reshape" ? m.shape(reshape.outputs[0]!) : undefined;
  const isWidth = to?.length === 3 && m.sameDim(to[0], batch) && m.sameDim(to[1], sequence) &&
    to[2] === (heads as number) * (size as number);
  return reshape && isWidth
    ? { width: reshape.outputs[0]!, gone: [transpose.name, reshape.name] }
    : { turned: { name: turned, perm: perm.map((d) => HEADS_FIRST[d]!) }, gone: [transpose.name] };
}

/** The attention's result with its heads in a dim of their own, in the order in which the graph goes on with it. */
function splitAgain(
  y: string,
  { turned }: Merged,
  { heads, m, emit }: { readonly heads: number; readonly m: Matcher; readonly emit: Emit },
): void {
  const { name, perm } = turned!, type = m.value(name).type;
  const order = perm.map((_, i) => type.shape![perm.indexOf(i)]!);
  const isPlain = perm.every((d, i) => d === i);
  const split = emit.call({
    op: "Reshape",
    inputs: [y, emit.sizes([0, 0, heads, -1])],
    type: { dtype: type.dtype, shape: order },
    ...(isPlain ? { output: name } : {}),
  });
  if (isPlain) return;
  emit.call({ op: "Transpose", inputs: [split], attributes: { perm: intsAttribute(perm) }, type, output: name });
}
