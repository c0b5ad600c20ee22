/** A module of the program that is bundled. */
export const here = import.meta.url;
/** Fails, so that a stack can be looked at. */
export function fail(): never {
  throw new Error("from a part");
}
