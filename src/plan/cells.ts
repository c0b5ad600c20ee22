/** Disjoint sets that are only ever joined, as trees of cells: what is known of a set is kept in its root. */

/** A member of a set. */
export interface Cell<Self> {
  /** Nearer to the root; undefined for the root itself. */
  up: Self | undefined;
}

/** The root of a cell's set: the same for all its members. */
export function rootOf<C extends Cell<C>>(cell: C): C {
  let root = cell;
  while (root.up) root = root.up;
  // The next way is short.
  for (let at = cell; at !== root;) {
    const next = at.up!;
    at.up = root;
    at = next;
  }
  return root;
}

/** Makes the sets of two cells one. */
export function join<C extends Cell<C>>(a: C, b: C): void {
  const x = rootOf(a), y = rootOf(b);
  if (x !== y) x.up = y;
}
