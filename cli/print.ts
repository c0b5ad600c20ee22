// deno-lint-ignore-file no-console -- the one place from which commands speak
/** What commands say: results to stdout, everything else to stderr. */

/** Prints a result, with a newline. */
export function printResult(text: string): void {
  console.log("%s", text);
}

/** Prints what is no result: progress, notes, problems. */
export function printNote(text: string): void {
  console.error("%s", text);
}
