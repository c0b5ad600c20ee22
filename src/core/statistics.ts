/** What repeated measurements say: the middle, and how far they lie apart. */

/** A quantity that was measured several times. */
export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly largest: number;
}

/** The middle of `values`, or the mean of the two middle ones; NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b), at = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[at]! : (sorted[at - 1]! + sorted[at]!) / 2;
}

/** The spread of one number a round. */
export function spreadOver(rounds: readonly number[]): Spread {
  return { median: median(rounds), least: Math.min(...rounds), largest: Math.max(...rounds) };
}
