/**
 * Redistribution: the collective, or the local move, that turns one placement of a tensor into another.
 *
 *     from \ to   R            S                         P(sum)
 *     R           –            slice                     mask
 *     S           all_gather   slice, where it is within –
 *     P           all_reduce   reduce_scatter            –
 *
 * What the table lacks goes by way of R.
 */
import type { CollectiveKind } from "../graph/graph.ts";
import { contains } from "../graph/layout.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";

/** One step of a redistribution. */
export interface RedistributeStep {
  readonly kind: CollectiveKind;
  readonly from: Placement;
  readonly to: Placement;
}

/** The one step from `from` to another placement `to`, or undefined where it takes two. */
export function directStep(from: Placement, to: Placement): CollectiveKind | undefined {
  if (from.kind === "R") {
    return to.kind === "S" ? "slice" : to.kind === "P" && to.reduction === "sum" ? "mask" : undefined;
  }
  if (from.kind === "P") return to.kind === "R" ? "all_reduce" : to.kind === "S" ? "reduce_scatter" : undefined;
  if (to.kind === "R") return "all_gather";
  return to.kind === "S" && to.dim === from.dim && contains(from.layout, to.layout) ? "slice" : undefined;
}

/** The steps from one placement to another: none where they are equal, at most two, the first of two ending in R. */
export function redistributeSteps(from: Placement, to: Placement): RedistributeStep[] {
  if (placementKey(from) === placementKey(to)) return [];
  const kind = directStep(from, to);
  if (kind) return [{ kind, from, to }];
  const first = directStep(from, REPLICATE), second = directStep(REPLICATE, to);
  return first && second ? [{ kind: first, from, to: REPLICATE }, { kind: second, from: REPLICATE, to }] : [];
}

/** Whether ranks talk in a step; the others are local. */
export function communicates(kind: CollectiveKind): boolean {
  return kind === "all_reduce" || kind === "reduce_scatter" || kind === "all_gather";
}
