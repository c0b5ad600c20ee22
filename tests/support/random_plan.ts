/** A legal plan chosen at random: what the search would never pick has to be right as well. */
import { type Call, type Graph, isCall, outputOf } from "../../src/graph/graph.ts";
import { type Placement, placementKey, REPLICATE } from "../../src/graph/placement.ts";
import { opDef } from "../../src/ops/table.ts";
import { candidateLayouts } from "../../src/plan/candidates.ts";
import { plannedCalls } from "../../src/plan/places.ts";
import type { Plan, Reshard, Strategy } from "../../src/plan/plan.ts";
import { redistributeSteps } from "../../src/plan/redistribute.ts";
import { strategiesOf } from "../../src/plan/strategies.ts";

/**
 * A plan of a clean graph on `ranks` ranks in which each call has any of its strategies; `random` gives numbers in [0, 1). A call that can
 * be split is left whole in one of eight cases only.
 */
export function randomPlan(graph: Graph<"global">, ranks: number, random: () => number): Plan {
  const calls = plannedCalls(graph, opDef), candidates = candidateLayouts(graph, calls, ranks);
  const planned = new Map(calls.map((c) => [c.node.name, c]));
  const constants = new Set(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? [n.outputs[0]] : [])));
  const placements = new Map<string, Placement>(), strategies = new Map<string, Strategy>();
  const reshards: Reshard[] = [], held = new Set<string>();
  /** Both ends of a carried pair have one placement: that of the input. */
  const carried = new Set(graph.carried.flatMap((c) => outputOf(graph).inputs[c.output ?? -1] ?? []));
  const placementOf = (value: string) => placements.get(value) ?? REPLICATE;

  function reachable({ node, strategy }: { node: Call; strategy: Strategy }): boolean {
    if (node.outputs.some((value, i) => carried.has(value) && strategy.outputs[i]!.kind !== "R")) return false;
    return node.inputs.every((value, i) => {
      if (value === "" || constants.has(value)) return true;
      const [from, to] = [placementOf(value), strategy.inputs[i]!];
      return placementKey(from) === placementKey(to) || redistributeSteps(from, to).length > 0;
    });
  }
  function want(before: string, value: string, to: Placement): void {
    const from = placementOf(value), id = `${value}\n${placementKey(to)}`;
    if (constants.has(value) || held.has(id) || placementKey(from) === placementKey(to)) return;
    reshards.push({ before, value, from, to });
    held.add(id);
  }

  for (const node of graph.nodes) {
    if (!isCall(node)) continue;
    const call = planned.get(node.name);
    if (call) {
      const [whole, ...split] = strategiesOf(call, candidates).filter((strategy) => reachable({ node, strategy }));
      const chosen = split.length > 0 && random() >= 1 / 8 ? split[Math.floor(random() * split.length)]! : whole!;
      strategies.set(node.name, { inputs: chosen.inputs, outputs: chosen.outputs, name: chosen.name });
      node.inputs.forEach((value, i) => value !== "" && want(node.name, value, chosen.inputs[i]!));
      node.outputs.forEach((value, i) => value !== "" && placements.set(value, chosen.outputs[i]!));
    } else node.inputs.forEach((value) => value !== "" && want(node.name, value, REPLICATE));
    for (const value of node.captures ?? []) want(node.name, value, REPLICATE);
  }
  for (const value of outputOf(graph).inputs) want("output", value, REPLICATE);
  return {
    ranks,
    placements,
    strategies,
    reshards,
    cost: {
      compute: 0,
      communication: 0,
      weightBytes: 0,
      memory: { weights: 0, states: 0, activations: 0, total: 0 },
      total: 0,
    },
    gap: 0,
  };
}
