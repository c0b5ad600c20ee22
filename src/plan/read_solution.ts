/** From what the search decided at each step to a plan. */
import { type Graph, isCall, valueOf } from "../graph/graph.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import { barriersOf } from "./barriers.ts";
import { totalCost } from "./capped.ts";
import { seconds } from "./cost.ts";
import type { Solution } from "./frontier.ts";
import type { Decision } from "./step.ts";
import { measureMemory } from "./memory.ts";
import type { Plan, Reshard, Strategy } from "./plan.ts";
import { communicates, directStep, redistributeSteps } from "./redistribute.ts";
import type { Problem } from "./sequence.ts";

/** Turns the decisions of the search into a plan. */
export function readSolution(problem: Problem, solution: Solution): Plan {
  const { graph, classes, pricing, isConstant } = problem;
  const placements = new Map<string, Placement>();
  for (const value of graph.values.keys()) if (!isConstant(value)) placements.set(value, REPLICATE);
  for (const [state, placement] of problem.begun) placements.set(state, placement);
  const strategies = new Map<string, Strategy>();
  const moves = new Map<string, Map<string, Move>>();
  let compute = 0, communication = 0;
  problem.steps.forEach((step, s) => {
    const source = problem.sources[s]!, decision = solution.decisions[s]!;
    const cost = stepCost(problem, s, decision);
    compute += cost.compute;
    communication += cost.communication;
    decision.ways.forEach((way, i) => {
      const value = step.inputs[i]!, cls = classes.get(value)!;
      if (cls.kind === "fixed") placements.set(value, cls.placementsOf(way.set)[0]!);
      for (const [a, b] of way.moves) {
        const from = cls.placements[a]!, to = cls.placements[b]!;
        moves.set(value, (moves.get(value) ?? new Map<string, Move>()).set(placementKey(to), { from, to }));
      }
    });
    if (source.kind !== "call") return;
    const { call } = source, chosen = call.candidates[decision.alternative]!;
    strategies.set(call.node.name, { inputs: chosen.inputs, outputs: chosen.outputs, name: chosen.name });
    call.node.outputs.forEach((name, k) => name !== "" && placements.set(name, chosen.outputs[k]!));
  });
  const reshards = placeReshards(graph, { placements, strategies, moves, isConstant });
  const barriers = barriersOf(graph, { strategies, reshards });
  communication -= pricing.sharedBarriers(barriers.collectives - barriers.count);
  const memory = measureMemory(problem, { placements, strategies, reshards });
  return {
    ranks: pricing.ranks,
    placements,
    strategies,
    reshards,
    cost: {
      compute: seconds(compute),
      communication: seconds(communication),
      weightBytes: memory.weights,
      memory,
      total: seconds(totalCost(problem, solution)),
    },
    gap: seconds(solution.gap),
  };
}

/** Picoseconds of one step: of its call and local moves, and of its collectives, with a barrier for each. */
export function stepCost(
  { steps, sources, classes, graph, pricing }: Problem,
  index: number,
  decision: Decision,
): { readonly compute: number; readonly communication: number; readonly collectives: number } {
  const source = sources[index]!;
  let compute = source.kind === "call" ? source.call.compute[decision.alternative]! : 0;
  let communication = 0, collectives = 0;
  decision.ways.forEach((way, i) => {
    const value = steps[index]!.inputs[i]!, cls = classes.get(value)!;
    for (const [a, b] of way.moves) {
      const from = cls.placements[a]!, to = cls.placements[b]!, kind = directStep(from, to)!;
      const cost = pricing.step(kind, pricing.bytes(valueOf(graph, value).type), to.kind === "S" ? to : from);
      if (communicates(kind)) {
        communication += cost;
        collectives++;
      } else compute += cost;
    }
  });
  return { compute, communication, collectives };
}

/** A change of placement that the search paid for. */
export interface Move {
  readonly from: Placement;
  readonly to: Placement;
}

/** Puts each move in front of the first node that needs it. */
export function placeReshards(
  graph: Graph,
  decided: {
    readonly placements: ReadonlyMap<string, Placement>;
    readonly strategies: ReadonlyMap<string, Strategy>;
    /** By value and the key of the placement that a move leads to. */
    readonly moves: ReadonlyMap<string, ReadonlyMap<string, Move>>;
    readonly isConstant: (value: string) => boolean;
  },
): Reshard[] {
  const { placements, strategies, moves, isConstant } = decided;
  const reshards: Reshard[] = [], held = new Set<string>();
  const ensure = (before: string, value: string, wanted: Placement) => {
    const key = placementKey(wanted), id = `${value}\n${key}`;
    if (held.has(id) || isConstant(value) || key === placementKey(placements.get(value)!)) return;
    // Values that the search does not follow are replicated, and so are their uses. In an unfolded plan a value may be the first
    // of its kind that is needed so: it moves from where it is.
    const from = placements.get(value)!;
    const move = moves.get(value)?.get(key) ??
      (redistributeSteps(from, wanted).length > 0 ? { from, to: wanted } : undefined);
    if (!move) return;
    ensure(before, value, move.from);
    reshards.push({ before, value, from: move.from, to: move.to });
    held.add(id);
  };
  for (const node of graph.nodes) {
    if (isCall(node)) {
      const strategy = strategies.get(node.name);
      if (!strategy) continue;
      node.inputs.forEach((value, i) => value !== "" && ensure(node.name, value, strategy.inputs[i]!));
      for (const value of node.captures ?? []) ensure(node.name, value, REPLICATE);
    } else if (node.kind === "output") {
      node.inputs.forEach((value, i) => {
        const carried = graph.carried.find((c) => c.output === i);
        ensure("output", value, carried ? placements.get(carried.input)! : REPLICATE);
      });
    }
  }
  return reshards;
}
