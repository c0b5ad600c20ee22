/** "Did you mean …?" for misspelt options, commands, inputs and passes. */
import leven from "leven";

/** The known word nearest to `word`, or undefined when none is near (more than a third of its letters differ). */
export function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const d = leven(word.toLowerCase(), candidate.toLowerCase());
    if (d < least) [best, least] = [candidate, d];
  }
  return best;
}

/** `: did you mean "x"?`, or `: known are "a", "b"` when nothing is near. Ready to be appended to a message. */
export function didYouMean(word: string, known: readonly string[]): string {
  const near = nearest(word, known);
  if (near !== undefined) return `: did you mean ${JSON.stringify(near)}?`;
  const shown = known.slice(0, 12).map((k) => JSON.stringify(k)).join(", ");
  return known.length ? `: known are ${shown}${known.length > 12 ? ", …" : ""}` : "";
}
