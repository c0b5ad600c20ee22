/** Attention ops on a GPU. Source: ONNX Attention-23; com.microsoft: ContribOperators.md. */
import { floatOf, intOf, intsOf as intsAttribute } from "../../graph/attributes.ts";
import { input, inputOf, output, unknownForm, whole } from "./access.ts";
import { groupQuery } from "./group_query.ts";
import {
  append,
  copy,
  type Form,
  type Heads,
  headsFirst,
  headStrides,
  maskOf,
  resultSteps,
  scaleOf,
  Scratch,
} from "./heads.ts";
import type {
  Access,
  AttentionSizes,
  KernelContext,
  KernelStep,
  KernelTensor,
  Lowered,
  Lowering,
  Operand,
} from "./kernel.ts";
import { matmulSteps } from "./products.ts";
import { rotary } from "./rotary.ts";

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
  const room = context.rooms?.[1];
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
    steps.push(...append(cache, before, now, { batch, heads: kvHeads, size, room }));
    return cache;
  };
  const key = cached(1, sizes.size), value = cached(2, sizes.valueSize);
  const causal = intOf(attributes, "is_causal") === 1;
  steps.push(...resultSteps({
    sizes,
    query,
    key,
    value,
    room,
    scale: floatOf(attributes, "scale") ?? 1 / Math.sqrt(sizes.size),
    softcap: floatOf(attributes, "softcap") ?? 0,
    masks: maskOf(context, 3),
    until: causal ? "i2 + past + 1" : undefined,
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
  const room = context.rooms?.[1];
  const cached = (index: 1 | 2, tensor: KernelTensor, width: number): Operand => {
    const now = part(index, { form: form(tensor), offset: 0, heads, length, size: width }, index * heads * size);
    if (!context.outputs[index] && past === 0) return now;
    const cache = context.outputs[index]
      ? output(context, index)
      : scratch.take(q.dtype, [batch, heads, sizes.keys, width]);
    const before = context.inputs[index + 5] ? { operand: input(context, index + 5), length: past } : undefined;
    const strides = headStrides("heads first", { heads, length, size: width });
    const each = { batch, heads, size: width, room };
    steps.push(...append(cache, before, { operand: now, offset: 0, strides, length }, each));
    return cache;
  };
  const key = cached(1, k, size), value = cached(2, v, valueSize);
  const padding = context.inputs[4], reads: Access[] = [];
  const isCausal = intOf(attributes, "unidirectional") === 1, conditions: string[] = [];
  if (padding) {
    if (padding.shape.length !== 2) throw unknownForm(context, `a key_padding_mask of ${padding.shape.length} dims`);
    reads.push({ operand: input(context, 4), offset: 0, strides: [padding.shape[1]!, 0, 0, 1] });
    conditions.push("c0 != 0");
  }
  steps.push(...resultSteps({
    sizes,
    query,
    key,
    value,
    room,
    scale: scaleOf(context, size),
    softcap: 0,
    masks: maskOf(context, 5),
    until: isCausal ? "i2 + past + 1" : undefined,
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
  const isCausal = intOf(attributes, "unidirectional") === 1, conditions: string[] = [], reads: Access[] = [];
  const mask = context.inputs[3];
  if (mask?.shape.length === 2) {
    reads.push({ operand: input(context, 3), offset: 0, strides: [mask.shape[1]!, 0, 0, 1] });
    conditions.push("c0 != 0");
  } else if (mask?.shape.length === 1 && mask.shape[0] === batch) {
    reads.push({ operand: input(context, 3), offset: 0, strides: [1, 0, 0, 0] });
    conditions.push("r0 < c0");
  } else if (mask) throw unknownForm(context, `a mask of shape [${mask.shape}]`);
  steps.push(...resultSteps({
    sizes: { batch, heads, kvHeads: heads, queries, keys, size, valueSize },
    query,
    key,
    value,
    scale: scaleOf(context, size),
    softcap: 0,
    masks: maskOf(context, 5),
    until: isCausal ? "i2 + past + 1" : undefined,
    condition: conditions.join(" && ") || undefined,
    reads,
    params: { past },
  }, { operand: output(context), form: "heads inside", scratch }));
  return { steps, scratch: scratch.tensors };
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
