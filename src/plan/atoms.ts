/**
 * Dims that are atoms: never cut, because they lie inside a unit that is.
 *
 * A dim that elsewhere is the minor part of a merged one (head_dim within heads·head_dim) is an atom, and so is every
 * dim with the same index: head_dim of keys, of rotary tables, of caches. Cutting it would split heads, at a collective
 * for every product of queries and keys. A dim that is major somewhere (heads, in batch·heads·head_dim) is none.
 */
import type { PlannedCall } from "./places.ts";

/** The atoms among all dims of all values. */
export class Atoms {
  readonly #parent = new Map<string, string>();
  readonly #atoms = new Set<string>();

  constructor(calls: readonly PlannedCall[]) {
    const minor: string[] = [], major: string[] = [];
    for (const { components } of calls) {
      for (const { factors, groups } of components) {
        factors.forEach((_, index) => {
          const places = groups.flatMap((g) =>
            g.members.filter((m) => m.factor === index).map((m) => ({ g, at: m.at }))
          );
          const own = places.filter(({ g, at }) =>
            g.full && g.members.length === 1 && at.inner === 1 && at.outer === 1
          );
          if (own.length === 0) return;
          const key = (k: number) => `${own[k]!.g.value}\n${own[k]!.g.dim}`;
          own.forEach((_, k) => this.#parent.set(this.#find(key(k)), this.#find(key(0))));
          if (places.some(({ at }) => typeof at.outer === "number" && at.outer > 1)) minor.push(key(0));
          if (places.some(({ at }) => at.inner > 1)) major.push(key(0));
        });
      }
    }
    for (const key of minor) this.#atoms.add(this.#find(key));
    for (const key of major) this.#atoms.delete(this.#find(key));
  }

  /** Whether a dim must stay whole. */
  has(value: string, dim: number): boolean {
    return this.#atoms.has(this.#find(`${value}\n${dim}`));
  }

  #find(key: string): string {
    let root = key;
    for (let up = this.#parent.get(root); up !== undefined && up !== root; up = this.#parent.get(root)) root = up;
    if (root !== key) this.#parent.set(key, root);
    return root;
  }
}
