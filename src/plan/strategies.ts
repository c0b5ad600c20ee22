/**
 * The strategies of one call: what each choice of a factor to shard asks of the inputs and gives to the outputs.
 *
 * Nothing here knows an op. Column-parallel and row-parallel matrix products, sharded heads, vocabulary-parallel tables
 * and deferred sums all follow from the factors.
 */
import { dependsOnData } from "../core/dim.ts";
import { isPartition, isWhole, type Layout, maxLocalSize } from "../graph/layout.ts";
import { PARTIAL_SUM, type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import type { Factor } from "../ops/factors.ts";
import type { Candidates } from "./candidates.ts";
import {
  type Component,
  dimLayout,
  factorBlock,
  factorLayouts,
  type Group,
  placeLayout,
  type PlannedCall,
} from "./places.ts";
import type { Strategy } from "./plan.ts";

/** A strategy with what the cost model and explanations need of it. */
export interface Candidate extends Strategy {
  /** Share of the arithmetic that the busiest rank does. */
  readonly share: number;
  /** The factors that are sharded; none for the replicated and the linear strategies. */
  readonly factors: readonly Factor[];
}

/** Name of the strategies that pass partial sums on. */
export const LINEAR = "linear";

/** The strategies of every call. Calls of equal shapes whose dims have equal candidates get the same list. */
export function strategiesOfAll(calls: readonly PlannedCall[], candidates: Candidates): (readonly Candidate[])[] {
  const known = new Map<string, readonly Candidate[]>();
  return calls.map((call) => {
    const { shape, names } = call;
    let key = String(shape.id);
    for (const { groups } of shape.components) {
      for (const g of groups) key += `,${candidates.idOf(names[g.tensor]!, g.dim)}`;
    }
    let list = known.get(key);
    if (!list) known.set(key, list = strategiesOf(call, candidates));
    return list;
  });
}

/** All strategies of a call: replicated first, then by factor and layout, then the linear ones; no two alike. */
export function strategiesOf(call: PlannedCall, candidates: Candidates): Candidate[] {
  const { node, names, shape } = call;
  const all = [replicated(call)];
  const seen = new Set([keyOf(all[0]!)]);
  // Truths do not add up.
  const isBool = node.outputs.map((_, i) => shape.context.outputs[i]?.dtype === "bool");
  const push = (c: Candidate | undefined) => {
    if (!c || seen.has(keyOf(c)) || c.outputs.some((p, i) => p.kind === "P" && isBool[i])) return;
    seen.add(keyOf(c));
    all.push(c);
  };
  for (const component of shape.components) {
    for (const driver of component.groups) {
      if (new Set(driver.members.map((m) => m.factor)).size < component.factors.length) continue;
      for (const l of candidates.of(names[driver.tensor]!, driver.dim)) {
        push(sharded(call, { component, driver, layout: l, candidates }));
      }
    }
  }
  for (const set of shape.rule.linear ?? []) {
    const reads = set.filter((i) => node.inputs[i] !== undefined && node.inputs[i] !== "");
    // Any placement of constant data is free.
    if (reads.length < set.length || !reads.some((i) => !shape.constant[i])) continue;
    push({
      name: LINEAR,
      inputs: node.inputs.map((_, i) => (set.includes(i) ? PARTIAL_SUM : REPLICATE)),
      outputs: node.outputs.map((name) => (name === "" ? REPLICATE : PARTIAL_SUM)),
      share: 1,
      factors: [],
    });
  }
  return all;
}

/** The strategy that every call has. */
export function replicated({ node }: Pick<PlannedCall, "node">): Candidate {
  return {
    name: "-",
    inputs: node.inputs.map(() => REPLICATE),
    outputs: node.outputs.map(() => REPLICATE),
    share: 1,
    factors: [],
  };
}

/** An identity for maps: equal placements of everything. */
export function keyOf(strategy: Strategy): string {
  return `${strategy.inputs.map(placementKey).join()}>${strategy.outputs.map(placementKey).join()}`;
}

interface Choice {
  readonly component: Component;
  /** The dim whose layout is chosen; it holds all factors of the component. */
  readonly driver: Group;
  readonly layout: Layout;
  readonly candidates: Candidates;
}

/** The strategy that shards a component as a layout of one dim says, or undefined where that is not possible. */
function sharded(call: PlannedCall, choice: Choice): Candidate | undefined {
  const { component, driver } = choice;
  const layouts = factorLayouts(component, driver, choice.layout);
  if (!layouts || layouts.size < component.factors.length || [...layouts.values()].every(isWhole)) return undefined;
  const { names, shape } = call;
  const count = shape.inputs;
  const placements: Placement[] = [];
  for (let tensor = 0; tensor < names.length; tensor++) {
    const groups = component.groups.filter((g) => g.tensor === tensor);
    let placement: Placement | undefined;
    if (groups.length > 1) return undefined;
    if (groups.length === 1) placement = onDim(call, groups[0]!, choice, layouts);
    else if (names[tensor] === "") placement = REPLICATE;
    else if (tensor < count) {
      placement = component.factors.some((f) => f.addends?.includes(tensor)) ? PARTIAL_SUM : REPLICATE;
    } else placement = reduced(choice, layouts);
    if (!placement || (placement.kind === "S" && shape.known[tensor])) return undefined;
    placements.push(placement);
  }
  return {
    name: component.factors.map((f) => f.name).join(","),
    inputs: placements.slice(0, count),
    outputs: placements.slice(count),
    share: Math.max(...[...layouts].map(([factor, l]) => {
      const most = maxLocalSize(l);
      return component.factors[factor]!.work?.(most) ?? most / l.size;
    })),
    factors: component.factors,
  };
}

/** The placement of a tensor in whose dim the factors sit. */
function onDim(
  call: PlannedCall,
  group: Group,
  choice: Choice,
  layouts: ReadonlyMap<number, Layout>,
): Placement | undefined {
  const l = group === choice.driver
    ? choice.layout
    : group.full
    ? dimLayout(group, layouts)
    : matching(call, group, choice, layouts);
  // Of a dim that repeats as often as only data says, no rank could tell the size of its part.
  if (!l || dependsOnData(l.outer)) return undefined;
  return isWhole(l) ? REPLICATE : choice.candidates.layouts.shard(group.dim, l);
}

/** A candidate of a dim of which the factors fill only windows. */
function matching(
  { names }: PlannedCall,
  group: Group,
  choice: Choice,
  layouts: ReadonlyMap<number, Layout>,
): Layout | undefined {
  return choice.candidates.of(names[group.tensor]!, group.dim).find((l) =>
    group.members.every(({ factor, at }) =>
      factorBlock(l, at, choice.component.factors[factor]!.size)?.key === placeLayout(layouts.get(factor)!, at).key
    )
  );
}

/** The placement of an output in which no factor of the component sits. */
function reduced({ component, candidates }: Choice, layouts: ReadonlyMap<number, Layout>): Placement | undefined {
  if (component.factors.some((f) => f.internal)) return REPLICATE;
  const reductions = new Set(component.factors.map((f) => f.reduce ?? (f.selected ? "sum" : undefined)));
  const [reduction] = reductions;
  if (reductions.size !== 1 || reduction === undefined) return undefined;
  if (reduction === "sum" && ![...layouts.values()].every(isPartition)) return undefined;
  return candidates.layouts.partial(reduction);
}
