/**
 * Factors: how the dims of an op's inputs and outputs correspond, from which all sharding strategies follow without
 * op-specific code.
 *
 * A factor is an independent index of the op's loop nest. It sits at a place in some of the tensors: alone in a dim, as
 * part of a merged dim (`inner` elements a unit, `outer` repetitions before it), as a window of a concatenated dim
 * (`offset`), or coarser than it is (`shared`: kv heads, of which each serves several query heads; ranks with some of these
 * hold a copy of it). Sharding a factor shards every tensor in which it sits, leaves inputs without it replicated, and makes
 * outputs without it partial. Factors that share a dim by windows (the outputs of Split) are sharded together.
 *
 * Notation of {@linkcode einsumFactors}, `"*mk,kn->*mn"` for MatMul: one letter a dim; `*` = leading dims, aligned at
 * the right and broadcast; a letter in no output is reduced, so sharding it yields `P(sum)`; `[d]` must be whole on a
 * rank; `.` is a dim that belongs to no factor.
 */
import { type Dim, dimEquals } from "../core/dim.ts";
import type { Reduction } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";

/** Where a factor sits in a tensor. */
export interface At {
  readonly dim: number;
  /** Elements of the dim for one unit of the factor. */
  readonly inner: number;
  /** How often the factor's block repeats in the dim: the sizes merged before it. */
  readonly outer: Dim;
  /** First element of the factor's window in the dim. */
  readonly offset: number;
  /** How many consecutive units of the factor share one unit of the dim. */
  readonly shared: number;
}

/** One independent index of an op. */
export interface Factor {
  /** For texts. */
  readonly name: string;
  /** How many units; only factors of constant size are sharded. */
  readonly size: Dim;
  /** By input position; null where the input does not have it and must be replicated. */
  readonly inputs: readonly (At | null)[];
  /** By output position; null where it was reduced. */
  readonly outputs: readonly (At | null)[];
  /** How partial outputs combine. Needed where an output lacks the factor; `sum` and needs a partition. */
  readonly reduce?: Reduction;
  /** Inputs that are added once to a reduced output (a bias): they must be `P(sum)` when the factor is sharded. */
  readonly addends?: readonly number[];
  /**
   * The factor is the row index of a table (input 0) that another input selects: indices are replicated, rows that a
   * rank does not hold count as zeros, outputs are `P(sum)`. The definition's `localize` emits the mask.
   */
  readonly selected?: true;
  /** The part of the op's arithmetic that a rank with so many of the units does; by default their share of `size`. */
  readonly work?: (units: number) => number;
  /** The definition's `localize` emits the collectives itself: all outputs are as `outputs` says, or replicated. */
  readonly internal?: true;
}

/** All factors of one call. */
export interface FactorRule {
  readonly factors: readonly Factor[];
  /**
   * The factors are the same index, of one size, and must be cut alike: the heads of q, k and v, where these are fused in one dim.
   */
  readonly alike?: true;
  /**
   * Sets of inputs in which the op is linear: when exactly these are `P(sum)` and all others replicated, the outputs are
   * `P(sum)`. `[[0, 1]]` for Add, `[[0], [1]]` for MatMul, `[[0]]` for Transpose.
   */
  readonly linear?: readonly (readonly number[])[];
}

/** The place of a factor that has a dim for itself. */
export function at(dim: number, details: Partial<Omit<At, "dim">> = {}): At {
  return {
    dim,
    inner: details.inner ?? 1,
    outer: details.outer ?? 1,
    offset: details.offset ?? 0,
    shared: details.shared ?? 1,
  };
}

/** The rule with no factor: everything replicated. */
export const NO_FACTORS: FactorRule = { factors: [] };

interface Term {
  /** Letters by dim after the star; null for whole or unrelated dims. */
  readonly letters: readonly (string | null)[];
  readonly star: boolean;
}

/**
 * The factors of an op whose dims are related letter by letter.
 *
 * An operand whose size is 1 where others have more is broadcast: it lacks the factor and stays replicated. Missing
 * optional inputs (undefined) have no term's places.
 */
export function einsumFactors(
  notation: string,
  inputs: readonly (TensorType | undefined)[],
  outputs: readonly (TensorType | undefined)[],
): Factor[] {
  const [left, right] = notation.split("->");
  const tensors = [...inputs, ...outputs];
  const terms = [...left!.split(","), ...right!.split(",")].map(parseTerm);
  const places = new Map<string, { size: Dim; at: Map<number, number> }>();
  const leading = Math.max(
    0,
    ...terms.map((t, i) => (t.star ? (tensors[i]?.shape?.length ?? 0) - t.letters.length : 0)),
  );
  terms.forEach((term, i) => {
    const shape = tensors[i]?.shape;
    if (!shape) return;
    const stars = term.star ? shape.length - term.letters.length : 0;
    shape.forEach((size, dim) => {
      // Leading dims get letters of their own, numbered from the right.
      const letter = dim < stars ? `*${leading - stars + dim}` : term.letters[dim - stars];
      if (letter === null || letter === undefined) return;
      const place = places.get(letter) ?? { size: 1, at: new Map() };
      if (dimEquals(place.size, 1)) place.size = size;
      place.at.set(i, dim);
      places.set(letter, place);
    });
  });
  const factors: Factor[] = [];
  for (const [name, { size, at: where }] of [...places].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    if (dimEquals(size, 1)) continue;
    const place = (i: number) => {
      const dim = where.get(i);
      return dim === undefined || dimEquals(tensors[i]!.shape![dim]!, 1) ? null : at(dim);
    };
    const outs = outputs.map((_, o) => place(inputs.length + o));
    factors.push({
      name,
      size,
      inputs: inputs.map((_, i) => place(i)),
      outputs: outs,
      ...(outs.some((o) => o === null) ? { reduce: "sum" as const } : {}),
    });
  }
  return factors;
}

function parseTerm(text: string): Term {
  const star = text.startsWith("*");
  const letters: (string | null)[] = [];
  let whole = false;
  for (const c of star ? text.slice(1) : text) {
    if (c === "[") whole = true;
    else if (c === "]") whole = false;
    else letters.push(whole || c === "." ? null : c);
  }
  return { letters, star };
}
