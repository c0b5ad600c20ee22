/** Attention ops on a GPU, and rotary positions. Source: ONNX Attention-23, RotaryEmbedding-23; com.microsoft: ContribOperators.md. */
import { floatOf, intOf, intsOf as intsAttribute } from "../../graph/attributes.ts";
import { input, inputOf, output, stridesOf, unknownForm, whole } from "./access.ts";
import { attend, type Attention, type AttentionSizes, type Mask, scoresOf } from "./attend.ts";
import { matmulSteps } from "./products.ts";
import type { Access, KernelContext, KernelStep, KernelTensor, Lowered, Lowering, MapStep, Operand } from "./kernel.ts";

/** Scratch tensors of a lowering, as they are asked for. */
class Scratch {
  readonly tensors: KernelTensor[] = [];

  take(dtype: KernelTensor["dtype"], shape: readonly number[]): Operand {
    this.tensors.push({ dtype, shape });
    return { of: "scratch", index: this.tensors.length - 1, dtype };
  }
}

/** Which dims a `[batch, heads, length, size]` view has in memory. */
type Form = "heads first" | "heads inside";

/** Strides of `[batch, heads, length, size]` in a tensor that has it, or that has `[batch, length, width]` with the heads in its width. */
function headStrides(form: Form, sizes: { heads: number; length: number; size: number; width?: number }): number[] {
  const { heads, length, size, width = heads * size } = sizes;
  return form === "heads first" ? [heads * length * size, length * size, size, 1] : [length * width, size, width, 1];
}

function copy(
  shape: readonly number[],
  read: Access,
  write: Access,
  expression = "x0",
  more: readonly Access[] = [],
): MapStep {
  return { kind: "map", shape, reads: [read, ...more], write, expression };
}

interface Heads {
  readonly form: Form;
  readonly offset: number;
  readonly heads: number;
  readonly length: number;
  readonly size: number;
  readonly width?: number;
}

/** An input's heads as a contiguous `[batch, heads, length, size]`: itself where it is, else a copy. `bias` is added to each row. */
function headsFirst(
  o: {
    readonly operand: Operand;
    readonly batch: number;
    readonly at: Heads;
    readonly bias?: { operand: Operand; offset: number };
  },
  to: { readonly scratch: Scratch; readonly steps: KernelStep[] },
): Operand {
  const { operand, batch, at, bias } = o;
  if (at.form === "heads first" && !bias && at.offset === 0) return operand;
  const shape = [batch, at.heads, at.length, at.size], copied = to.scratch.take(operand.dtype, shape);
  const read = { operand, offset: at.offset, strides: headStrides(at.form, at) };
  const added = bias ? [{ operand: bias.operand, offset: bias.offset, strides: [0, at.size, 0, 1] }] : [];
  to.steps.push(copy(shape, read, whole(copied, shape), bias ? "x0 + x1" : "x0", added));
  return copied;
}

/** Keys (or values) after those of the past: `[batch, heads, past + length, size]` in `cache`. */
function append(
  cache: Operand,
  past: { readonly operand: Operand; readonly length: number } | undefined,
  now: {
    readonly operand: Operand;
    readonly offset: number;
    readonly strides: readonly number[];
    readonly length: number;
  },
  sizes: { readonly batch: number; readonly heads: number; readonly size: number },
): KernelStep[] {
  const { batch, heads, size } = sizes, before = past?.length ?? 0, total = before + now.length;
  const strides = headStrides("heads first", { heads, length: total, size });
  const steps: KernelStep[] = [];
  if (past && before > 0) {
    const shape = [batch, heads, before, size];
    steps.push(copy(shape, whole(past.operand, shape), { operand: cache, offset: 0, strides }));
  }
  steps.push(copy([batch, heads, now.length, size], now, { operand: cache, offset: before * size, strides }));
  return steps;
}

/** The result in the form that the op gives. */
function resultSteps(
  attention: Omit<Attention, "result" | "scores">,
  to: { readonly operand: Operand; readonly form: Form; readonly scratch: Scratch },
): KernelStep[] {
  const { sizes } = attention, { batch, heads, queries, valueSize } = sizes;
  const scores = to.scratch.take(attention.query.dtype, scoresOf(sizes, attention.query.dtype).shape);
  const shape = [batch, heads, queries, valueSize];
  if (to.form === "heads first") return attend({ ...attention, scores, result: to.operand });
  const result = to.scratch.take(to.operand.dtype, shape);
  const write = {
    operand: to.operand,
    offset: 0,
    strides: headStrides("heads inside", { heads, length: queries, size: valueSize }),
  };
  return [...attend({ ...attention, scores, result }), copy(shape, whole(result, shape), write)];
}

function maskOf(context: KernelContext, index: number): Mask[] {
  const tensor = context.inputs[index];
  if (!tensor) return [];
  const kind = tensor.dtype === "bool" ? "kept" : "added";
  return [{ operand: input(context, index), shape: tensor.shape, kind }];
}

/** ONNX's Attention: q, k and v with heads in a dim or in the width, a cache, a mask, causality. */
function attention(context: KernelContext): Lowered {
  const { attributes } = context, q = inputOf(context, 0), k = inputOf(context, 1), v = inputOf(context, 2);
  if (context.outputs[3]) throw unknownForm(context, "its scores are asked for");
  const form: Form = q.shape.length === 4 ? "heads first" : "heads inside";
  const heads = form === "heads first" ? q.shape[1]! : intOf(attributes, "q_num_heads")!;
  const kvHeads = form === "heads first" ? k.shape[1]! : intOf(attributes, "kv_num_heads")!;
  const width = (t: KernelTensor, n: number) => (form === "heads first" ? t.shape[3]! : t.shape[2]! / n);
  const length = (t: KernelTensor) => (form === "heads first" ? t.shape[2]! : t.shape[1]!);
  const past = context.inputs[4]?.shape[2] ?? 0, batch = q.shape[0]!;
  const sizes: AttentionSizes = {
    batch,
    heads,
    kvHeads,
    queries: length(q),
    keys: past + length(k),
    size: width(q, heads),
    valueSize: width(v, kvHeads),
  };
  const scratch = new Scratch(), steps: KernelStep[] = [];
  const query = headsFirst({
    operand: input(context, 0),
    batch,
    at: { form, offset: 0, heads, length: sizes.queries, size: sizes.size },
  }, { scratch, steps });
  const cached = (index: 1 | 2, size: number): Operand => {
    const shape = [batch, kvHeads, sizes.keys, size];
    const at = { form, offset: 0, heads: kvHeads, length: length(k), size };
    const asked = context.outputs[index];
    if (!asked && past === 0) {
      return headsFirst({ operand: input(context, index), batch, at }, { scratch, steps });
    }
    const cache = asked ? output(context, index) : scratch.take(k.dtype, shape);
    const before = context.inputs[index + 3] ? { operand: input(context, index + 3), length: past } : undefined;
    const now = { operand: input(context, index), offset: 0, strides: headStrides(form, at), length: at.length };
    steps.push(...append(cache, before, now, { batch, heads: kvHeads, size }));
    return cache;
  };
  const key = cached(1, sizes.size), value = cached(2, sizes.valueSize);
  const causal = intOf(attributes, "is_causal") === 1;
  steps.push(...resultSteps({
    sizes,
    query,
    key,
    value,
    scale: floatOf(attributes, "scale") ?? 1 / Math.sqrt(sizes.size),
    softcap: floatOf(attributes, "softcap") ?? 0,
    masks: maskOf(context, 3),
    condition: causal ? "r0 <= i2 + past" : undefined,
    params: { past },
  }, { operand: output(context), form, scratch }));
  return { steps, scratch: scratch.tensors };
}

/** com.microsoft's MultiHeadAttention, with separate q, k and v. */
function multiHead(context: KernelContext): Lowered {
  const { attributes } = context, q = inputOf(context, 0), heads = intOf(attributes, "num_heads")!;
  const k = inputOf(context, 1), v = inputOf(context, 2), bias = context.inputs[3];
  if (q.shape.length !== 3 || k.shape.length === 5) throw unknownForm(context, "packed queries, keys and values");
  const form = (t: KernelTensor): Form => (t.shape.length === 4 ? "heads first" : "heads inside");
  const batch = q.shape[0]!, size = q.shape[2]! / heads;
  const valueSize = v.shape.length === 4 ? v.shape[3]! : v.shape[2]! / heads;
  const length = k.shape.length === 4 ? k.shape[2]! : k.shape[1]!, past = context.inputs[6]?.shape[2] ?? 0;
  const sizes = { batch, heads, kvHeads: heads, queries: q.shape[1]!, keys: past + length, size, valueSize };
  const scratch = new Scratch(), steps: KernelStep[] = [];
  const part = (index: number, at: Heads, offset: number) =>
    headsFirst({
      operand: input(context, index),
      batch,
      at,
      ...(bias && at.form === "heads inside" ? { bias: { operand: input(context, 3), offset } } : {}),
    }, { scratch, steps });
  const query = part(0, { form: "heads inside", offset: 0, heads, length: sizes.queries, size }, 0);
  const cached = (index: 1 | 2, tensor: KernelTensor, width: number): Operand => {
    const now = part(index, { form: form(tensor), offset: 0, heads, length, size: width }, index * heads * size);
    if (!context.outputs[index] && past === 0) return now;
    const cache = context.outputs[index]
      ? output(context, index)
      : scratch.take(q.dtype, [batch, heads, sizes.keys, width]);
    const before = context.inputs[index + 5] ? { operand: input(context, index + 5), length: past } : undefined;
    const strides = headStrides("heads first", { heads, length, size: width });
    steps.push(...append(cache, before, { operand: now, offset: 0, strides, length }, { batch, heads, size: width }));
    return cache;
  };
  const key = cached(1, k, size), value = cached(2, v, valueSize);
  const padding = context.inputs[4], reads: Access[] = [];
  const conditions = intOf(attributes, "unidirectional") === 1 ? ["r0 <= i2 + past"] : [];
  if (padding) {
    if (padding.shape.length !== 2) throw unknownForm(context, `a key_padding_mask of ${padding.shape.length} dims`);
    reads.push({ operand: input(context, 4), offset: 0, strides: [padding.shape[1]!, 0, 0, 1] });
    conditions.push("c0 != 0");
  }
  const given = floatOf(attributes, "scale") ?? 0;
  steps.push(...resultSteps({
    sizes,
    query,
    key,
    value,
    scale: given === 0 ? 1 / Math.sqrt(size) : given,
    softcap: 0,
    masks: maskOf(context, 5),
    condition: conditions.join(" && ") || undefined,
    reads,
    params: { past },
  }, { operand: output(context), form: "heads inside", scratch }));
  return { steps, scratch: scratch.tensors };
}

/** com.microsoft's Attention: one product for q, k and v first. */
function packed(context: KernelContext): Lowered {
  const { attributes } = context, x = inputOf(context, 0), w = inputOf(context, 1);
  const heads = intOf(attributes, "num_heads")!, [batch, queries, inner] = x.shape as [number, number, number];
  const width = w.shape[1]!, [qw, kw, vw] = intsAttribute(attributes, "qkv_hidden_sizes") ?? Array(3).fill(width / 3);
  if (intOf(attributes, "do_rotary")) throw unknownForm(context, "rotary positions");
  const scratch = new Scratch(), steps: KernelStep[] = [], shape = [batch, queries, width];
  const all = scratch.take(x.dtype, shape), bias = context.inputs[2];
  if (bias) {
    steps.push(copy(shape, { operand: input(context, 2), offset: 0, strides: [0, 0, 1] }, whole(all, shape)));
  }
  steps.push(...matmulSteps([
    { operand: input(context, 0), lead: [], rows: batch * queries, columns: inner },
    { operand: input(context, 1), lead: [], rows: inner, columns: width },
    { operand: all, lead: [], rows: batch * queries, columns: width },
  ], { beta: bias ? 1 : 0 }));
  const size = qw / heads, valueSize = vw / heads, past = context.inputs[4]?.shape[3] ?? 0;
  const at = (offset: number, each: number): Heads => ({
    form: "heads inside",
    offset,
    heads,
    length: queries,
    size: each,
    width,
  });
  const keys = past + queries, present = context.outputs[1];
  const query = headsFirst({ operand: all, batch, at: at(0, size) }, { scratch, steps });
  /** Keys are the first half of the cache, values the second. */
  const cached = (half: 0 | 1, offset: number, each: number): Operand => {
    const copied = scratch.take(x.dtype, [batch, heads, keys, each]);
    const own = context.inputs[4];
    const strides = headStrides("heads first", { heads, length: keys, size: each });
    if (own && past > 0) {
      const before = [batch, heads, past, each], elements = before.reduce((a, b) => a * b, 1);
      steps.push(
        copy(before, { ...whole(input(context, 4), before), offset: half * elements }, {
          operand: copied,
          offset: 0,
          strides,
        }),
      );
    }
    const read = { operand: all, offset, strides: headStrides("heads inside", at(offset, each)) };
    steps.push(copy([batch, heads, queries, each], read, { operand: copied, offset: past * each, strides }));
    if (present) {
      const total = [batch, heads, keys, each], elements = total.reduce((a, b) => a * b, 1);
      steps.push(copy(total, whole(copied, total), { ...whole(output(context, 1), total), offset: half * elements }));
    }
    return copied;
  };
  const key = cached(0, qw, size), value = cached(1, qw + kw, valueSize);
  const conditions = intOf(attributes, "unidirectional") === 1 ? ["r0 <= i2 + past"] : [], reads: Access[] = [];
  const mask = context.inputs[3];
  if (mask?.shape.length === 2) {
    reads.push({ operand: input(context, 3), offset: 0, strides: [mask.shape[1]!, 0, 0, 1] });
    conditions.push("c0 != 0");
  } else if (mask?.shape.length === 1 && mask.shape[0] === batch) {
    reads.push({ operand: input(context, 3), offset: 0, strides: [1, 0, 0, 0] });
    conditions.push("r0 < c0");
  } else if (mask) throw unknownForm(context, `a mask of shape [${mask.shape}]`);
  const given = floatOf(attributes, "scale") ?? 0;
  steps.push(...resultSteps({
    sizes: { batch, heads, kvHeads: heads, queries, keys, size, valueSize },
    query,
    key,
    value,
    scale: given === 0 ? 1 / Math.sqrt(size) : given,
    softcap: 0,
    masks: maskOf(context, 5),
    condition: conditions.join(" && ") || undefined,
    reads,
    params: { past },
  }, { operand: output(context), form: "heads inside", scratch }));
  return { steps, scratch: scratch.tensors };
}

/** Turns pairs of elements by their position's angle; `position` is an expression over the step's reads after x, cos and sin. */
function rotate(
  shape: readonly number[],
  o: {
    readonly read: Access;
    readonly write: Access;
    readonly cos: Access;
    readonly sin: Access;
    readonly position?: Access | undefined;
    readonly expression?: string;
    readonly rotated: number;
    readonly interleaved: boolean;
    readonly row: number;
    readonly params?: Readonly<Record<string, number>>;
  },
): MapStep {
  const d = `i${shape.length - 1}`, at = "ld(p0[o0 + ";
  // The read has no stride in the last dim: the expression picks the elements.
  const pair = o.interleaved
    ? {
      angle: `${d} / 2`,
      first: `${at}${d} - ${d} % 2])`,
      second: `${at}${d} - ${d} % 2 + 1])`,
      isFirst: `${d} % 2 == 0`,
    }
    : {
      angle: `(${d} < half ? ${d} : ${d} - half)`,
      first: `${at}(${d} < half ? ${d} : ${d} - half)])`,
      second: `${at}(${d} < half ? ${d} + half : ${d})])`,
      isFirst: `${d} < half`,
    };
  const row = o.expression ?? (o.position ? "(long long)x3" : "0");
  const cos = `ld(p1[o1 + ${row} * row + ${pair.angle}])`, sin = `ld(p2[o2 + ${row} * row + ${pair.angle}])`;
  const turned =
    `(${pair.isFirst} ? ${pair.first} * ${cos} - ${pair.second} * ${sin} : ${pair.second} * ${cos} + ${pair.first} * ${sin})`;
  return {
    kind: "map",
    shape,
    reads: [o.read, o.cos, o.sin, ...(o.position ? [o.position] : [])],
    write: o.write,
    expression: `${d} < rotated ? ${turned} : ${at}${d}])`,
    params: { half: o.rotated / 2, rotated: o.rotated, row: o.row, ...o.params },
  };
}

/** RotaryEmbedding in both forms; `at` are the positions of cos, sin and position_ids. */
function rotary(context: KernelContext, at: { cos: number; sin: number; ids: number }): Lowered {
  const { attributes } = context, x = inputOf(context, 0), cos = inputOf(context, at.cos);
  const ids = context.inputs[at.ids], stated = intOf(attributes, "num_heads") ?? 0;
  const rotated = intOf(attributes, "rotary_embedding_dim") || cos.shape.at(-1)! * 2;
  const form: Form = x.shape.length === 4 ? "heads first" : "heads inside";
  const heads = form === "heads first" ? x.shape[1]! : stated > 0 ? stated : x.shape[2]! / rotated;
  const size = form === "heads first" ? x.shape[3]! : x.shape[2]! / heads;
  const length = form === "heads first" ? x.shape[2]! : x.shape[1]!, batch = x.shape[0]!;
  const shape = [batch, heads, length, size], strides = headStrides(form, { heads, length, size });
  const row = cos.shape.at(-1)!;
  // Without positions the caches hold a row for each token.
  const perToken = (index: number): Access => ({
    operand: input(context, index),
    offset: 0,
    strides: ids ? [0, 0, 0, 0] : [cos.shape[0] === 1 ? 0 : length * row, 0, row, 0],
  });
  const position: Access | undefined = ids && {
    operand: input(context, at.ids),
    offset: 0,
    strides: ids.shape.length === 2 ? [ids.shape[0] === 1 ? 0 : length, 0, 1, 0] : [0, 0, 0, 0],
  };
  const step = rotate(shape, {
    read: { operand: input(context, 0), offset: 0, strides: strides.with(3, 0) },
    write: { operand: output(context), offset: 0, strides },
    cos: perToken(at.cos),
    sin: perToken(at.sin),
    position,
    // A single id is the position of the first token.
    ...(ids && ids.shape.length < 2 ? { expression: "((long long)x3 + i2)" } : {}),
    rotated,
    interleaved: intOf(attributes, "interleaved") === 1,
    row,
  });
  return { steps: [step] };
}

/** com.microsoft's GroupQueryAttention: rotary positions, a cache of some capacity, lengths on the device. */
function groupQuery(context: KernelContext): Lowered {
  const { attributes } = context, q = inputOf(context, 0);
  const heads = intOf(attributes, "num_heads")!, kvHeads = intOf(attributes, "kv_num_heads")!;
  if (context.inputs[11] || intOf(attributes, "smooth_softmax") === 1) {
    throw unknownForm(context, "a sink in the softmax");
  }
  const [batch, queries, width] = q.shape as [number, number, number], isPacked = !context.inputs[1];
  const size = width / (isPacked ? heads + 2 * kvHeads : heads),
    keys = context.outputs[1]?.shape[2] ??
      (context.inputs[3]?.shape[2] ?? 0) + queries;
  const scratch = new Scratch(), steps: KernelStep[] = [];
  const seqlens = { operand: input(context, 5), offset: 0, strides: [1, 0, 0, 0] };
  /** Tokens before the first of this step: `s` is `seqlens_k[b]`, the last position. A first step may be padded at the right. */
  const before = (s: string) => (firstStep ? "0" : `(${s} + 1 - queries)`);
  const capacity = context.inputs[3]?.shape[2] ?? 0;
  const total = context.ints[6]?.[0];
  const firstStep = total !== undefined ? total === queries : capacity === 0;
  const params = { queries };
  const source = (which: 0 | 1 | 2): { operand: Operand; offset: number; width: number } => {
    if (!isPacked) return { operand: input(context, which), offset: 0, width: (which === 0 ? heads : kvHeads) * size };
    const offset = which === 0 ? 0 : (heads + (which === 2 ? kvHeads : 0)) * size;
    return { operand: input(context, 0), offset, width };
  };
  const rotates = intOf(attributes, "do_rotary") === 1;
  const place = (
    which: 0 | 1 | 2,
    count: number,
    write: Access,
    more: { target?: string; reads: Access[] },
  ): MapStep => {
    const { operand, offset, width: wide } = source(which), shape = [batch, count, queries, size];
    const strides = headStrides("heads inside", { heads: count, length: queries, size, width: wide });
    if (!rotates || which === 2) {
      return {
        kind: "map",
        shape,
        reads: [{ operand, offset, strides }, seqlens],
        write,
        expression: "x0",
        ...(more.target ? { target: more.target.replaceAll("SEQ", "x1") } : {}),
        params: { ...params, size },
      };
    }
    const cos = inputOf(context, 7), ids = context.inputs[9];
    const table = (index: number): Access => ({ operand: input(context, index), offset: 0, strides: [0, 0, 0, 0] });
    const position = ids ? { operand: input(context, 9), offset: 0, strides: [queries, 0, 1, 0] } : seqlens;
    const step = rotate(shape, {
      read: { operand, offset, strides: strides.with(3, 0) },
      write,
      cos: table(7),
      sin: table(8),
      position,
      expression: ids ? "(long long)x3" : `(${before("(long long)x3")} + i2)`,
      rotated: cos.shape[1]! * 2,
      interleaved: intOf(attributes, "rotary_interleaved") === 1,
      row: cos.shape[1]!,
      params: { ...params, size },
    });
    if (!more.target) return step;
    return { ...step, reads: [...step.reads, seqlens], target: more.target.replaceAll("SEQ", "(long long)x4") };
  };
  const query = scratch.take(q.dtype, [batch, heads, queries, size]);
  steps.push(place(0, heads, whole(query, [batch, heads, queries, size]), { reads: [] }));
  const cached = (which: 1 | 2): Operand => {
    const shape = [batch, kvHeads, keys, size], strides = stridesOf(shape);
    const cache = context.outputs[which] ? output(context, which) : scratch.take(q.dtype, shape);
    const past = context.inputs[which + 2];
    // Keys that nobody has written yet are zeros: 0 · ∞ must not come of them.
    const fill: MapStep = { kind: "map", shape, reads: [], write: whole(cache, shape), expression: "0.f" };
    if (!past || capacity < keys) steps.push(fill);
    if (past && capacity > 0) {
      const old = past.shape.with(2, Math.min(capacity, keys));
      const read = { operand: input(context, which + 2), offset: 0, strides: stridesOf(past.shape) };
      steps.push(copy(old, read, { operand: cache, offset: 0, strides }));
    }
    const target = `o + ${before("SEQ")} * size`;
    steps.push(place(which, kvHeads, { operand: cache, offset: 0, strides }, { target, reads: [] }));
    return cache;
  };
  const key = cached(1), value = cached(2);
  const window = intOf(attributes, "local_window_size") ?? -1;
  const position = `(${before("c0")} + i2)`;
  const conditions = [`r0 <= ${position}`, ...(window > 0 ? [`r0 > ${position} - window`] : [])];
  const given = floatOf(attributes, "scale") ?? 0;
  steps.push(...resultSteps({
    sizes: { batch, heads, kvHeads, queries, keys, size, valueSize: size },
    query,
    key,
    value,
    scale: given === 0 ? 1 / Math.sqrt(size) : given,
    softcap: floatOf(attributes, "softcap") ?? 0,
    masks: biasOf(context, keys),
    condition: conditions.join(" && "),
    reads: [seqlens],
    params: { ...params, ...(window > 0 ? { window } : {}) },
  }, { operand: output(context), form: "heads inside", scratch }));
  return { steps, scratch: scratch.tensors };
}

/** The added bias; its keys may be fewer than the cache's, which are not attended to then. */
function biasOf(context: KernelContext, keys: number): Mask[] {
  const bias = context.inputs[10];
  if (!bias) return [];
  if (bias.shape.at(-1) !== keys) throw unknownForm(context, "a bias shorter than the cache");
  return maskOf(context, 10);
}

/** All lowerings of attention, by op. */
export const ATTENTION: Readonly<Record<string, Lowering>> = {
  Attention: attention,
  RotaryEmbedding: (c) => rotary(c, { cos: 1, sin: 2, ids: 3 }),
  "com.microsoft.Attention": packed,
  "com.microsoft.GroupQueryAttention": groupQuery,
  "com.microsoft.MultiHeadAttention": multiHead,
  "com.microsoft.RotaryEmbedding": (c) => rotary(c, { cos: 2, sin: 3, ids: 1 }),
};
