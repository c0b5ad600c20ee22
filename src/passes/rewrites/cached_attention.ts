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
 * attention_pattern.ts says what else may stand there: heads that share keys, a soft cap, masks of several terms, ONNX's Attention.
 *
 * Why it is exact for every input: the mask is added as it is, whatever its padding or windows, and is proved to hide what comes
 * after a token (causal_mask.ts), as the op does by itself. Rows from which the mask hides everything (padding tokens) get
 * what the graph gave them (blind_rows.ts).
 */
import { type Dim, dimAdd, dimSub } from "../../core/dim.ts";
import { float, int, ints } from "../../graph/attributes.ts";
import type { Call, Node } from "../../graph/graph.ts";
import { type Attention, attentionAt } from "./attention_pattern.ts";
import { blindRows, blindRowsProblem } from "./blind_rows.ts";
import { proveCausal } from "./causal_mask.ts";
import { Emit } from "./emit.ts";
import { cacheOf } from "./growing_cache.ts";
import { oneMask, shapeOfMask } from "./mask_terms.ts";
import { isFused, type Matcher } from "./matcher.ts";
import { HEADS_FIRST, mergeHeads } from "./merge_heads.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

export const CACHED_ATTENTION: Rewrite = {
  name: "cached_attention",
  summary: "attention over a growing cache becomes one op that updates the cache in place",
  at: (node, m, names) => {
    const found = attentionAt(node, m);
    return found === undefined || typeof found === "string" ? found : rewrite(node, found, { m, names });
  },
};

interface Surroundings {
  readonly m: Matcher;
  readonly names: FreshNames;
}

function rewrite(node: Call, { scores, terms, guarded, ...found }: Attention, { m, names }: Surroundings): Answer {
  const keys = cacheOf(scores.keys.name, m), values = cacheOf(found.values, m);
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
  if (!isFused(dtype)) return `${dtype} is not rewritten, only f32 and f16`;
  if (size % 8 !== 0) return `a head has ${size} elements: ONNX Runtime's op takes multiples of 8`;
  if (keyShape.some((d, i) => !m.sameDim(d, valueShape[i]))) return "keys and values have different shapes";
  if (!m.sameDim(keyShape[2], sequence) || !m.sameDim(keyShape[0], batch) || keyShape[3] !== size || heads % kv !== 0) {
    return "queries and keys are of different sizes";
  }
  const total = dimAdd(past, sequence), sizes = { batch, heads, past, sequence, total };
  const maskShape = shapeOfMask(terms, m, sizes);
  if (!maskShape || !m.sameDim(maskShape[2], sequence)) {
    return "the mask is not [batch or 1, heads or 1, sequence, past + sequence]";
  }
  const proof = proveCausal(terms, m, sizes);
  if (typeof proof === "string") return proof;
  const blind = { guarded, hidden: proof.hidden, dtype, shape: maskShape };
  const problem = blindRowsProblem(blind);
  if (problem !== undefined) return problem;
  const made = [...keys.nodes, ...values.nodes], interior = [...found.inner, ...keys.inner, ...values.inner];
  const isWithin = (r: Node) =>
    r === node || made.includes(r as Call) || r.outputs.some((o) => o !== "" && interior.includes(o));
  const seen = interior.find((name) => m.isResult(name) || !m.readers(name).every(isWithin));
  if (seen !== undefined) return `"${seen}", inside of the attention, is read elsewhere`;
  for (const { result } of [keys, values]) {
    if (m.readers(result).some((r) => r.kind !== "output" && !isWithin(r))) {
      return `the cache "${result}" is read elsewhere too`;
    }
  }
  const width = heads * size, merging = mergingOf(node, m, [batch, width]);

  // From here on nothing may be refused: what is emitted is shared with other layers.
  const emit = new Emit(names, node);
  const mask = oneMask(terms, emit, { m, dtype, shape: maskShape });
  const rows = blindRows(mask, emit, { ...blind, m, sizes });
  const type = { dtype, shape: [batch, sequence, width] } as const;
  const [pastKey, pastValue] = [keys.past, values.past];
  const { lengths, count } = keyCounts(emit, { batch, total });
  const byWidth = (name: string) => mergeHeads({ name, form: "heads first" }, m, emit);
  const inputs = [
    byWidth(scores.query),
    byWidth(keys.step),
    byWidth(values.step),
    pastKey,
    pastValue,
    lengths,
    count,
    rows.mask,
    ...(rows.kind === "mean" ? [rows.keep, rows.later] : []),
  ];
  const output = merging.merged ?? names.of(`${node.name}.heads`);
  const raw = rows.kind === "fill" ? names.of(`${node.name}.attention`) : output;
  emit.append({
    kind: "call_function",
    domain: "shardwise",
    op: "CachedAttention",
    inputs,
    outputs: [raw, keys.result, values.result],
    attributes: {
      num_heads: int(heads),
      kv_num_heads: int(kv),
      scale: float(scores.scale),
      ...(scores.softcap ? { softcap: float(scores.softcap) } : {}),
    },
  }, true);
  emit.values.push({ name: raw, type });
  for (const { result } of [keys, values]) emit.values.push(m.value(result));
  if (rows.kind === "fill") emit.call({ op: "Where", inputs: [rows.see, raw, rows.value], type, output });
  if (merging.merged === undefined) {
    const turned = { dtype, shape: [batch, sequence, heads, size] };
    const inputs = [output, emit.sizes([0, 0, heads, -1])];
    const tokensFirst = emit.call({
      op: "Reshape",
      inputs,
      type: turned,
      ...(merging.turned === undefined ? {} : { output: merging.turned }),
    });
    if (merging.turned === undefined) {
      const attributes = { perm: ints(HEADS_FIRST) };
      const { type } = m.value(node.outputs[0]!);
      emit.call({ op: "Transpose", inputs: [tokensFirst], attributes, type, output: node.outputs[0]! });
    }
  }
  return emit.replacement([...made, ...merging.nodes].map((n) => n.name));
}

/** What reads the heads that attention gives. */
interface Merging {
  /** The value `[batch, sequence, width]` that they are merged to. */
  readonly merged?: string;
  /** Or the value `[batch, sequence, heads, dim]` that they are turned to, which is read otherwise: as rows, say. */
  readonly turned?: string;
  /** The nodes that do so. */
  readonly nodes: readonly Call[];
}

function mergingOf(node: Call, m: Matcher, [batch, width]: readonly [Dim, number]): Merging {
  const transpose = m.onlyReader(node.outputs[0]!), turned = transpose?.outputs[0];
  if (!transpose || turned === undefined || m.transposed(turned, HEADS_FIRST) !== node.outputs[0]) return { nodes: [] };
  const reshape = m.onlyReader(turned), merged = reshape?.op === "Reshape" ? reshape.outputs[0] : undefined;
  const shape = merged === undefined ? undefined : m.shape(merged);
  if (!reshape || merged === undefined || shape?.length !== 3 || !m.sameDim(shape[0], batch) || shape[2] !== width) {
    return { turned, nodes: [transpose] };
  }
  return { merged, nodes: [transpose, reshape] };
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
