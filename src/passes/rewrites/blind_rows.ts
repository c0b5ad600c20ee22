/**
 * Rows from which a mask hides every key: padding tokens. What a graph gives them depends on how it was written.
 *
 * ```text
 * -∞, guarded     the weights are NaN, which the graph sets to 0: so is the row         fill, 0
 * -∞              NaN                                                                   fill, NaN
 * a number        every score is lost in it, so that the weights are those of the mask
 *                 alone: the mean of all values, of keys after the token as well        mean
 * ```
 * No number of 16 bits hides a key so that every score is lost in it (`HIDES`), so there are only the first two.
 * The fused op never looks after the token, so that a mean is put together of its part and of the rest: what a row keeps of
 * the op's, and the weights of this step's later tokens. Both come from the mask, once for all layers that share it.
 */
import type { Dim } from "../../core/dim.ts";
import { dimAdd } from "../../core/dim.ts";
import { int, ints as intsAttribute } from "../../graph/attributes.ts";
import type { TensorType } from "../../graph/types.ts";
import { HIDES } from "./causal_mask.ts";
import type { Emit } from "./emit.ts";
import type { FusedDType, Matcher } from "./matcher.ts";

/** The shape of a mask that is added to scores: `[batch or 1, heads or 1, sequence, past + sequence]`. */
export type MaskShape = readonly [Dim, Dim, Dim, Dim];

/** What is known of a mask, and of the graph that adds it. */
export interface Blindness {
  readonly shape: MaskShape;
  readonly dtype: FusedDType;
  /** Whether weights of NaN become 0. */
  readonly guarded: boolean;
  /** The numbers that hide a key up to the token. */
  readonly hidden: readonly number[];
}

/** What rows that see nothing get. */
export type BlindRows =
  /** There is none. */
  | { readonly kind: "none"; readonly mask: string }
  /** `value` where not `see`: `[batch or 1, sequence, 1]`. */
  | { readonly kind: "fill"; readonly mask: string; readonly see: string; readonly value: string }
  /** See inputs `keep` and `later` of CachedAttention; the mask hides by a number that its engine does not take for -∞. */
  | { readonly kind: "mean"; readonly mask: string; readonly keep: string; readonly later: string };

interface Known extends Blindness {
  readonly m: Matcher;
  readonly sizes: { readonly past: Dim; readonly sequence: Dim };
}

/** Why rows that see nothing cannot get what the graph gives them; undefined where they can. */
export function blindRowsProblem({ shape, hidden }: Blindness): string | undefined {
  if (hidden.length === 0) return undefined;
  if (hidden.length > 1) return `the mask hides by several numbers: ${hidden.join(", ")}`;
  return shape[1] === 1 ? undefined : "what the mask hides differs by head";
}

/** Emits what rows of `mask` get that see nothing. */
export function blindRows(mask: string, emit: Emit, known: Known): BlindRows {
  const { hidden, guarded, dtype, shape, sizes } = known;
  if (hidden.length === 0) return { kind: "none", mask };
  if (hidden[0] === -Infinity) {
    const see = emit.shared(`rows ${mask}`, () => {
      const seeing = rowsThatSee(mask, -Infinity, emit, known);
      const type = { dtype: "bool", shape: [shape[0], sizes.sequence, 1] } as const;
      return emit.call({ op: "Reshape", inputs: [seeing, emit.sizes([0, -1, 1])], type });
    });
    return { kind: "fill", mask, see, value: emit.scalar(guarded ? 0 : NaN, dtype) };
  }
  const clamped = emit.shared(`clamped ${mask}`, () => {
    return emit.call({ op: "Max", inputs: [mask, emit.scalar(HIDES)], type: { dtype, shape } });
  });
  const later = emit.shared(`later ${mask}`, () => weightsOfLater(mask, emit, known));
  const keep = emit.shared(`keep ${mask}`, () => {
    const type: TensorType = { dtype, shape: [shape[0], sizes.sequence, 1] };
    const sum = known.m.opset < 13
      ? emit.call({ op: "ReduceSum", inputs: [later], attributes: { axes: intsAttribute([-1]) }, type })
      : emit.call({ op: "ReduceSum", inputs: [later, emit.sizes([-1])], type });
    return emit.call({ op: "Sub", inputs: [emit.scalar(1), sum], type });
  });
  return { kind: "mean", mask: clamped, keep, later };
}

/** Which rows show a key by more than `hides`: `[batch or 1, 1, sequence, 1]`. */
export function rowsThatSee(
  mask: string,
  hides: number,
  emit: Emit,
  { m, dtype, shape: of }: { readonly m: Matcher; readonly dtype: FusedDType; readonly shape: MaskShape },
): string {
  const shape = [of[0], 1, of[2], 1];
  const highest = m.opset < 18
    ? emit.call({
      op: "ReduceMax",
      inputs: [mask],
      attributes: { axes: intsAttribute([-1]) },
      type: { dtype, shape },
    })
    : emit.call({ op: "ReduceMax", inputs: [mask, emit.sizes([-1])], type: { dtype, shape } });
  return emit.call({ op: "Greater", inputs: [highest, emit.scalar(hides, dtype)], type: { dtype: "bool", shape } });
}

/** For rows that see nothing, the weights of this step's tokens after them; 0 for others: `[batch or 1, sequence, sequence]`. */
function weightsOfLater(mask: string, emit: Emit, known: Known): string {
  const { past, sequence } = known.sizes, { dtype, shape } = known, [batch] = shape;
  const square: TensorType = { dtype, shape: [batch, 1, sequence, sequence] };
  const bool = (shape: readonly Dim[]) => ({ dtype: "bool", shape } as const);
  const weights = emit.call({
    op: "Softmax",
    inputs: [mask],
    attributes: { axis: int(3) },
    type: { dtype, shape },
  });
  const bounds = [[past], [dimAdd(past, sequence)], [3]].map((x) => emit.sizes(x));
  const recent = emit.call({ op: "Slice", inputs: [weights, ...bounds], type: square });
  const tokens = emit.call({
    op: "Range",
    inputs: [emit.sizes([0], true), emit.sizes([sequence], true), emit.sizes([1], true)],
    type: { dtype: "i64", shape: [sequence] },
  });
  const rows = emit.call({
    op: "Reshape",
    inputs: [tokens, emit.sizes([-1, 1])],
    type: { dtype: "i64", shape: [sequence, 1] },
  });
  const isLater = emit.call({ op: "Greater", inputs: [tokens, rows], type: bool([sequence, sequence]) });
  const see = rowsThatSee(mask, HIDES, emit, known);
  const isBlind = emit.call({ op: "Not", inputs: [see], type: bool([batch, 1, sequence, 1]) });
  const counts = emit.call({ op: "And", inputs: [isBlind, isLater], type: bool([batch, 1, sequence, sequence]) });
  const later = emit.call({ op: "Where", inputs: [counts, recent, emit.scalar(0)], type: square });
  return emit.call({
    op: "Reshape",
    inputs: [later, emit.sizes([0, -1, sequence])],
    type: { dtype, shape: [batch, sequence, sequence] },
  });
}
