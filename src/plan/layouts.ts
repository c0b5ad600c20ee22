/** One object for all equal layouts and placements of one search, so that they are compared and looked up by identity. */
import type { Layout } from "../graph/layout.ts";
import { type Partial, PARTIAL_SUM, type Reduction, type Shard, shard } from "../graph/placement.ts";

/** The layouts and placements of one search. */
export class Layouts {
  readonly #layouts = new Map<string, Layout>();
  readonly #shards = new Map<Layout, Shard[]>();
  readonly #partials = new Map<Reduction, Partial>([["sum", PARTIAL_SUM]]);

  /** The one layout that equals `l`. */
  of(l: Layout): Layout {
    const known = this.#layouts.get(l.key);
    if (known) return known;
    this.#layouts.set(l.key, l);
    return l;
  }

  /** The one placement that cuts `dim` as `l` does. */
  shard(dim: number, l: Layout): Shard {
    const one = this.of(l);
    let shards = this.#shards.get(one);
    if (!shards) this.#shards.set(one, shards = []);
    return shards[dim] ??= shard(dim, one);
  }

  /** The one partial placement of a reduction. */
  partial(reduction: Reduction): Partial {
    let known = this.#partials.get(reduction);
    if (!known) this.#partials.set(reduction, known = { kind: "P", reduction });
    return known;
  }
}
