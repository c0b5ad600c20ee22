/**
 * What an op does to the samples of a batch, where factors do not say it: what {@linkcode OpDef.rows} and
 * {@linkcode OpDef.numbers} work with.
 *
 * A batch is shared by giving each group of ranks a run of its samples. Of every tensor a proof (src/plan/row_proof.ts)
 * knows what a group has of it:
 *
 * - no `place`: what all samples have (weights, masks by position): the group has the same tensor;
 * - a `place`: the part that belongs to the group's samples, in the order of the whole;
 * - `numbers`: integers that tell rows. A group counts its rows from 0, so that it has other numbers than the whole:
 *   `coefficient · (the group's first row)` less. Exporters make them to select (`mask[batch, position]`), and where they
 *   select just the row that they stand for, the group finds what the whole finds there.
 *
 * @example
 * Range(0, batch)  ->  place {dim 0, inner 1}, numbers 1·row + 0
 */
import { type Dim, dimAdd, dimEquals, dimMul, dimSub } from "../core/dim.ts";
import type { TypedContext } from "./def.ts";
import type { At } from "./factors.ts";

/** Where the samples are in a tensor: index `(o · rows + row) · inner + i` of `dim`, o < outer, belongs to sample `row`. */
export interface RowPlace {
  /** Counted from 0. */
  readonly dim: number;
  /** How often the samples repeat in the dim: 1 where they are its outermost index. */
  readonly outer: Dim;
  /** Elements of the dim for each unit of `of`: 1 where it has the dim for itself. */
  readonly inner: Dim;
  /** The symbol whose units belong to samples: the batch, or a list of entries (of NonZero), each of one sample. */
  readonly of: string;
}

/** An integer `coefficient · row + rest`, where `row` is the number of the sample to which the element belongs, low ≤ rest < high. */
export interface RowNumber {
  readonly coefficient: Dim;
  readonly low: Dim;
  readonly high: Dim;
}

/** The integers of a tensor: of all elements, or by index of dim `along` (coordinates). What is undefined tells no row. */
export interface RowNumbers {
  readonly along?: number;
  readonly of: readonly (RowNumber | undefined)[];
}

/** What is known of a tensor. */
export interface RowFact {
  readonly place?: RowPlace | undefined;
  readonly numbers?: RowNumbers | undefined;
}

/** What {@linkcode OpDef.rows} and {@linkcode OpDef.numbers} are given. */
export interface RowsContext extends TypedContext {
  /** By input. */
  readonly facts: readonly RowFact[];
  /** The symbol of the batch. */
  readonly batch: string;
  /** Whether a size depends on how many samples there are. */
  readonly counts: (size: Dim | undefined) => boolean;
  /** A place in dim `dim` of this size, outermost, where it is a multiple of the batch, or of a list. */
  readonly placeIn: (size: Dim, dim: number) => RowPlace | undefined;
}

/** What an op makes of the samples: facts of its outputs, or why it mixes them; undefined where its factors tell. */
export type RowsOutcome = readonly RowFact[] | { readonly mixes: string } | undefined;

/** Whether some integer tells a row, so that a group has another one than the whole. */
export function tellsRows(numbers: RowNumbers | undefined): boolean {
  return numbers?.of.some((n) => n !== undefined && n.coefficient !== 0) ?? false;
}

/** The number of all elements, where there is one. */
export function oneNumber(numbers: RowNumbers | undefined): RowNumber | undefined {
  return numbers && numbers.along === undefined ? numbers.of[0] : undefined;
}

/** Integers of [low, high) that tell no row. */
export function plainNumbers(low: Dim, high: Dim): RowNumbers {
  return { of: [{ coefficient: 0, low, high }] };
}

/** Whether a size is never negative, whatever its symbols stand for. */
export function isNatural(d: Dim): boolean {
  return typeof d === "number" ? d >= 0 : d.terms.every((t) => t.coefficient >= 0);
}

/**
 * Whether indices into dim `place.dim` are of the row that they belong to: `inner · row + rest`, 0 ≤ rest < inner, so that
 * they select what belongs to the same sample, in a group as in the whole.
 */
export function selectsOwnRow(number: RowNumber | undefined, place: RowPlace | undefined): boolean {
  return number !== undefined && place?.outer === 1 && dimEquals(number.coefficient, place.inner) &&
    number.coefficient !== 0 && isNatural(number.low) && isNatural(dimSub(place.inner, number.high));
}

/** Why something is selected for which {@linkcode selectsOwnRow} cannot be told. */
export const NOT_OWN_ROW = "it selects along the dim of the samples, by what is not known to be their own number";

/** {@linkcode OpDef.numbers} of an op whose outputs consist of elements of input 0, where its factors say. */
export function movedNumbers(
  { facts: [fact], outputs }: RowsContext,
  factors: readonly { readonly inputs: readonly (At | null)[]; readonly outputs: readonly (At | null)[] }[],
): readonly (RowNumbers | undefined)[] {
  const numbers = fact?.numbers;
  if (numbers?.along === undefined) return outputs.map(() => numbers);
  const isPlain = (a: At | null | undefined) => a?.inner === 1 && a.outer === 1;
  return outputs.map((type, i) => {
    for (const { inputs: [from], outputs: to } of factors) {
      const at = to[i];
      if (!from || !at || from.dim !== numbers.along || !isPlain(from) || !isPlain(at) || at.offset !== 0) continue;
      const size = type?.shape?.[at.dim], { offset } = from;
      if (typeof size === "number") return numbersAlong(at.dim, numbers.of.slice(offset, offset + size), size);
    }
    return undefined;
  });
}

/** Numbers by index of dim `dim`, which is of `size`; undefined where there are not as many. */
export function numbersAlong(dim: number, of: RowNumbers["of"], size: number): RowNumbers | undefined {
  if (of.length !== size) return undefined;
  return size === 1 ? { of } : { along: dim, of };
}

/** The sum of two numbers of one row. */
export function addNumbers(a: RowNumber, b: RowNumber): RowNumber {
  return {
    coefficient: dimAdd(a.coefficient, b.coefficient),
    low: dimAdd(a.low, b.low),
    high: dimSub(dimAdd(a.high, b.high), 1),
  };
}

/** The product with a number that is known and not negative; undefined where neither is. */
export function scaleNumber(a: RowNumber, b: RowNumber): RowNumber | undefined {
  const exact = (n: RowNumber) => n.coefficient === 0 && dimEquals(dimSub(n.high, n.low), 1) && isNatural(n.low);
  const [by, x] = exact(b) ? [b.low, a] : exact(a) ? [a.low, b] : [undefined, a];
  if (by === undefined) return undefined;
  return {
    coefficient: dimMul(x.coefficient, by),
    low: dimMul(x.low, by),
    high: dimAdd(dimMul(dimSub(x.high, 1), by), 1),
  };
}

/** Whether the samples are in the same places of two tensors. */
export function samePlace(a: RowPlace | undefined, b: RowPlace | undefined): boolean {
  return a !== undefined && b !== undefined && a.dim === b.dim && a.of === b.of && dimEquals(a.inner, b.inner) &&
    dimEquals(a.outer, b.outer);
}
