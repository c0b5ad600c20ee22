/**
 * An exporter's attention over a growing cache becomes one CachedAttention, which the runtime updates in place.
 *
 * ```text
 * %keys = Concat(%past_key, %k) over dim 2     %values = Concat(%past_value, %v) over dim 2
 * %s = Softmax(MatMul(%q · a, Transpose(repeat(%keys)) · b) + %mask)
 * %y = Reshape(Transpose(MatMul(Where(IsNaN(%s), 0, %s), repeat(%values))))     -> [batch,sequence,heads·dim]
 *   ->
 * %y, %keys, %values = CachedAttention(%q, %k, %v, %past_key, %past_value, …, %mask) {scale = a·b}
 * ```
 * `repeat` is Unsqueeze, Expand and Reshape for heads that share keys; a soft cap (Div, Tanh, Mul) may stand before the mask.
 *
 * Why it is exact for every input: the mask is added as it is, whatever its padding or windows, and is proved to hide what comes
 * after a token (causal_mask.ts), as the op does by itself. Rows from which the mask hides everything (padding tokens) are
 * 0 by the guard of the pattern, and are set to 0 here. Without a guard they would be the mean of all values, which the op does not
 * give, so such graphs are left alone.
 */
import { type Dim, dimAdd, dimMul, dimSub } from "../../core/dim.ts";
import { float, int, intOf, ints as intsAttribute } from "../../graph/attributes.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { proveCausal } from "./causal_mask.ts";
import { Emit } from "./emit.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

const HEADS_FIRST = [0, 2, 1, 3];

export const CACHED_ATTENTION: Rewrite = {
  name: "cached_attention",
  summary: "attention over a growing cache becomes one op that updates the cache in place",
  at: (node, m, names) => {
    const weights = opKey(node) === "MatMul" ? attentionWeights(node.inputs[0]!, m) : undefined;
    return weights ? rewrite(node, weights, { m, names }) : undefined;
  },
};

/** The softmax that the weights are, and whether rows of NaN are set to 0. */
interface Weights {
  readonly softmax: Call;
  readonly guarded: boolean;
  /** Values between the softmax and the weights. */
  readonly inner: readonly string[];
}

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

interface Scores {
  readonly query: string;
  /** `[batch, heads, keys, dim]`. */
  readonly keys: string;
  readonly scale: number;
  readonly softcap: number;
  readonly inner: readonly string[];
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
  return { query: q!.name, keys: keys.name, scale: scale * keys.scale, softcap, inner };
}

/** What `[…, dim, keys]` is the transpose of; torch.export's form folds batch and heads before. */
function turnedKeys(
  name: string,
  m: Matcher,
): { readonly name: string; readonly inner: readonly string[] } | undefined {
  const plain = m.transposed(name, [0, 1, 3, 2]);
  if (plain !== undefined) return { name: plain, inner: [name] };
  const unfolded = m.call(name, "Reshape"), turned = unfolded?.inputs[0] ?? "";
  const folded = unfolded && m.transposed(turned, [0, 2, 1]), fold = folded && m.call(folded, "Reshape");
  if (!fold) return undefined;
  const keys = fold.inputs[0]!, from = m.shape(keys), between = m.shape(folded), to = m.shape(name);
  const keeps = from?.length === 4 && between?.length === 3 && to?.length === 4 && m.sameDim(between[1], from[2]) &&
    m.sameDim(between[2], from[3]) && [0, 1, 3, 2].every((d, i) => m.sameDim(to[i], from[d]));
  return keeps ? { name: keys, inner: [name, turned, folded] } : undefined;
}

function unscaled(name: string, m: Matcher): { name: string; scale: number; inner: string[] } {
  const found = m.withScalar(name, "Mul", "Div");
  if (!found) return { name, scale: 1, inner: [] };
  return { name: found.operand, scale: found.call.op === "Mul" ? found.scalar : 1 / found.scalar, inner: [name] };
}

interface Cache {
  readonly past: string;
  /** What is added, `[batch, kv heads, sequence, dim]`. */
  readonly step: string;
  readonly concat: Call;
  readonly inner: readonly string[];
}

/** The cache behind `name`, whose heads may be repeated; or why it is none. */
function cacheOf(name: string, m: Matcher): Cache | string {
  const inner: string[] = [];
  let at = name;
  const reshape = m.call(at, "Reshape"), expand = reshape && m.call(reshape.inputs[0]!, "Expand");
  const opened = expand && m.call(expand.inputs[0]!, "Unsqueeze");
  if (reshape && expand && opened) {
    const from = m.shape(opened.inputs[0]!), wide = m.shape(expand.outputs[0]!), to = m.shape(at);
    const repeats = from?.length === 4 && wide?.length === 5 && to?.length === 4 &&
      m.shape(opened.outputs[0]!)?.[2] === 1 && m.sameDim(wide[1], from[1]) && m.sameDim(wide[3], from[2]) &&
      typeof wide[2] === "number" && m.sameDim(to[1], dimMul(wide[1]!, wide[2])) && m.sameDim(to[2], from[2]);
    if (!repeats) return "keys or values are reshaped in a way that does not repeat heads";
    inner.push(at, expand.outputs[0]!, opened.outputs[0]!);
    at = opened.inputs[0]!;
  }
  const concat = m.call(at, "Concat");
  if (!concat || concat.inputs.length !== 2 || m.concatDim(concat) !== 2 || m.shape(at)?.length !== 4) {
    return "there is no cache: keys and values are not the Concat of an input and this step's";
  }
  const [past = "", step = ""] = concat.inputs;
  if (!m.isPlaceholder(past)) return "what comes before this step's keys or values is no input of the model";
  if (!m.isResult(at)) return "the cache that grows is no result of the model";
  return { past, step, concat, inner };
}

interface Surroundings {
  readonly m: Matcher;
  readonly names: FreshNames;
}

function rewrite(node: Call, weights: Weights, { m, names }: Surroundings): Answer {
  const { softmax } = weights;
  const ndim = m.shape(softmax.outputs[0]!)?.length;
  const axis = intOf(softmax.attributes, "axis") ?? (m.opset < 13 ? 1 : -1);
  if (ndim !== 4 || (axis !== -1 && axis !== 3)) return "scores are not [batch, heads, sequence, keys]";
  const sum = m.call(softmax.inputs[0]!, "Add");
  const [first, second] = sum?.inputs ?? [];
  const left = first && scoresOf(first, m), right = second && scoresOf(second, m);
  const scores = left || right, mask = left ? second : first;
  if (!sum || !scores || !mask) return "scores are not a scaled product of queries and keys, with a mask added";
  const keys = cacheOf(scores.keys, m), values = cacheOf(node.inputs[1]!, m);
  if (typeof keys === "string") return keys;
  if (typeof values === "string") return values;

  const { dtype, shape: queryShape } = m.value(scores.query).type;
  const keyShape = m.shape(keys.step), valueShape = m.shape(values.step), pastShape = m.shape(keys.past);
  if (queryShape?.length !== 4 || keyShape?.length !== 4 || !valueShape || pastShape?.length !== 4) {
    return "queries, keys and values are not all [batch, heads, sequence, dim]";
  }
  const [batch, heads, sequence, size] = queryShape as [Dim, Dim, Dim, Dim];
  const kv = keyShape[1], past = pastShape[2]!;
  if (typeof heads !== "number" || typeof kv !== "number" || typeof size !== "number") {
    return "the number of heads, or their size, is not known";
  }
  if (dtype !== "f32") return `${dtype} is not rewritten, only f32`;
  if (size % 8 !== 0) return `a head has ${size} elements: ONNX Runtime's op takes multiples of 8`;
  if (keyShape.some((d, i) => !m.sameDim(d, valueShape[i]))) return "keys and values have different shapes";
  if (!m.sameDim(keyShape[2], sequence) || !m.sameDim(keyShape[0], batch) || keyShape[3] !== size || heads % kv !== 0) {
    return "queries and keys are of different sizes";
  }
  const total = dimAdd(past, sequence), maskShape = m.shape(mask);
  const fits = maskShape?.length === 4 && (maskShape[0] === 1 || m.sameDim(maskShape[0], batch)) &&
    (maskShape[1] === 1 || maskShape[1] === heads) && m.sameDim(maskShape[2], sequence) &&
    m.sameDim(maskShape[3], total);
  if (!fits) return "the mask is not [batch or 1, heads or 1, sequence, past + sequence]";
  const proof = proveCausal(mask, m, { past, sequence });
  if (typeof proof === "string") return proof;
  if (!weights.guarded) return "rows that see nothing are not guarded: they would be the mean of all values";
  if (proof.hidden !== -Infinity || maskShape![1] !== 1) {
    return "the guard never acts: what is hidden is not -infinity, or differs by head";
  }
  const interior = [
    ...weights.inner,
    ...scores.inner,
    ...keys.inner,
    ...values.inner,
    softmax.inputs[0]!,
    softmax.outputs[0]!,
  ];
  const isAlone = (name: string) =>
    !m.isResult(name) && m.readers(name).every((r) => r === node || r.outputs.some((o) => interior.includes(o)));
  const seen = interior.find((name) => !isAlone(name));
  if (seen !== undefined) return `"${seen}", inside of the attention, is read elsewhere`;
  for (const { concat } of [keys, values]) {
    const others = m.readers(concat.outputs[0]!).filter((r) =>
      r.kind !== "output" && r !== node && !r.outputs.some((o) => interior.includes(o))
    );
    if (others.length > 0) return `the cache "${concat.outputs[0]}" is read elsewhere too`;
  }
  const transpose = m.onlyReader(node.outputs[0]!);
  const reshape = transpose && m.transposed(transpose.outputs[0]!, HEADS_FIRST) === node.outputs[0]
    ? m.onlyReader(transpose.outputs[0]!)
    : undefined;
  const merged = reshape?.op === "Reshape" ? m.shape(reshape.outputs[0]!) : undefined;
  const width = heads * size;
  if (!transpose || !reshape || merged?.length !== 3 || !m.sameDim(merged[0], batch) || merged[2] !== width) {
    return "the heads are not merged to [batch, sequence, width]";
  }

  const emit = new Emit(names, node);
  const type = { dtype, shape: [batch, sequence, width] } as const;
  const [pastKey, pastValue] = [keys.past, values.past];
  const [presentKey, presentValue] = [keys.concat.outputs[0]!, values.concat.outputs[0]!];
  const { lengths, count } = keyCounts(emit, { batch, total });
  const inputs = [
    merge(scores.query, m, emit),
    merge(keys.step, m, emit),
    merge(values.step, m, emit),
    pastKey,
    pastValue,
    lengths,
    count,
    mask,
  ];
  const raw = names.of(`${node.name}.attention`);
  emit.append({
    kind: "call_function",
    domain: "shardwise",
    op: "CachedAttention",
    inputs,
    outputs: [raw, presentKey, presentValue],
    attributes: {
      num_heads: int(heads),
      kv_num_heads: int(kv),
      scale: float(scores.scale),
      ...(scores.softcap ? { softcap: float(scores.softcap) } : {}),
    },
  }, true);
  emit.values.push({ name: raw, type });
  for (const name of [presentKey, presentValue]) emit.values.push(m.value(name));
  emit.call({
    op: "Where",
    inputs: [rowsThatSee(mask, emit, { m, batch: maskShape![0]!, sequence }), raw, emit.scalar(0)],
    type,
    output: reshape.outputs[0]!,
  });
  return emit.replacement([keys.concat.name, values.concat.name, transpose.name, reshape.name]);
}

/** `[batch, heads, sequence, dim]` as `[batch, sequence, heads·dim]`, by the shortest way from what made it. */
function merge(name: string, m: Matcher, emit: Emit): string {
  const { dtype, shape } = m.value(name).type;
  const [batch, heads, sequence, size] = shape as [Dim, number, Dim, number];
  const type = { dtype, shape: [batch, sequence, heads * size] };
  const split = m.transposed(name, HEADS_FIRST);
  if (split !== undefined) {
    const from = m.call(split, "Reshape")?.inputs[0], before = from === undefined ? undefined : m.shape(from);
    if (before?.length === 3 && before.every((d, i) => m.sameDim(d, type.shape[i]))) return from!;
    return emit.call({ op: "Reshape", inputs: [split, emit.sizes([0, 0, -1])], type });
  }
  const rotary = m.call(name, "com.microsoft.RotaryEmbedding");
  if (rotary && m.shape(rotary.inputs[0]!)?.length === 4) {
    const [x, ...tables] = rotary.inputs;
    const { op, domain, attributes } = rotary;
    return emit.call({ op, domain, inputs: [merge(x!, m, emit), ...tables], attributes, type });
  }
  const turned = emit.call({
    op: "Transpose",
    inputs: [name],
    attributes: { perm: intsAttribute(HEADS_FIRST) },
    type: { dtype, shape: [batch, sequence, heads, size] },
  });
  return emit.call({ op: "Reshape", inputs: [turned, emit.sizes([0, 0, -1])], type });
}

/** How many keys there are, in the form that GroupQueryAttention takes: one less for each sequence, and all. */
function keyCounts(emit: Emit, { batch, total }: { batch: Dim; total: Dim }): { lengths: string; count: string } {
  const i32 = (from: string, shape: readonly Dim[]) =>
    emit.call({ op: "Cast", inputs: [from], attributes: { to: int(6) }, type: { dtype: "i32", shape } });
  const count = emit.shared(`count ${total}`, () => i32(emit.sizes([total], true), []));
  const lengths = emit.shared(`lengths ${batch} ${total}`, () => {
    const one = i32(emit.sizes([dimSub(total, 1)]), [1]);
    return emit.call({ op: "Expand", inputs: [one, emit.sizes([batch])], type: { dtype: "i32", shape: [batch] } });
  });
  return { lengths, count };
}

/** Which rows of the mask show a key: `[batch or 1, sequence, 1]`. */
function rowsThatSee(
  mask: string,
  emit: Emit,
  { m, batch, sequence }: { readonly m: Matcher; readonly batch: Dim; readonly sequence: Dim },
): string {
  return emit.shared(`rows ${mask}`, () => {
    const type = { dtype: "f32", shape: [batch, 1, sequence, 1] } as const;
    const highest = m.opset < 18
      ? emit.call({ op: "ReduceMax", inputs: [mask], attributes: { axes: intsAttribute([-1]) }, type })
      : emit.call({ op: "ReduceMax", inputs: [mask, emit.sizes([-1])], type });
    const seeing = emit.call({
      op: "Greater",
      inputs: [highest, emit.scalar(-Infinity)],
      type: { dtype: "bool", shape: type.shape },
    });
    return emit.call({
      op: "Reshape",
      inputs: [seeing, emit.sizes([0, -1, 1])],
      type: { dtype: "bool", shape: [batch, sequence, 1] },
    });
  });
}
