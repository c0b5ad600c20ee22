/**
 * At how many points of a step all ranks meet: collectives that do not wait for each other share a barrier, as in a program.
 *
 * A value's level is the number of collectives before it on the longest way; what is moved between two levels meets at once.
 */
import { type Graph, isCall } from "../graph/graph.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import type { Plan } from "./plan.ts";
import { communicates, redistributeSteps } from "./redistribute.ts";

/** The meetings of a plan. */
export interface Barriers {
  readonly collectives: number;
  /** How many barriers they take. */
  readonly count: number;
  /** The level of each planned call, by name. */
  readonly levels: ReadonlyMap<string, number>;
}

/** The meetings of the plan that these are of. */
export function barriersOf(graph: Graph, { strategies, reshards }: Pick<Plan, "strategies" | "reshards">): Barriers {
  const before = Map.groupBy(reshards, (r) => r.before), levels = new Map<string, number>();
  const known = new Map<string, number>();
  const key = (value: string, p: Placement) => `${value}\n${placementKey(p)}`;
  const levelOf = (value: string, p: Placement) => known.get(key(value, p)) ?? 0;
  let collectives = 0, count = 0;
  for (const node of graph.nodes) {
    for (const { value, from, to } of before.get(node.name) ?? []) {
      const meetings = redistributeSteps(from, to).filter(({ kind }) => communicates(kind)).length;
      const level = levelOf(value, from) + meetings;
      known.set(key(value, to), level);
      collectives += meetings;
      count = Math.max(count, level);
    }
    const strategy = isCall(node) ? strategies.get(node.name) : undefined;
    if (!strategy || !isCall(node)) continue;
    const level = Math.max(
      0,
      ...node.inputs.map((value, i) => levelOf(value, strategy.inputs[i]!)),
      ...(node.captures ?? []).map((value) => levelOf(value, REPLICATE)),
    );
    levels.set(node.name, level);
    node.outputs.forEach((value, i) => known.set(key(value, strategy.outputs[i]!), level));
  }
  return { collectives, count, levels };
}
