/**
 * Candidate layouts: for every dim of every value, the cuts that the search may choose from.
 *
 * Seeds are balanced cuts of the factors of all calls, put on the dims where these sit. They spread through the factors
 * of all calls, forwards and backwards, until nothing new appears: a cut of heads becomes one of `heads·head_dim`, and
 * of the weight before it. Where several factors make up one dim (q‖k‖v), the cuts of the pieces are combined. Where a
 * cut lies inside a unit (kv heads that are shared by q heads), the units that a rank needs in part become a candidate
 * too: kv heads are then held by several ranks.
 *
 * Seeds with structure (heads before plain features) go first, as the number of candidates a dim is bounded.
 */
import { dependsOnData } from "../core/dim.ts";
import { type Graph, valueOf } from "../graph/graph.ts";
import {
  balanced,
  concatLayouts,
  isPartition,
  isWhole,
  type Layout,
  unscale,
  unscaleCovering,
  window,
} from "../graph/layout.ts";
import { Atoms } from "./atoms.ts";
import {
  type Component,
  dimLayout,
  factorBlock,
  fitsDim,
  type Group,
  placeLayout,
  type PlannedCall,
  windowOf,
} from "./places.ts";

/** Most candidates of one dim of one value. */
const MOST = 8;

/** Candidate layouts by value and dim. */
export class Candidates {
  readonly #layouts = new Map<string, Layout[][]>();

  /** The cuts of dim `dim` of a value, in order of discovery. */
  of(value: string, dim: number): readonly Layout[] {
    return this.#layouts.get(value)?.[dim] ?? [];
  }

  /** Adds a cut; false if it is there already, or there is no room for it. */
  add(value: string, dim: number, l: Layout): boolean {
    const dims = this.#layouts.get(value) ?? [];
    this.#layouts.set(value, dims);
    const list = dims[dim] ??= [];
    if (list.length >= MOST || list.some((x) => x.key === l.key)) return false;
    list.push(l);
    return true;
  }
}

/** All candidate layouts of a graph. */
export function candidateLayouts(
  graph: Graph,
  calls: readonly PlannedCall[],
  ranks: number,
  isConstant: (value: string) => boolean,
): Candidates {
  return new Spread(graph, calls, ranks, isConstant).run();
}

/** One component of one call, and how many of each group's candidates have been carried through it. */
interface Task {
  readonly component: Component;
  readonly outputsFrom: number;
  /** Whether a cut may have parts that several ranks hold: not where activations meet in heavy work, done twice then. */
  readonly shares: boolean;
  readonly done: number[];
}

/** The pieces of a fused dim, by window: `start-end`. */
interface Fused {
  readonly value: string;
  readonly dim: number;
  readonly size: number;
  readonly pieces: Map<string, { readonly start: number; readonly end: number; readonly layouts: Layout[] }>;
  changed: boolean;
}

class Spread {
  readonly #graph: Graph;
  readonly #ranks: number;
  readonly #tasks: Task[] = [];
  readonly #fused = new Map<string, Fused>();
  readonly #candidates = new Candidates();
  readonly #atoms: Atoms;
  #structured = true;
  #changed = false;

  constructor(
    graph: Graph,
    calls: readonly PlannedCall[],
    ranks: number,
    isConstant: (value: string) => boolean,
  ) {
    this.#graph = graph;
    this.#ranks = ranks;
    this.#atoms = new Atoms(calls);
    for (const { node, def, components } of calls) {
      const outputsFrom = node.inputs.length;
      for (const component of components) {
        const shares = mayShare(component, { heavy: def?.flops !== undefined, outputsFrom, isConstant });
        this.#tasks.push({ component, outputsFrom, shares, done: component.groups.map(() => 0) });
        component.groups.filter((g) => !simple(g)).forEach((g) => this.#registerFused(component, g));
      }
    }
  }

  run(): Candidates {
    if (this.#ranks === 1) return this.#candidates;
    for (const structured of [true, false]) {
      this.#structured = structured;
      for (const task of this.#tasks) this.#seed(task);
      this.#fixpoint();
    }
    return this.#candidates;
  }

  #seed({ component }: Task): void {
    component.factors.forEach((factor, index) => {
      if (typeof factor.size !== "number" || factor.size <= 1) return;
      const ats = [...factor.inputs, ...factor.outputs];
      if (this.#structured && !ats.some((at) => at && at.inner > 1)) return;
      const layouts = new Map([[index, balanced(factor.size, this.#ranks)]]);
      for (const group of component.groups) this.#put(component, group, layouts);
    });
  }

  #fixpoint(): void {
    for (;;) {
      this.#changed = false;
      for (const task of this.#tasks) this.#carry(task);
      for (const task of this.#tasks.toReversed()) this.#carry(task);
      for (const fused of this.#fused.values()) if (fused.changed) this.#combine(fused);
      if (!this.#changed) return;
    }
  }

  /** Carries the new candidates of each dim of a component to its other dims. */
  #carry({ component, outputsFrom, shares, done }: Task): void {
    component.groups.forEach((group, g) => {
      const list = this.#candidates.of(group.value, group.dim);
      if (done[g] === list.length) return;
      while (done[g]! < list.length) {
        const l = list[done[g]!++]!;
        if (!shares && !isPartition(l)) continue;
        const exact = new Map<number, Layout>(), covering = new Map<number, Layout>();
        for (const { factor, at } of group.members) {
          const block = factorBlock(l, at, component.factors[factor]!.size);
          const layout = block && unscale(block, at.inner);
          // A fused dim that is cut with no regard to its pieces leaves some ranks without part of a piece.
          if (layout && !simple(group) && idle(layout) && !idle(l)) continue;
          if (layout) exact.set(factor, layout);
          else if (block && this.#structured && group.tensor >= outputsFrom && isPartition(block)) {
            const cover = unscaleCovering(block, at.inner);
            if (cover) covering.set(factor, cover);
          }
        }
        for (const other of component.groups) {
          if (other !== group && exact.size > 0) this.#put(component, other, exact);
          if (other.tensor < outputsFrom && covering.size > 0) this.#put(component, other, covering);
        }
      }
    });
  }

  /** Puts factor layouts on a dim: at once where they fill it, else as pieces to be combined. */
  #put(component: Component, group: Group, layouts: ReadonlyMap<number, Layout>): void {
    if (simple(group)) {
      const l = dimLayout(group, layouts);
      if (l) this.#add(group.value, group.dim, l);
      return;
    }
    const fused = this.#fused.get(`${group.value}:${group.dim}`);
    for (const { factor, at } of group.members) {
      const l = layouts.get(factor), w = windowOf(at, component.factors[factor]!.size);
      const piece = w && fused?.pieces.get(`${w[0]}-${w[1]}`);
      if (!l || !piece || l.outer !== 1) continue;
      const placed = placeLayout(l, at);
      if (piece.layouts.length >= MOST || piece.layouts.some((x) => x.key === placed.key)) continue;
      piece.layouts.push(placed);
      fused!.changed = true;
      this.#changed = true;
    }
  }

  #add(value: string, dim: number, l: Layout): void {
    const { ints, type } = valueOf(this.#graph, value);
    // A cut that repeats a constant number of times (head_dim within heads·head_dim) is never worth its many pieces.
    if (this.#atoms.has(value, dim)) return;
    // How often such a cut repeats is not known before the run, so no rank could say the size of its part.
    if (dependsOnData(l.outer)) return;
    if (ints || typeof l.outer === "number" && l.outer > 1 || isWhole(l) || !fitsDim(l, type.shape![dim]!)) return;
    if (this.#candidates.add(value, dim, l)) this.#changed = true;
  }

  #registerFused(component: Component, group: Group): void {
    if (typeof group.size !== "number") return;
    const key = `${group.value}:${group.dim}`;
    const fused = this.#fused.get(key) ??
      { value: group.value, dim: group.dim, size: group.size, pieces: new Map(), changed: false };
    this.#fused.set(key, fused);
    for (const { factor, at } of group.members) {
      const w = windowOf(at, component.factors[factor]!.size);
      if (!w || w[1] > fused.size) continue;
      const piece = `${w[0]}-${w[1]}`;
      if (!fused.pieces.has(piece)) fused.pieces.set(piece, { start: w[0], end: w[1], layouts: [] });
    }
  }

  /**
   * Combines the cuts of a fused dim's pieces. Pieces of one size are cut alike where they can be; sizes that differ
   * (q against k and v) give combinations, the earliest candidates first.
   */
  #combine(fused: Fused): void {
    fused.changed = false;
    const pieces = [...fused.pieces.values()];
    const borders = [...new Set([0, fused.size, ...pieces.flatMap((p) => [p.start, p.end])])].toSorted((a, b) => a - b);
    const intervals: { size: number; layouts: readonly Layout[] }[] = [];
    for (let i = 0; i + 1 < borders.length; i++) {
      const [start, end] = [borders[i]!, borders[i + 1]!];
      const around = pieces.filter((p) => p.start <= start && end <= p.end);
      const layouts = uniqueLayouts(
        around.flatMap((p) => p.layouts.map((l) => window(l, start - p.start, end - p.start))),
      );
      if (layouts.length === 0 && (this.#structured && around.length > 0)) return;
      intervals.push({ size: end - start, layouts: layouts.length ? layouts : [balanced(end - start, this.#ranks)] });
    }
    const sizes = [...new Set(intervals.map((i) => i.size))];
    const choices = sizes.map((size) => {
      const [first, ...rest] = intervals.filter((i) => i.size === size);
      const alike = first!.layouts.filter((l) => rest.every((r) => r.layouts.some((x) => x.key === l.key)));
      return alike.length ? alike : [undefined];
    });
    for (const pick of combinations(choices.map((c) => c.length), MOST)) {
      const chosen = new Map(sizes.map((size, i) => [size, choices[i]![pick[i]!]]));
      const l = concatLayouts(intervals.map((i) => chosen.get(i.size) ?? i.layouts[0]!));
      this.#add(fused.value, fused.dim, l);
    }
  }
}

/** Whether parts of a component's layout may be held by several ranks: not where activations meet in heavy work. */
export function mayShare(
  component: Component,
  call: { readonly heavy: boolean; readonly outputsFrom: number; readonly isConstant: (value: string) => boolean },
): boolean {
  return !call.heavy || component.groups.every((g) => g.tensor >= call.outputsFrom || call.isConstant(g.value));
}

/** Whether some rank holds nothing. */
function idle(l: Layout): boolean {
  return l.parts.some((p) => p.length === 0);
}

/** Whether the dim follows from one factor. */
function simple(group: Group): boolean {
  return group.full && group.members.length === 1;
}

function uniqueLayouts(layouts: readonly Layout[]): Layout[] {
  return [...new Map(layouts.map((l) => [l.key, l])).values()];
}

/** Index tuples below `counts`, by ascending sum then lexicographically; at most `most`. */
function combinations(counts: readonly number[], most: number): number[][] {
  const out: number[][] = [];
  const highest = counts.reduce((sum, c) => sum + c - 1, 0);
  for (let sum = 0; sum <= highest && out.length < most; sum++) extend([], sum);
  return out;

  function extend(prefix: number[], left: number): void {
    if (out.length >= most) return;
    if (prefix.length === counts.length) {
      if (left === 0) out.push(prefix);
      return;
    }
    for (let i = 0; i < counts[prefix.length]! && i <= left; i++) extend([...prefix, i], left - i);
  }
}
