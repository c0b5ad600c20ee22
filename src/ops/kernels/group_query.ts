/** Grouped queries over a cache on a GPU. Source: com.microsoft.GroupQueryAttention, ContribOperators.md. */
import { floatOf, intOf } from "../../graph/attributes.ts";
import { input, inputOf, output, stridesOf, unknownForm, whole } from "./access.ts";
import type { Mask } from "./attend.ts";
import { copy, headStrides, maskOf, resultSteps, scaleOf, Scratch } from "./heads.ts";
import type { Access, KernelContext, KernelStep, Lowered, MapStep, Operand } from "./kernel.ts";
import { rotate } from "./rotary.ts";

/** com.microsoft's GroupQueryAttention: rotary positions, a cache of some capacity, lengths on the device. */
export function groupQuery(context: KernelContext): Lowered {
  const { attributes } = context, q = inputOf(context, 0);
  const heads = intOf(attributes, "num_heads")!, kvHeads = intOf(attributes, "kv_num_heads")!;
  if (context.inputs[11] || intOf(attributes, "smooth_softmax") === 1) {
    throw unknownForm(context, "a sink in the softmax");
  }
  if (intOf(attributes, "sliding_window_cache") === 1) throw unknownForm(context, "a cache that keeps a window only");
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
  const room = context.rooms?.[1];
  const cached = (which: 1 | 2): Operand => {
    const shape = [batch, kvHeads, keys, size], strides = stridesOf(shape.with(2, room ?? keys));
    const cache = context.outputs[which] ? output(context, which) : scratch.take(q.dtype, shape);
    const target = `o + ${before("SEQ")} * size`;
    const appended = place(which, kvHeads, { operand: cache, offset: 0, strides }, { target, reads: [] });
    if (room !== undefined) {
      steps.push(appended);
      return cache;
    }
    const past = context.inputs[which + 2];
    // Keys that nobody has written yet are zeros: 0 · ∞ must not come of them.
    const fill: MapStep = { kind: "map", shape, reads: [], write: whole(cache, shape), expression: "0.f" };
    if (!past || capacity < keys) steps.push(fill);
    if (past && capacity > 0) {
      const old = past.shape.with(2, Math.min(capacity, keys));
      const read = { operand: input(context, which + 2), offset: 0, strides: stridesOf(past.shape) };
      steps.push(copy(old, read, { operand: cache, offset: 0, strides }));
    }
    steps.push(appended);
    return cache;
  };
  const key = cached(1), value = cached(2);
  const window = intOf(attributes, "local_window_size") ?? -1;
  const position = `(${before("c0")} + i2)`;
  steps.push(...resultSteps({
    sizes: { batch, heads, kvHeads, queries, keys, size, valueSize: size },
    query,
    key,
    value,
    room,
    scale: scaleOf(context, size),
    softcap: floatOf(attributes, "softcap") ?? 0,
    masks: biasOf(context, keys),
    until: `${position} + 1`,
    ...(window > 0 ? { from: `${position} - window + 1` } : {}),
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
