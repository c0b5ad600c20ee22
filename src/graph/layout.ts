/**
 * How one dim of a tensor is cut: for every rank, the index ranges that it holds.
 *
 * One representation serves every case. Balanced and uneven shards are one range a rank; a fused dim (q‖k‖v) is one
 * range a segment; a segment that all ranks hold is the same range everywhere; kv heads that several ranks need are
 * ranges that overlap; and a dim that merges an outer, symbolic dim with the sharded one (`batch·heads`) repeats the
 * ranges `outer` times. A rank's local dim is its ranges, concatenated in order.
 */
import { type Dim, dimKey, dimMul } from "../core/dim.ts";

/** A half-open range of indices. */
export type Range = readonly [start: number, end: number];

/** The cut of one dim over `parts.length` ranks. Equal layouts have equal keys. */
export interface Layout {
  /** Size of the block that is cut; the whole dim is `outer · size`. */
  readonly size: number;
  /** How often the block repeats in the dim; 1 but for merged dims. */
  readonly outer: Dim;
  /** For every rank, ascending disjoint ranges within the block; may be empty. */
  readonly parts: readonly (readonly Range[])[];
  /** Identity. */
  readonly key: string;
}

/** Makes a layout; merges ranges that touch or overlap, and drops empty ones. */
export function layout(size: number, parts: readonly (readonly Range[])[], outer: Dim = 1): Layout {
  const clean = parts.map(mergeRanges);
  const key = `${outer === 1 ? "" : `${dimKey(outer)}*`}${size}:${
    clean.map((p) => p.map(([a, b]) => `${a}-${b}`).join("+")).join("|")
  }`;
  return { size, outer, parts: clean, key };
}

/** The balanced cut of `size` units over `ranks`: rank r starts at `r·⌊n/p⌋ + min(r, n mod p)`. */
export function balanced(size: number, ranks: number): Layout {
  return layout(size, Array.from({ length: ranks }, (_, r) => [balancedRange(size, ranks, r)]));
}

/** Rank `r`'s range of the balanced cut. */
export function balancedRange(size: number, ranks: number, r: number): Range {
  const start = (i: number) => i * Math.floor(size / ranks) + Math.min(i, size % ranks);
  return [start(r), start(r + 1)];
}

/** The layout in which every rank holds everything. */
export function wholeLayout(size: number, ranks: number): Layout {
  return layout(size, Array.from({ length: ranks }, () => [[0, size] as Range]));
}

/** Elements of the block that rank `r` holds. */
export function localSize(l: Layout, r: number): number {
  return l.parts[r]!.reduce((n, [a, b]) => n + b - a, 0);
}

/** Size of the local dim on rank `r`. */
export function localDim(l: Layout, r: number): Dim {
  return dimMul(l.outer, localSize(l, r));
}

/** The largest local block over all ranks: what decides the time of a step. */
export function maxLocalSize(l: Layout): number {
  return Math.max(...l.parts.map((_, r) => localSize(l, r)));
}

/** Whether every rank holds the whole dim. */
export function isWhole(l: Layout): boolean {
  return l.parts.every((_, r) => localSize(l, r) === l.size);
}

/** Whether every index is held by exactly one rank: what a sum over the shards needs. */
export function isPartition(l: Layout): boolean {
  const all = l.parts.flat().toSorted((a, b) => a[0] - b[0]);
  let at = 0;
  for (const [a, b] of all) {
    if (a !== at) return false;
    at = b;
  }
  return at === l.size;
}

/** Whether every index is held by at least one rank. */
export function isCover(l: Layout): boolean {
  const all = l.parts.flat().toSorted((a, b) => a[0] - b[0]);
  let at = 0;
  for (const [a, b] of all) {
    if (a > at) return false;
    at = Math.max(at, b);
  }
  return at >= l.size;
}

/** Whether every rank's part of `b` lies within its part of `a`, so that a local slice turns `a` into `b`. */
export function contains(a: Layout, b: Layout): boolean {
  return a.size === b.size && dimKey(a.outer) === dimKey(b.outer) &&
    b.parts.every((ranges, r) => ranges.every(([x, y]) => a.parts[r]!.some(([u, v]) => u <= x && y <= v)));
}

/** Every unit becomes `by` elements: the layout of `heads` as one of `heads·head_dim`. */
export function scale(l: Layout, by: number): Layout {
  return layout(l.size * by, l.parts.map((p) => p.map(([a, b]) => [a * by, b * by] as Range)), l.outer);
}

/** The inverse of {@linkcode scale}; undefined when a border lies inside a unit. */
export function unscale(l: Layout, by: number): Layout | undefined {
  if (l.size % by !== 0 || l.parts.some((p) => p.some(([a, b]) => a % by !== 0 || b % by !== 0))) return undefined;
  return layout(l.size / by, l.parts.map((p) => p.map(([a, b]) => [a / by, b / by] as Range)), l.outer);
}

/** Like {@linkcode unscale}, but a unit that is held in part is held whole: kv heads that a rank's q heads need. */
export function unscaleCovering(l: Layout, by: number): Layout | undefined {
  if (l.size % by !== 0) return undefined;
  const parts = l.parts.map((p) => p.map(([a, b]) => [Math.floor(a / by), Math.ceil(b / by)] as Range));
  return layout(l.size / by, parts, l.outer);
}

/**
 * Whether every `by` units that belong together (query heads of one kv head) are there on each rank in equal numbers, or not at
 * all: then a rank's units can be told from the order alone, as ops of attention do.
 */
export function isEvenlyShared(l: Layout, by: number): boolean {
  return by === 1 || l.parts.every((ranges) => {
    const counts = new Map<number, number>();
    for (const [a, b] of ranges) {
      for (let i = a; i < b; i++) counts.set(Math.floor(i / by), (counts.get(Math.floor(i / by)) ?? 0) + 1);
    }
    return new Set(counts.values()).size <= 1;
  });
}

/** One object for all that {@linkcode evenlyShared} has found. */
const EVENLY_SHARED = new Map<string, Layout>();

/**
 * The cut of `size` units over `ranks` in which the busiest rank has the fewest, of those that are {@linkcode isEvenlyShared}: with
 * fewer kv heads than ranks, several ranks have query heads of one kv head. Among equals, the fewest copies of what is
 * shared, then more on the lower ranks. The balanced cut where nothing is shared.
 */
export function evenlyShared(size: number, by: number, ranks: number): Layout {
  if (by === 1) return balanced(size, ranks);
  const key = `${size}/${by}/${ranks}`;
  let known = EVENLY_SHARED.get(key);
  if (!known) EVENLY_SHARED.set(key, known = findEvenlyShared(size, by, ranks));
  return known;
}

/** By dynamic program over the units that the first ranks have: their most on a rank, and the copies of what is shared. */
function findEvenlyShared(size: number, by: number, ranks: number): Layout {
  const groupsOf = (a: number, b: number) => (a === b ? 0 : Math.floor((b - 1) / by) - Math.floor(a / by) + 1);
  const isEven = (a: number, b: number) => isEvenlyShared(layout(size, [[[a, b]]]), by);
  interface Cut {
    readonly most: number;
    readonly copies: number;
    readonly ends: readonly number[];
  }
  const better = (a: Cut, b: Cut | undefined) =>
    !b || a.most < b.most || (a.most === b.most && (a.copies < b.copies || (a.copies === b.copies && later(a, b))));
  const later = (a: Cut, b: Cut) => {
    const i = a.ends.findIndex((end, k) => end !== b.ends[k]);
    return i >= 0 && a.ends[i]! > b.ends[i]!;
  };
  let cuts = new Map<number, Cut>([[0, { most: 0, copies: 0, ends: [] }]]);
  for (let r = 0; r < ranks; r++) {
    const next = new Map<number, Cut>();
    for (const [from, { most, copies, ends }] of cuts) {
      for (let to = from; to <= size; to++) {
        if (!isEven(from, to)) continue;
        const cut = {
          most: Math.max(most, to - from),
          copies: copies + groupsOf(from, to),
          ends: [...ends, to],
        };
        if (better(cut, next.get(to))) next.set(to, cut);
      }
    }
    cuts = next;
  }
  const { ends } = cuts.get(size)!;
  return layout(size, ends.map((end, r): Range[] => [[ends[r - 1] ?? 0, end]]));
}

/** The layout of elements `[start, end)` of the dim, as a dim of its own. `outer` must be 1. */
export function window(l: Layout, start: number, end: number): Layout {
  const parts = l.parts.map((p) =>
    p.map(([a, b]) => [Math.max(a, start) - start, Math.min(b, end) - start] as Range).filter(([a, b]) => a < b)
  );
  return layout(end - start, parts);
}

/** Layouts of consecutive dims as the layout of their concatenation. */
export function concatLayouts(layouts: readonly Layout[]): Layout {
  const ranks = layouts[0]?.parts.length ?? 0;
  const parts: Range[][] = Array.from({ length: ranks }, () => []);
  let at = 0;
  for (const l of layouts) {
    l.parts.forEach((p, r) => parts[r]!.push(...p.map(([a, b]) => [a + at, b + at] as Range)));
    at += l.size;
  }
  return layout(at, parts);
}

/** The same cut with a constant number of repetitions written out as ranges, so that `outer` is 1 or symbolic. */
export function flatten(l: Layout): Layout {
  const { outer, size } = l;
  if (typeof outer !== "number" || outer === 1) return l;
  const blocks = Array.from({ length: outer }, (_, o) => o * size);
  return layout(size * outer, l.parts.map((p) => blocks.flatMap((at) => p.map(([a, b]): Range => [at + a, at + b]))));
}

/** Where global index `i` of the block lies in rank `r`'s local block, or undefined when the rank does not hold it. */
export function localIndex(l: Layout, r: number, i: number): number | undefined {
  let at = 0;
  for (const [a, b] of l.parts[r]!) {
    if (i >= a && i < b) return at + i - a;
    at += b - a;
  }
  return undefined;
}

/**
 * How the whole block is put together from the ranks' local blocks: pieces in global order, `[rank, start, end)` in that
 * rank's local indices. An index that several ranks hold is taken from the lowest.
 */
export function assemble(l: Layout): { rank: number; start: number; end: number }[] {
  const pieces: { rank: number; start: number; end: number; at: number }[] = [];
  const borders = [...new Set([0, l.size, ...l.parts.flat(2)])].toSorted((a, b) => a - b);
  for (let i = 0; i + 1 < borders.length; i++) {
    const [from, to] = [borders[i]!, borders[i + 1]!];
    const rank = l.parts.findIndex((_, r) => localIndex(l, r, from) !== undefined);
    if (rank < 0) throw new RangeError(`Cannot assemble layout ${l.key}: no rank holds index ${from}`);
    const start = localIndex(l, rank, from)!;
    const last = pieces.at(-1);
    if (last && last.rank === rank && last.end === start) last.end += to - from;
    else pieces.push({ rank, start, end: start + to - from, at: from });
  }
  return pieces.map(({ rank, start, end }) => ({ rank, start, end }));
}

function mergeRanges(ranges: readonly Range[]): readonly Range[] {
  const out: [number, number][] = [];
  for (const [a, b] of ranges) {
    if (a >= b) continue;
    const last = out.at(-1);
    if (last && last[0] <= a && a <= last[1]) last[1] = Math.max(last[1], b);
    else out.push([a, b]);
  }
  return out;
}
