/**
 * How far an output may be from what is expected of a model that is held in 16 bits.
 *
 * Nobody can say so from the dtype alone: what a rounding does to a result depends on the model, on its depth and on the input. So it is
 * measured: the model runs once on one rank's CPU in 32 bits with each value rounded as it is computed (`Config.roundTo`), unsplit, without
 * fused ops, and its error against what is expected is what rounding costs here. The ranks' error may be as large, times
 *
 * - **2**, as two runs that round at other places have errors of one size and not one value;
 * - **√(1 + (n+1)/2 − 1/n)** for n ranks: where one rank rounds a sum once, n ranks round n parts of it, whose squares add up to one rounding,
 *   and then sums of 2 to n of them, of which the k-th has k/n of the square. As if every value were such a sum: no plan is worse;
 * - **1 + 3/√m** for m elements, as the spread of a few says little.
 *
 * That is held against the root of the mean square of an output's errors, which a defect of a shard, a bias or a sum moves by its own size.
 * The largest error may besides be as large as the largest of so many normal errors, or that of the rounded run where its errors are unequal.
 */
import { type HostTensor, toNumbers } from "../src/core/host_tensor.ts";

/** What is allowed of the errors of one output, beside the tolerance of its case. */
export interface RoundingBound {
  /** Root of the mean square. */
  readonly rms: number;
  /** The largest. */
  readonly max: number;
}

/** Two runs that round at other places. */
const MARGIN = 2;
/** Where rounding moves an output by more than this part of its size, wrong results cannot be told from right ones. */
const MOST = 0.25;

/** How the square root of summed squares of roundings grows from one rank to `ranks`. */
export function growth(ranks: number): number {
  return Math.sqrt(1 + (ranks + 1) / 2 - 1 / ranks);
}

/** The bound of an output that should be `expected` and is `rounded` where only rounding differs; a text where there is none: why. */
export function roundingBound(expected: HostTensor, rounded: HostTensor, ranks: number): RoundingBound | string {
  const should = toNumbers(expected), is = toNumbers(rounded);
  let errors = 0, sizes = 0, count = 0, largest = 0, broken = 0;
  for (let i = 0; i < should.length; i++) {
    if (Object.is(should[i], is[i]) && !Number.isFinite(should[i])) continue;
    const error = Math.abs(is[i]! - should[i]!);
    if (!Number.isFinite(error)) {
      broken++;
      continue;
    }
    errors += error * error;
    sizes += should[i]! * should[i]!;
    largest = Math.max(largest, error);
    count++;
  }
  if (count === 0) return broken === 0 ? { rms: 0, max: 0 } : "rounding alone leaves no finite number of it";
  if (errors > MOST * MOST * sizes) {
    const part = (100 * Math.sqrt(errors / sizes)).toFixed(0);
    return `rounding alone moves it by ${part} % of its size, so that nothing can be told from it`;
  }
  const factor = MARGIN * growth(ranks) * (1 + 3 / Math.sqrt(count)), rms = factor * Math.sqrt(errors / count);
  return { rms, max: Math.max(factor * largest, rms * Math.sqrt(2 * Math.log(2 * count))) };
}
