/** What lowerings of attention share: heads as a dim or within a row, caches that grow, results, scratch memory. */
import { floatOf } from "../../graph/attributes.ts";
import { input, whole } from "./access.ts";
import { attend, type Attention, type Mask } from "./attend.ts";
import type { Access, KernelContext, KernelStep, KernelTensor, MapStep, Operand } from "./kernel.ts";

/** Scratch tensors of a lowering, as they are asked for. */
export class Scratch {
  readonly tensors: KernelTensor[] = [];

  take(dtype: KernelTensor["dtype"], shape: readonly number[]): Operand {
    this.tensors.push({ dtype, shape });
    return { of: "scratch", index: this.tensors.length - 1, dtype };
  }
}

/** What com.microsoft's ops multiply scores by: 0 and nothing mean `1 / √size`. */
export function scaleOf({ attributes }: KernelContext, size: number): number {
  return floatOf(attributes, "scale") || 1 / Math.sqrt(size);
}

/** Which dims a `[batch, heads, length, size]` view has in memory. */
export type Form = "heads first" | "heads inside";

/** Strides of `[batch, heads, length, size]` in a tensor that has it, or that has `[batch, length, width]` with the heads in its width. */
export function headStrides(
  form: Form,
  sizes: { heads: number; length: number; size: number; width?: number },
): number[] {
  const { heads, length, size, width = heads * size } = sizes;
  return form === "heads first" ? [heads * length * size, length * size, size, 1] : [length * width, size, width, 1];
}

/** A copy of `read` to `write` over `shape`, or an expression of it and of more reads. */
export function copy(
  shape: readonly number[],
  read: Access,
  write: Access,
  expression = "x0",
  more: readonly Access[] = [],
): MapStep {
  return { kind: "map", shape, reads: [read, ...more], write, expression };
}

/** Where heads lie in a tensor. */
export interface Heads {
  readonly form: Form;
  readonly offset: number;
  readonly heads: number;
  readonly length: number;
  readonly size: number;
  readonly width?: number;
}

/** An input's heads as a contiguous `[batch, heads, length, size]`: itself where it is, else a copy. `bias` is added to each row. */
export function headsFirst(
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

/**
 * Keys (or values) after those of the past: `[batch, heads, past + length, size]` in `cache`, heads `room` rows apart. Where the cache grows
 * in the memory of the past, only what is new is written.
 */
export function append(
  cache: Operand,
  past: { readonly operand: Operand; readonly length: number } | undefined,
  now: {
    readonly operand: Operand;
    readonly offset: number;
    readonly strides: readonly number[];
    readonly length: number;
  },
  sizes: { readonly batch: number; readonly heads: number; readonly size: number; readonly room?: number | undefined },
): KernelStep[] {
  const { batch, heads, size, room } = sizes, before = past?.length ?? 0;
  const strides = headStrides("heads first", { heads, length: room ?? before + now.length, size });
  const steps: KernelStep[] = [];
  if (past && before > 0 && room === undefined) {
    const shape = [batch, heads, before, size];
    steps.push(copy(shape, whole(past.operand, shape), { operand: cache, offset: 0, strides }));
  }
  steps.push(copy([batch, heads, now.length, size], now, { operand: cache, offset: before * size, strides }));
  return steps;
}

/** The result in the form that the op gives. */
export function resultSteps(
  attention: Attention,
  to: { readonly operand: Operand; readonly form: Form; readonly scratch: Scratch },
): KernelStep[] {
  const { heads, queries, valueSize } = attention.sizes;
  const strides = headStrides(to.form, { heads, length: queries, size: valueSize });
  return attend(attention, {
    result: { operand: to.operand, offset: 0, strides },
    take: (dtype, shape) => to.scratch.take(dtype, shape),
  });
}

/** Input `index` as a mask, if it is there. */
export function maskOf(context: KernelContext, index: number): Mask[] {
  const tensor = context.inputs[index];
  if (!tensor) return [];
  const kind = tensor.dtype === "bool" ? "kept" : "added";
  return [{ operand: input(context, index), shape: tensor.shape, kind }];
}
