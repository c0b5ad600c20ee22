/** Where a tensor lives on the ranks of a mesh axis: `Replicate`, `Shard` of a dim, or `Partial`. */
import { isPartition, type Layout, localDim } from "./layout.ts";
import type { Shape } from "./types.ts";

/** How partial results are combined. */
export type Reduction = "sum" | "max" | "min";

/** Every rank holds the whole tensor. */
export interface Replicate {
  /** Tells placements apart. */
  readonly kind: "R";
}

/** Every rank holds ranges of one dim. */
export interface Shard {
  /** Tells placements apart. */
  readonly kind: "S";
  /** Which dim is cut. */
  readonly dim: number;
  /** How it is cut. */
  readonly layout: Layout;
}

/** Every rank holds a tensor of the full shape; the tensor is their sum (or maximum, minimum). */
export interface Partial {
  /** Tells placements apart. */
  readonly kind: "P";
  /** How the ranks' tensors combine. */
  readonly reduction: Reduction;
}

/** A tensor's placement on one mesh axis. */
export type Placement = Replicate | Shard | Partial;

/** The replicated placement. */
export const REPLICATE: Replicate = { kind: "R" };

/** The placement whose sum is the tensor. */
export const PARTIAL_SUM: Partial = { kind: "P", reduction: "sum" };

/** The placement that shards `dim`. */
export function shard(dim: number, layout: Layout): Shard {
  return { kind: "S", dim, layout };
}

/** An identity for maps. */
export function placementKey(p: Placement): string {
  return p.kind === "R" ? "R" : p.kind === "P" ? `P(${p.reduction})` : `S(${p.dim};${p.layout.key})`;
}

/** Short, as DTensor prints it: `R`, `P(sum)`, `S(1)`; with the sizes on the ranks where they are not equal: `S(1:2,1,1)`. */
export function printPlacement(p: Placement): string {
  if (p.kind !== "S") return placementKey(p);
  const { layout } = p;
  const sizes = layout.parts.map((part) => part.map(([a, b]) => b - a).join("+") || "0");
  const plain = isPartition(layout) && new Set(sizes).size === 1 && !sizes[0]!.includes("+");
  return plain ? `S(${p.dim})` : `S(${p.dim}:${sizes.join(",")})`;
}

/** The shape of rank `r`'s part of a tensor of `shape`. */
export function localShape(shape: Shape, p: Placement, r: number): Shape {
  return p.kind === "S" ? shape.map((d, i) => (i === p.dim ? localDim(p.layout, r) : d)) : shape;
}
