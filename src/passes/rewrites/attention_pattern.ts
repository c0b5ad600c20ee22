/**
 * Finding attention in an exporter's graph: weights, scores and the terms of the mask.
 *
 * ```text
 * y        MatMul(weights, values), or Attention(%q, keys, values, %mask) of opset 23
 * weights  Softmax(masked), or Where(IsNaN(Softmax(masked)), 0, Softmax(masked))
 * masked   scores | masked · number | Add(masked, %mask) | Where(%condition, masked, number) | Where(%condition, number, masked)
 * scores   cap(scale · MatMul(%q · a, Transpose(%keys) · b))
 * ```
 * What keys and values are is for the rules to say: a growing cache (growing_cache.ts), or anything.
 */
import { floatOf, intOf } from "../../graph/attributes.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import type { MaskTerm } from "./causal_mask.ts";
import type { Matcher } from "./matcher.ts";
import type { Heads } from "./merge_heads.ts";

/** Attention as it was found. */
export interface Attention {
  readonly scores: Scores;
  /** How scores are masked, in order. */
  readonly terms: readonly MaskTerm[];
  /** Whether rows are 0 where -∞ hides every key. */
  readonly guarded: boolean;
  /** `[batch, heads, keys, dim]`. */
  readonly values: string;
  /** Values that nothing else may read. */
  readonly inner: readonly string[];
}

/** The attention that ends in `node`, or why it is none that is known; undefined where it is not even like one. */
export function attentionAt(node: Call, m: Matcher): Attention | string | undefined {
  if (opKey(node) === "Attention") return attentionOp(node, m);
  return opKey(node) === "MatMul" ? writtenOut(node, m) : undefined;
}

/** ai.onnx's Attention, as torch.export writes it since opset 23: the cache is joined before it, and a mask says all. */
function attentionOp(node: Call, m: Matcher): Attention | string {
  const [query = "", keys = "", values = "", mask = "", ...more] = node.inputs, { attributes } = node;
  const size = m.shape(query)?.[3];
  if (more.some((name) => name !== "") || node.outputs.slice(1).some((name) => name !== "")) {
    return "the op itself has the cache";
  }
  if (m.shape(query)?.length !== 4 || typeof size !== "number") return "heads are not in a dim of their own";
  if (intOf(attributes, "is_causal") || floatOf(attributes, "softcap")) {
    return "the op masks by itself, or has a soft cap";
  }
  const scale = floatOf(attributes, "scale") ?? 1 / Math.sqrt(size);
  const scores: Scores = { query, keys: { name: keys, form: "heads first" }, scale, softcap: 0, inner: [] };
  return { scores, terms: maskOfOp(mask, m), guarded: true, values, inner: [] };
}

function maskOfOp(mask: string, m: Matcher): MaskTerm[] {
  if (mask === "") return [];
  const isCondition = m.value(mask).type.dtype === "bool";
  return [
    isCondition
      ? { kind: "where", condition: mask, shows: true, hidden: -Infinity }
      : { kind: "add", name: mask, scale: 1 },
  ];
}

function writtenOut(node: Call, m: Matcher): Attention | string | undefined {
  const weights = attentionWeights(node.inputs[0]!, m);
  if (!weights) return undefined;
  const { softmax, guarded } = weights;
  const ndim = m.shape(softmax.outputs[0]!)?.length;
  const axis = intOf(softmax.attributes, "axis") ?? (m.opset < 13 ? 1 : -1);
  if (ndim !== 4 || (axis !== -1 && axis !== 3)) return "scores are not [batch, heads, sequence, keys]";
  const masked = maskedScores(softmax.inputs[0]!, m);
  if (!masked) return "scores are not a scaled product of queries and keys, with masks added";
  const inner = [
    ...weights.inner,
    ...masked.inner,
    ...masked.scores.inner,
    softmax.inputs[0]!,
    softmax.outputs[0]!,
  ];
  return { ...masked, guarded, values: node.inputs[1]!, inner };
}

/** The softmax that the weights are, and whether rows of NaN are set to 0. */
interface Weights {
  readonly softmax: Call;
  readonly guarded: boolean;
  /** Values between the softmax and the weights. */
  readonly inner: readonly string[];
}

/** The weights that `name` is, if they are a softmax. */
function attentionWeights(name: string, m: Matcher): Weights | undefined {
  const where = m.call(name, "Where");
  const isNaN = where && m.call(where.inputs[0]!, "IsNaN");
  if (where && isNaN) {
    const softmax = m.call(where.inputs[2]!, "Softmax");
    const isGuard = softmax && isNaN.inputs[0] === where.inputs[2] && m.scalar(where.inputs[1]!) === 0;
    return isGuard ? { softmax, guarded: true, inner: [isNaN.outputs[0]!, name] } : undefined;
  }
  const softmax = m.call(name, "Softmax");
  return softmax && { softmax, guarded: false, inner: [name] };
}

/** The product of queries and keys. */
export interface Scores {
  readonly query: string;
  readonly keys: Heads;
  readonly scale: number;
  readonly softcap: number;
  readonly inner: readonly string[];
}

/** Scores with what masks them. */
interface MaskedScores {
  readonly scores: Scores;
  /** In the order in which they are applied. */
  readonly terms: readonly MaskTerm[];
  readonly inner: readonly string[];
}

/** The scores behind `name`, and the steps by which they are masked. */
function maskedScores(name: string, m: Matcher): MaskedScores | undefined {
  const scores = scoresOf(name, m);
  if (scores) return { scores, terms: [], inner: [] };
  const scaled = m.withScalar(name, "Mul", "Div");
  if (scaled) {
    const found = maskedScores(scaled.operand, m), by = scaled.call.op === "Mul" ? scaled.scalar : 1 / scaled.scalar;
    return found && found.scores.softcap === 0 && by > 0 ? scaledBy(by, found, scaled.operand) : undefined;
  }
  const call = m.call(name, "Add", "Where");
  if (!call) return undefined;
  const [a = "", b = "", c = ""] = call.inputs;
  const behind = (from: string, term: MaskTerm | undefined): MaskedScores | undefined => {
    const found = term && maskedScores(from, m);
    return found && { scores: found.scores, terms: [...found.terms, term], inner: [...found.inner, from] };
  };
  const added = (mask: string): MaskTerm => ({ kind: "add", name: mask, scale: 1 });
  if (call.op === "Add") return behind(a, added(b)) ?? behind(b, added(a));
  const term = (number: string, shows: boolean): MaskTerm | undefined => {
    const hidden = m.scalar(number);
    return hidden === undefined ? undefined : { kind: "where", condition: a, shows, hidden };
  };
  return behind(b, term(c, true)) ?? behind(c, term(b, false));
}

/** Masked scores, `from`, times a number. */
function scaledBy(by: number, { scores, terms, inner }: MaskedScores, from: string): MaskedScores {
  return {
    scores: { ...scores, scale: scores.scale * by },
    terms: terms.map((t) => t.kind === "add" ? { ...t, scale: t.scale * by } : { ...t, hidden: t.hidden * by }),
    inner: [...inner, from],
  };
}

/** The product of queries and keys, scaled and capped. */
function scoresOf(name: string, m: Matcher): Scores | undefined {
  let at = name, scale = 1, softcap = 0;
  const inner: string[] = [];
  const outer = m.withScalar(at, "Mul"), tanh = outer && m.call(outer.operand, "Tanh");
  if (outer && tanh) {
    const divided = m.withScalar(tanh.inputs[0]!, "Div");
    if (!divided || divided.scalar !== outer.scalar || outer.scalar <= 0) return undefined;
    softcap = outer.scalar;
    inner.push(at, outer.operand, tanh.inputs[0]!);
    at = divided.operand;
  }
  const scaled = m.withScalar(at, "Mul", "Div");
  if (scaled) {
    scale = scaled.call.op === "Mul" ? scaled.scalar : 1 / scaled.scalar;
    inner.push(at);
    at = scaled.operand;
  }
  const product = m.call(at, "MatMul");
  if (!product) return undefined;
  inner.push(at);
  const [q, k] = product.inputs.map((operand) => unscaled(operand!, m));
  scale *= q!.scale * k!.scale;
  const turned = turnedKeys(k!.name, m);
  if (!turned) return undefined;
  const keys = unscaled(turned.name, m);
  // Whether the query is read elsewhere does not matter: it is read as it is.
  inner.push(...k!.inner, ...turned.inner, ...keys.inner);
  return {
    query: q!.name,
    keys: { name: keys.name, form: turned.form },
    scale: scale * keys.scale,
    softcap,
    inner,
  };
}

/** What `[…, dim, keys]` is the transpose of; torch.export's form folds batch and heads before. */
function turnedKeys(name: string, m: Matcher): (Heads & { readonly inner: readonly string[] }) | undefined {
  const plain = m.transposed(name, [0, 1, 3, 2]);
  if (plain !== undefined) return { name: plain, form: "heads first", inner: [name] };
  const split = m.transposed(name, [0, 2, 3, 1]);
  if (split !== undefined) return { name: split, form: "tokens first", inner: [name] };
  const unfolded = m.call(name, "Reshape"), turned = unfolded?.inputs[0] ?? "";
  const folded = unfolded && m.transposed(turned, [0, 2, 1]), fold = folded && m.call(folded, "Reshape");
  if (!fold) return undefined;
  const keys = fold.inputs[0]!, from = m.shape(keys), between = m.shape(folded), to = m.shape(name);
  const keeps = from?.length === 4 && between?.length === 3 && to?.length === 4 && m.sameDim(between[1], from[2]) &&
    m.sameDim(between[2], from[3]) && [0, 1, 3, 2].every((d, i) => m.sameDim(to[i], from[d]));
  return keeps ? { name: keys, form: "heads first", inner: [name, turned, folded] } : undefined;
}

function unscaled(name: string, m: Matcher): { name: string; scale: number; inner: string[] } {
  const found = m.withScalar(name, "Mul", "Div");
  if (!found) return { name, scale: 1, inner: [] };
  return { name: found.operand, scale: found.call.op === "Mul" ? found.scalar : 1 / found.scalar, inner: [name] };
}
