/**
 * Windows of a dim: what Concat, Split, Slice and Gather with constant indices do to the dim along their axis.
 *
 * The parts of a fused dim (q‖k‖v) are factors of their own that sit in one dim at different offsets, and are sharded
 * together. Elements that an op does not read are factors as well: they may be cut in any way.
 */
import type { Dim } from "../core/dim.ts";
import { type Layout } from "../graph/layout.ts";
import { at, type Factor } from "./factors.ts";

/** How many of an op's inputs and outputs there are. */
export interface Arity {
  readonly inputs: number;
  readonly outputs: number;
}

/** The factors of all dims but `axis` of an op whose inputs in `data` and outputs have the same dims. */
export function otherDims(
  shape: readonly Dim[],
  axis: number | readonly number[],
  arity: Arity & { readonly data?: readonly number[] },
): Factor[] {
  const data = arity.data ?? [0];
  const skipped = typeof axis === "number" ? [axis] : axis;
  return shape.flatMap((size, dim): Factor[] => {
    if (skipped.includes(dim) || size === 1) return [];
    return [{
      name: `d${dim}`,
      size,
      inputs: Array.from({ length: arity.inputs }, (_, i) => (data.includes(i) ? at(dim) : null)),
      outputs: Array.from({ length: arity.outputs }, () => at(dim)),
    }];
  });
}

/** The window `[start, end)` of dim `axis` of input 0 as dim `to` of output 0, and what lies outside as unread. */
export function readWindow(
  axis: number,
  [start, end]: readonly [number, number],
  options: { readonly size: number; readonly to: number; readonly inputs: number },
): Factor[] {
  const input = (offset: number) =>
    Array.from({ length: options.inputs }, (_, i) => (i === 0 ? at(axis, { offset }) : null));
  const unread = (from: number, size: number): Factor[] =>
    size <= 0 ? [] : [{ name: `unread${from}`, size, inputs: input(from), outputs: [null] }];
  const window: Factor[] = end <= start ? [] : [{
    name: `w${start}`,
    size: end - start,
    inputs: input(start),
    outputs: [at(options.to)],
  }];
  return [...unread(0, start), ...window, ...unread(end, options.size - end)];
}

/** How many elements before global index `i` rank `r` holds. */
export function heldBefore(layout: Layout, r: number, i: number): number {
  return layout.parts[r]!.reduce((n, [a, b]) => n + Math.max(0, Math.min(b, i) - a), 0);
}
