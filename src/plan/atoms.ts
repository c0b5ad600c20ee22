/**
 * Dims that are atoms: never cut, because they lie inside a unit that is.
 *
 * A dim that elsewhere is the minor part of a merged one (head_dim within heads·head_dim) is an atom, and so is every
 * dim with the same index: head_dim of keys, of rotary tables, of caches. Cutting it would split heads, at a collective
 * for every product of queries and keys. A dim that is major somewhere (heads, in batch·heads·head_dim) is none.
 */
import { type Cell, join, rootOf } from "./cells.ts";
import type { CallShape, Group, PlannedCall } from "./places.ts";

/** A dim of a value, in a set with those of the same index. */
interface DimCell extends Cell<DimCell> {
  isAtom: boolean;
}

/** Dims of a call that have the same index, and what a factor's places say of it. */
interface Link {
  readonly groups: readonly Group[];
  readonly minor: boolean;
  readonly major: boolean;
}

/** The atoms among all dims of all values. */
export class Atoms {
  readonly #cells = new Map<string, DimCell[]>();

  constructor(calls: readonly PlannedCall[]) {
    const links = new Map<CallShape, Link[]>();
    const minor: DimCell[] = [], major: DimCell[] = [];
    for (const { names, shape } of calls) {
      let list = links.get(shape);
      if (!list) links.set(shape, list = linksOf(shape));
      for (const link of list) {
        const [first, ...rest] = link.groups.map((g) => this.#cell(names[g.tensor]!, g.dim));
        for (const cell of rest) join(cell, first!);
        if (link.minor) minor.push(first!);
        if (link.major) major.push(first!);
      }
    }
    for (const cell of minor) rootOf(cell).isAtom = true;
    for (const cell of major) rootOf(cell).isAtom = false;
  }

  /** Whether a dim must stay whole. */
  has(value: string, dim: number): boolean {
    const cell = this.#cells.get(value)?.[dim];
    return cell !== undefined && rootOf(cell).isAtom;
  }

  #cell(value: string, dim: number): DimCell {
    let dims = this.#cells.get(value);
    if (!dims) this.#cells.set(value, dims = []);
    return dims[dim] ??= { up: undefined, isAtom: false };
  }
}

function linksOf({ components }: CallShape): Link[] {
  return components.flatMap(({ factors, groups }) =>
    factors.flatMap((_, index): Link[] => {
      const places = groups.flatMap((g) => g.members.filter((m) => m.factor === index).map((m) => ({ g, at: m.at })));
      const own = places.filter(({ g, at }) => g.full && g.members.length === 1 && at.inner === 1 && at.outer === 1);
      return [...Map.groupBy(own, ({ at }) => at.shared).values()].map((list) => ({
        groups: list.map(({ g }) => g),
        minor: places.some(({ at }) => typeof at.outer === "number" && at.outer > 1),
        major: places.some(({ at }) => at.inner > 1),
      }));
    })
  );
}
