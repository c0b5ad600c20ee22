/** What a plan makes a rank hold: weights, carried states, activations. */
import { type Graph, isCall, outputOf, readsOf, valueOf } from "../graph/graph.ts";
import { localSize } from "../graph/layout.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import { shareOf } from "./cost.ts";
import type { Plan, PlanMemory } from "./plan.ts";
import { type Problem, stateBytes } from "./sequence.ts";

type Decided = Pick<Plan, "placements" | "strategies" | "reshards">;

/** For how many a weight, a state or a result stands, by its name. */
type Times = (name: string) => number;

/** Bytes on the rank with the most; `times` for graphs that stand for larger ones. */
export function measureMemory(problem: Problem, plan: Decided, times: Times = () => 1): PlanMemory {
  const { graph, stateSizes, pricing } = problem;
  const weights = Math.round(Math.max(...weightBytes(problem, plan, times)));
  const states = graph.carried.reduce(
    // A state that the graph only begins counts where it is carried on.
    (sum, { input }) =>
      graph.values.has(input)
        ? sum +
          times(input) * stateBytes(stateSizes, valueOf(graph, input).type, plan.placements.get(input) ?? REPLICATE)
        : sum,
    0,
  );
  // Results of blocks that are left out live to the end, beside whatever else does.
  const carried = carriedValues(graph);
  const results = outputOf(graph).inputs.filter((name) => !carried.has(name)).reduce(
    (sum, name) => sum + (times(name) - 1) * pricing.bytes(valueOf(graph, name).type),
    0,
  );
  const activations = Math.round(activationBytes(problem, plan) + results);
  return { weights, states, activations, total: weights + states + activations };
}

/** Bytes of weights on each rank: every constant once for each placement in which it is used. */
function weightBytes(
  { graph, calls, isConstant, pricing }: Problem,
  { strategies }: Decided,
  times: Times,
): number[] {
  const held = new Map<string, { bytes: number; placement: Placement }>();
  for (const { node } of calls) {
    node.inputs.forEach((name, i) => {
      if (name === "" || !isConstant(name) || valueOf(graph, name).ints) return;
      const placement = strategies.get(node.name)!.inputs[i]!;
      const bytes = times(name) * pricing.bytes(valueOf(graph, name).type);
      held.set(`${name}\n${placementKey(placement)}`, { bytes, placement });
    });
  }
  return Array.from(
    { length: pricing.ranks },
    (_, r) =>
      [...held.values()].reduce(
        (sum, { bytes, placement: p }) =>
          sum + (p.kind === "S" ? bytes * localSize(p.layout, r) / p.layout.size : p.kind === "P" && r > 0 ? 0 : bytes),
        0,
      ),
  );
}

/** The most bytes of values that live at once, in the order of the graph; carried states are counted elsewhere. */
function activationBytes({ graph, pricing, isConstant }: Problem, { placements, reshards }: Decided): number {
  const states = carriedValues(graph);
  const last = lastReads(graph);
  const moved = Map.groupBy(reshards, (r) => r.before);
  const ends = new Map<number, number>();
  let live = 0, peak = 0;
  const add = (name: string, p: Placement) => {
    if (states.has(name) || isConstant(name) || valueOf(graph, name).ints) return;
    const bytes = pricing.bytes(valueOf(graph, name).type) * shareOf(p), end = last.get(name);
    live += bytes;
    if (end !== undefined) ends.set(end, (ends.get(end) ?? 0) + bytes);
  };
  graph.nodes.forEach((node, at) => {
    for (const { value, to } of moved.get(node.name) ?? []) add(value, to);
    if (isCall(node) || node.kind === "placeholder") {
      for (const name of node.outputs) if (name !== "") add(name, placements.get(name) ?? REPLICATE);
    }
    peak = Math.max(peak, live);
    live -= ends.get(at) ?? 0;
  });
  return peak;
}

/** Both ends of what is carried. */
function carriedValues(graph: Graph): Set<string> {
  const { inputs } = outputOf(graph);
  return new Set(graph.carried.flatMap((c) => [c.input, ...(c.output === undefined ? [] : [inputs[c.output]!])]));
}

/** For every value, the index of the last node that reads it. */
function lastReads(graph: Graph): Map<string, number> {
  const last = new Map<string, number>();
  graph.nodes.forEach((node, at) => {
    for (const name of readsOf(node)) last.set(name, at);
  });
  return last;
}
