/**
 * Where the results of a call live, when its inputs live where they do: read from the op's factors, as the planner does,
 * with no rule for any single op.
 *
 * A cut input dim that holds one factor alone carries its cut to every tensor that has the factor; a result without it is
 * partial, an addend (a bias) is given once. Where no factor fits, the inputs are made whole.
 */
import type { Layout } from "../graph/layout.ts";
import { PARTIAL_SUM, type Placement, placementKey, REPLICATE, shard } from "../graph/placement.ts";
import { dimEquals } from "../core/dim.ts";
import type { TypedContext } from "../ops/def.ts";
import type { At, Factor, FactorRule } from "../ops/factors.ts";
import type { Strategy } from "../plan/plan.ts";

/** The strategy that follows the inputs as they are placed; by position, `undefined` for inputs that are left out. */
export function followInputs(
  context: TypedContext,
  placements: readonly (Placement | undefined)[],
  rule: FactorRule,
): Strategy {
  return followPartials(context, placements, rule) ?? followShard(context, placements, rule) ?? {
    name: "-",
    inputs: placements.map(() => REPLICATE),
    outputs: context.outputs.map(() => REPLICATE),
  };
}

/** Sums go through ops that are linear in just the inputs that are partial. */
function followPartials(
  { outputs }: TypedContext,
  placements: readonly (Placement | undefined)[],
  rule: FactorRule,
): Strategy | undefined {
  const partial = placements.flatMap((p, i) => (p?.kind === "P" && p.reduction === "sum" ? [i] : []));
  const others = placements.some((p) => p?.kind === "S");
  if (partial.length === 0 || others || !rule.linear?.some((set) => set.join() === partial.join())) return undefined;
  return {
    name: "linear",
    inputs: placements.map((_, i) => (partial.includes(i) ? PARTIAL_SUM : REPLICATE)),
    outputs: outputs.map(() => PARTIAL_SUM),
  };
}

function followShard(
  context: TypedContext,
  placements: readonly (Placement | undefined)[],
  rule: FactorRule,
): Strategy | undefined {
  for (const [i, placement] of placements.entries()) {
    if (placement?.kind !== "S") continue;
    const { dim, layout } = placement;
    const inDim = rule.factors.filter((f) => f.inputs[i]?.dim === dim);
    const [factor] = inDim;
    if (inDim.length !== 1 || !dimEquals(factor!.size, layout.size) || !dimEquals(layout.outer, 1)) continue;
    const strategy = byFactor(context, { factor: factor!, layout });
    if (strategy) return strategy;
  }
  return undefined;
}

/** The strategy that cuts one factor, where it has a dim of its own in every tensor that it sits in. */
function byFactor(context: TypedContext, cut: { factor: Factor; layout: Layout }): Strategy | undefined {
  const { factor, layout } = cut;
  const places = [...factor.inputs, ...factor.outputs];
  if (places.some((at) => at && !isAlone(at))) return undefined;
  const reduction = factor.reduce ?? (factor.selected ? "sum" : undefined);
  const inputs = context.inputs.map((_, i): Placement => {
    const at = factor.inputs[i];
    return at ? shard(at.dim, layout) : factor.addends?.includes(i) ? PARTIAL_SUM : REPLICATE;
  });
  const outputs = context.outputs.map((_, o): Placement | undefined => {
    const at = factor.outputs[o];
    if (at) return shard(at.dim, layout);
    if (factor.internal) return REPLICATE;
    return reduction && { kind: "P", reduction };
  });
  if (outputs.includes(undefined)) return undefined;
  return { name: factor.name, inputs, outputs: outputs as Placement[] };
}

function isAlone(at: At): boolean {
  return at.inner === 1 && at.offset === 0 && dimEquals(at.outer, 1);
}

/** Whether two placements are the same. */
export function samePlacement(a: Placement, b: Placement): boolean {
  return placementKey(a) === placementKey(b);
}
