/**
 * Candidate layouts: for every dim of every value, the cuts that the search may choose from.
 *
 * Seeds are balanced cuts of the factors of all calls, put on the dims where these sit. They spread through the factors
 * of all calls, forwards and backwards, until nothing new appears: a cut of heads becomes one of `heads·head_dim`, and
 * of the weight before it. Where several factors make up one dim (q‖k‖v), the cuts of the pieces are combined. Where a
 * cut lies inside a unit (kv heads that are shared by q heads), the units that a rank needs in part become a candidate
 * too: kv heads are then held by several ranks.
 *
 * Seeds with structure (heads before plain features) go first, as the number of candidates a dim is bounded. What a cut
 * of one dim of a call means for its other dims is worked out once for all equal calls.
 */
import { dependsOnData } from "../core/dim.ts";
import type { Graph } from "../graph/graph.ts";
import {
  balanced,
  concatLayouts,
  evenlyShared,
  isPartition,
  isWhole,
  type Layout,
  unscaleCovering,
  window,
} from "../graph/layout.ts";
import { Atoms } from "./atoms.ts";
import { Layouts } from "./layouts.ts";
import {
  type Component,
  dimLayout,
  factorBlock,
  factorLayouts,
  fitsDim,
  type Group,
  isSimple,
  placeLayout,
  type PlannedCall,
  windowOf,
} from "./places.ts";

/** Most candidates of one dim of one value. */
const MOST = 8;

/** Candidate layouts by value and dim. Equal lists are the same object. */
export class Candidates {
  /** What makes equal layouts one object; those of the candidates are. */
  readonly layouts: Layouts;
  readonly #lists = new Map<string, (readonly Layout[])[]>();
  readonly #ids = new Map<readonly Layout[], number>();
  readonly #known = new Map<string, readonly Layout[]>();

  constructor(layouts: Layouts) {
    this.layouts = layouts;
  }

  /** The cuts of dim `dim` of a value, in order of discovery. */
  of(value: string, dim: number): readonly Layout[] {
    return this.#lists.get(value)?.[dim] ?? NONE;
  }

  /** A number for the list of a dim: equal lists have equal numbers. */
  idOf(value: string, dim: number): number {
    return this.#ids.get(this.of(value, dim)) ?? -1;
  }

  /** Sets the cuts of a dim. */
  set(value: string, dim: number, list: readonly Layout[]): void {
    const key = list.map((l) => l.key).join();
    let known = this.#known.get(key);
    if (!known) {
      this.#known.set(key, known = list);
      this.#ids.set(list, this.#ids.size);
    }
    let dims = this.#lists.get(value);
    if (!dims) this.#lists.set(value, dims = []);
    dims[dim] = known;
  }
}

const NONE: readonly Layout[] = [];

/** All candidate layouts of a graph. */
export function candidateLayouts(graph: Graph, calls: readonly PlannedCall[], ranks: number): Candidates {
  return new Spread(graph, calls, ranks).run();
}

/** The cuts of one dim of one value, while they are being found. */
interface Cuts {
  readonly value: string;
  readonly dim: number;
  readonly layouts: Layout[];
  /** Never cut: an atom, or a known size. */
  readonly closed: boolean;
  /** Those that carry its layouts on. */
  readonly tasks: Task[];
  fused?: Fused;
}

/** The pieces of a fused dim, by window. */
interface Fused {
  readonly size: number;
  readonly pieces: Map<number, { readonly start: number; readonly end: number; readonly layouts: Layout[] }>;
  changed: boolean;
}

/** A cut that follows from another one, or from a seed: of a whole dim, or of a piece of a fused one. */
interface Put {
  /** Index of the component's group. */
  readonly group: number;
  /** Key of the piece's window; undefined for the whole dim. */
  readonly piece?: number;
  readonly layout: Layout;
}

/** What is known of a component of equal calls. */
interface Knowledge {
  /** Before and after unstructured seeds: by group, what follows from each of its layouts. */
  readonly carried: Record<"structured" | "plain", Map<Layout, readonly Put[]>[]>;
  readonly seeds: { structured?: readonly Put[]; plain?: readonly Put[] };
}

/** One component of one call, and how many of each group's candidates have been carried through it. */
interface Task {
  readonly component: Component;
  readonly outputsFrom: number;
  readonly knowledge: Knowledge;
  readonly cuts: readonly Cuts[];
  readonly done: number[];
  /** Whether some dim may have candidates that have not been carried through. */
  pending: boolean;
}

class Spread {
  readonly #graph: Graph;
  readonly #ranks: number;
  readonly #tasks: Task[] = [];
  readonly #cuts = new Map<string, Cuts[]>();
  readonly #fused: Cuts[] = [];
  readonly #layouts = new Layouts();
  readonly #atoms: Atoms;
  #phase: "structured" | "plain" = "structured";
  #changed = false;

  constructor(graph: Graph, calls: readonly PlannedCall[], ranks: number) {
    this.#graph = graph;
    this.#ranks = ranks;
    this.#atoms = new Atoms(calls);
    const known = new Map<Component, Knowledge>();
    for (const { names, shape } of calls) {
      for (const component of shape.components) {
        const { groups } = component;
        let knowledge = known.get(component);
        if (!knowledge) {
          const maps = () => groups.map(() => new Map<Layout, readonly Put[]>());
          known.set(component, knowledge = { carried: { structured: maps(), plain: maps() }, seeds: {} });
        }
        const cuts = groups.map((g) => this.#cutsOf(names[g.tensor]!, g.dim));
        const done = groups.map(() => 0);
        const task: Task = { component, outputsFrom: shape.inputs, knowledge, cuts, done, pending: false };
        this.#tasks.push(task);
        for (const c of cuts) c.tasks.push(task);
        groups.forEach((g, i) => isSimple(g) || this.#registerFused(component, g, cuts[i]!));
      }
    }
  }

  run(): Candidates {
    const candidates = new Candidates(this.#layouts);
    if (this.#ranks === 1) return candidates;
    for (const phase of ["structured", "plain"] as const) {
      this.#phase = phase;
      for (const task of this.#tasks) {
        this.#apply(task, task.knowledge.seeds[phase] ??= this.#seeds(task.component));
      }
      this.#fixpoint();
    }
    for (const dims of this.#cuts.values()) {
      for (const cuts of dims) {
        if (cuts && cuts.layouts.length > 0) candidates.set(cuts.value, cuts.dim, cuts.layouts);
      }
    }
    return candidates;
  }

  #seeds(component: Component): Put[] {
    return component.factors.flatMap((factor, index) => {
      if (typeof factor.size !== "number" || factor.size <= 1) return [];
      const ats = [...factor.inputs, ...factor.outputs];
      if (this.#phase === "structured" && !ats.some((at) => at && at.inner > 1)) return [];
      const layouts = new Map([[index, evenlyShared(factor.size, component.sharing[index]!, this.#ranks)]]);
      return component.groups.flatMap((_, g) => this.#puts(component, g, layouts));
    });
  }

  #fixpoint(): void {
    for (;;) {
      this.#changed = false;
      for (let i = 0; i < this.#tasks.length; i++) if (this.#tasks[i]!.pending) this.#carry(this.#tasks[i]!);
      for (let i = this.#tasks.length - 1; i >= 0; i--) if (this.#tasks[i]!.pending) this.#carry(this.#tasks[i]!);
      for (const cuts of this.#fused) if (cuts.fused!.changed) this.#combine(cuts, cuts.fused!);
      if (!this.#changed) return;
    }
  }

  /** Carries the new candidates of each dim of a component to its other dims. */
  #carry(task: Task): void {
    const { cuts, done, knowledge } = task;
    task.pending = false;
    for (let g = 0; g < cuts.length; g++) {
      const list = cuts[g]!.layouts;
      while (done[g]! < list.length) {
        const l = list[done[g]!++]!;
        const known = knowledge.carried[this.#phase][g]!;
        let puts = known.get(l);
        if (!puts) known.set(l, puts = this.#follow(task, g, l));
        this.#apply(task, puts);
      }
    }
  }

  /** What a layout of one dim of a component means for the others. */
  #follow({ component, outputsFrom }: Task, index: number, l: Layout): Put[] {
    const group = component.groups[index]!, exact = factorLayouts(component, group, l);
    if (!exact) return [];
    const covering = new Map<number, Layout>();
    for (const { factor, at } of group.members) {
      const known = exact.get(factor);
      // A fused dim that is cut with no regard to its pieces leaves some ranks without part of a piece.
      if (known && !isSimple(group) && idle(known) && !idle(l)) exact.delete(factor);
      if (known || this.#phase !== "structured" || group.tensor < outputsFrom || at.shared > 1) continue;
      const block = factorBlock(l, at, component.factors[factor]!.size);
      const cover = block && isPartition(block) ? unscaleCovering(block, at.inner) : undefined;
      if (cover) covering.set(factor, cover);
    }
    return component.groups.flatMap((other, o) => [
      ...(o !== index && exact.size > 0 ? this.#puts(component, o, exact) : []),
      ...(other.tensor < outputsFrom && covering.size > 0 ? this.#puts(component, o, covering) : []),
    ]);
  }

  /** Factor layouts as a cut of a dim: of all of it where they fill it, else of its pieces. */
  #puts(component: Component, index: number, layouts: ReadonlyMap<number, Layout>): Put[] {
    const group = component.groups[index]!;
    if (isSimple(group)) {
      const l = dimLayout(group, layouts);
      return l && isCandidate(l) && fitsDim(l, group.size) ? [{ group: index, layout: this.#layouts.of(l) }] : [];
    }
    return group.members.flatMap(({ factor, at }): Put[] => {
      const l = layouts.get(factor), w = windowOf(at, component.factors[factor]!.size);
      if (!l || !w || l.outer !== 1) return [];
      return [{ group: index, piece: pieceKey(w), layout: this.#layouts.of(placeLayout(l, at)) }];
    });
  }

  #apply(task: Task, puts: readonly Put[]): void {
    for (const { group, piece, layout } of puts) {
      const cuts = task.cuts[group]!;
      if (piece === undefined) {
        this.#add(cuts, layout);
        continue;
      }
      const held = cuts.fused?.pieces.get(piece);
      if (!held || held.layouts.length >= MOST || held.layouts.includes(layout)) continue;
      held.layouts.push(layout);
      cuts.fused!.changed = true;
      this.#changed = true;
    }
  }

  /** Adds a cut, unless it is there already or there is no room for it. */
  #add({ closed, layouts, tasks }: Cuts, l: Layout): void {
    if (closed || layouts.length >= MOST || layouts.includes(l)) return;
    layouts.push(l);
    for (const task of tasks) task.pending = true;
    this.#changed = true;
  }

  #cutsOf(value: string, dim: number): Cuts {
    let dims = this.#cuts.get(value);
    if (!dims) this.#cuts.set(value, dims = []);
    return dims[dim] ??= {
      value,
      dim,
      layouts: [],
      tasks: [],
      closed: this.#atoms.has(value, dim) || this.#graph.values.get(value)?.ints !== undefined,
    };
  }

  #registerFused(component: Component, group: Group, cuts: Cuts): void {
    if (typeof group.size !== "number" || cuts.closed) return;
    if (!cuts.fused) {
      cuts.fused = { size: group.size, pieces: new Map(), changed: false };
      this.#fused.push(cuts);
    }
    for (const { factor, at } of group.members) {
      const w = windowOf(at, component.factors[factor]!.size);
      if (!w || w[1] > group.size || cuts.fused.pieces.has(pieceKey(w))) continue;
      cuts.fused.pieces.set(pieceKey(w), { start: w[0], end: w[1], layouts: [] });
    }
  }

  /**
   * Combines the cuts of a fused dim's pieces. Pieces of one size are cut alike where they can be; sizes that differ
   * (q against k and v) give combinations, the earliest candidates first.
   */
  #combine(cuts: Cuts, fused: Fused): void {
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
      if (layouts.length === 0 && (this.#phase === "structured" && around.length > 0)) return;
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
      if (isCandidate(l)) this.#add(cuts, this.#layouts.of(l));
    }
  }
}

/** Whether some rank holds nothing. */
function idle(l: Layout): boolean {
  return l.parts.some((p) => p.length === 0);
}

/**
 * Whether a cut is worth considering. One that repeats a constant number of times (head_dim within heads·head_dim) is never
 * worth its many pieces; one that repeats as often as only data says has parts whose sizes no rank could tell.
 */
function isCandidate(l: Layout): boolean {
  return !(typeof l.outer === "number" && l.outer > 1) && !dependsOnData(l.outer) && !isWhole(l);
}

/** An identity for windows of dims of less than 2^26 elements. */
function pieceKey([start, end]: readonly [number, number]): number {
  return start * 2 ** 26 + end;
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
