/** Which calls are layers, and what a strategy makes of one: column-, row-, vocabulary-parallel or replicated. */
import type { CallShape } from "./places.ts";
import type { Candidate } from "./strategies.ts";

/**
 * `column`: the weight is sharded and so are the outputs. `row`: the weight is sharded and the outputs are partial.
 * `vocab`: rows of a table, or the classes of a loss. `data`: the activations are sharded, the weight is whole.
 * `partial`: a whole weight applied to partial sums.
 */
export type LayerKind = "column" | "row" | "vocab" | "replicated" | "data" | "partial";

/** A weight of fewer elements does not make a call a layer: scalars and the sizes of shape arithmetic. */
const LEAST_ELEMENTS = 2;

/** Positions of the inputs that are constant data of more than an element, the largest first. */
export function weightInputs({ context, constant, known }: CallShape): number[] {
  const elements = (i: number) =>
    (context.inputs[i]!.shape ?? []).reduce<number>((n, d) => n * (typeof d === "number" ? d : 1), 1);
  return context.inputs
    .flatMap((type, i) => (type && constant[i] && !known[i] ? [i] : []))
    .filter((i) => elements(i) >= LEAST_ELEMENTS)
    .toSorted((a, b) => elements(b) - elements(a) || a - b);
}

/** What a strategy makes of a call, judged by its largest weight. */
export function layerKind(candidate: Candidate, weight: number | undefined): LayerKind {
  const { inputs, outputs, factors } = candidate;
  const placements = [...inputs, ...outputs];
  if (placements.every((p) => p.kind === "R")) return "replicated";
  if (factors.some((f) => f.internal)) return "vocab";
  const held = weight === undefined ? undefined : inputs[weight];
  if (held?.kind === "S") {
    if (outputs.some((p) => p.kind !== "P")) return "column";
    return factors.some((f) => f.selected) ? "vocab" : "row";
  }
  return placements.some((p) => p.kind === "S") ? "data" : "partial";
}
