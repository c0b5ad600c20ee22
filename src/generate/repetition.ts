/**
 * The repetition penalty: makes tokens that have occurred less likely.
 *
 * Source: Keskar and others, CTRL (arXiv 1909.05858), in the form of Hugging Face's `RepetitionPenaltyLogitsProcessor`:
 * positive scores are divided by the penalty, negative ones multiplied.
 */

/** A copy of `scores` in which those of the tokens `seen` are penalised. */
export function penalised(scores: ArrayLike<number>, seen: Iterable<number>, penalty: number): Float64Array {
  const out = Float64Array.from(scores);
  for (const id of seen) {
    const score = out[id];
    if (score !== undefined) out[id] = score < 0 ? score * penalty : score / penalty;
  }
  return out;
}
