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
import { type Dim, dimAdd, dimEquals, dimSub } from "../../core/dim.ts";
import { float, int, ints as intsAttribute } from "../../graph/attributes.ts";
import type { Call, Node } from "../../graph/graph.ts";
import { type Attention, attentionAt, cacheOf } from "./attention_pattern.ts";
import type { Shape } from "../../graph/types.ts";
import { blindRows, blindRowsProblem, type MaskShape } from "./blind_rows.ts";
import { type MaskTerm, proveCausal } from "./causal_mask.ts";
import { Emit } from "./emit.ts";
import { type FusedDType, isFused, type Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

const HEADS_FIRST = [0, 2, 1, 3];

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
  const keys = cacheOf(scores.keys, m), values = cacheOf(found.values, m);
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
  if (!maskShape) return "the mask is not [batch or 1, heads or 1, sequence, past + sequence]";
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
  const inputs = [
    merge(scores.query, m, emit),
    merge(keys.step, m, emit),
    merge(values.step, m, emit),
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
      const attributes = { perm: intsAttribute(HEADS_FIRST) };
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
  const rotary = m.call(name, "com.microsoft.RotaryEmbedding", "RotaryEmbedding");
  if (rotary && m.shape(rotary.inputs[0]!)?.length === 4) {
    const [x, ...tables] = rotary.inputs;
    const { op, domain } = rotary;
    // Without a dim of its own the number of heads must be told.
    const attributes = domain === "" ? { ...rotary.attributes, num_heads: int(heads) } : rotary.attributes;
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

/** The shape of all terms of a mask together, with four dims; undefined where it is none of scores. */
function shapeOfMask(
  terms: readonly MaskTerm[],
  m: Matcher,
  { batch, heads, sequence, total }: Readonly<Record<"batch" | "heads" | "sequence" | "total", Dim>>,
): MaskShape | undefined {
  let sum: Shape | undefined = [];
  for (const term of terms) {
    const own = m.shape(term.kind === "add" ? term.name : term.condition);
    sum = own && sum && sumShape(sum, own);
  }
  if (!sum || sum.length > 4) return undefined;
  const full = [...Array<Dim>(4 - sum.length).fill(1), ...sum] as [Dim, Dim, Dim, Dim];
  const fits = (full[0] === 1 || m.sameDim(full[0], batch)) && (full[1] === 1 || m.sameDim(full[1], heads)) &&
    m.sameDim(full[2], sequence) && m.sameDim(full[3], total);
  return fits ? full : undefined;
}

/** The terms of a mask as one tensor of `shape`. */
function oneMask(
  terms: readonly MaskTerm[],
  emit: Emit,
  { m, dtype, shape: full }: { readonly m: Matcher; readonly dtype: FusedDType; readonly shape: MaskShape },
): string {
  let mask: { readonly name: string; readonly shape: Shape } | undefined;
  for (const term of terms) {
    const shape = m.shape(term.kind === "add" ? term.name : term.condition)!;
    const name = term.kind === "add" && term.scale === 1 ? term.name : emit.shared(
      `mask ${Object.values(term).join()} ${dtype}`,
      () => emitTerm(term, emit, { dtype, shape }),
    );
    const before = mask;
    mask = before === undefined ? { name, shape } : {
      name: emit.shared(
        `sum ${before.name} ${name}`,
        () =>
          emit.call({ op: "Add", inputs: [before.name, name], type: { dtype, shape: sumShape(before.shape, shape)! } }),
      ),
      shape: sumShape(before.shape, shape)!,
    };
  }
  const { name, shape } = mask!;
  if (shape.length === 4) return name;
  return emit.shared(`four dims ${name}`, () => {
    const target = emit.sizes([full[0], full[1], -1, full[3]]);
    return emit.call({ op: "Reshape", inputs: [name, target], type: { dtype, shape: full } });
  });
}

/** A term that is no tensor of the graph as it is. */
function emitTerm(
  term: MaskTerm,
  emit: Emit,
  { dtype, shape }: { readonly dtype: FusedDType; readonly shape: Shape },
): string {
  const type = { dtype, shape };
  if (term.kind === "add") {
    return emit.call({ op: "Mul", inputs: [term.name, emit.scalar(term.scale, dtype)], type });
  }
  const numbers = [emit.scalar(0, dtype), emit.scalar(term.hidden, dtype)];
  return emit.call({ op: "Where", inputs: [term.condition, ...(term.shows ? numbers : numbers.reverse())], type });
}

/** The shape of a sum, where the operands' dims are known to be equal or one of them is 1. */
function sumShape(a: Shape, b: Shape): Shape | undefined {
  const ndim = Math.max(a.length, b.length), out: Dim[] = [];
  for (let i = 0; i < ndim; i++) {
    const x = a[i - ndim + a.length] ?? 1, y = b[i - ndim + b.length] ?? 1;
    if (x !== 1 && y !== 1 && !dimEquals(x, y)) return undefined;
    out.push(x === 1 ? y : x);
  }
  return out;
}
