/**
 * The search: the cheapest plan of a graph on one mesh axis, exactly.
 *
 * It minimises seconds of the slowest rank plus the price of weights' memory, over all strategies of all calls and all
 * redistributions between them. Everything replicated is always a candidate, so there is always a plan. The result
 * depends on the graph and the options only: every rank computes the same one by itself.
 *
 * @example
 * const plan = search(graph, { ranks: 4, opDef });
 * printPlacement(plan.placements.get("hidden")!); // "S(2)"
 */
import { PlanError } from "../core/errors.ts";
import { type Graph, isCall, valueOf } from "../graph/graph.ts";
import { localSize } from "../graph/layout.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import { seconds } from "./cost.ts";
import { FrontierSearch, type Solution } from "./frontier.ts";
import type { Plan, Reshard, Strategy } from "./plan.ts";
import { buildProblem, type PlanOptions, type Problem } from "./problem.ts";
import { communicates, directStep } from "./redistribute.ts";

export type { PlanOptions };

/** Few models need a tenth of it; where it is met, the plan tells how far from the optimum it may be. */
const MAX_STATES = 1024;

/** The cheapest plan. @throws {PlanError} If an override cannot be met. */
export function search(graph: Graph<"global">, options: PlanOptions): Plan {
  return solvePlan(graph, options).plan;
}

/** A plan with the search that found it, which can price variants. */
export interface SolvedPlan {
  readonly plan: Plan;
  readonly problem: Problem;
  readonly frontier: FrontierSearch;
  readonly solution: Solution;
}

/** Like {@linkcode search}, and keeps the search. */
export function solvePlan(graph: Graph<"global">, options: PlanOptions): SolvedPlan {
  const problem = buildProblem(graph, options);
  const frontier = new FrontierSearch(problem.steps, options.maxStates ?? MAX_STATES);
  const solution = frontier.solve();
  if (!solution) {
    throw new PlanError(`Cannot plan graph "${graph.name}" for ${options.ranks} ranks as the overrides ask`, {
      hint: "a carried state would need two placements at once: override its readers alike, or not at all",
    });
  }
  return { plan: readSolution(problem, solution), problem, frontier, solution };
}

/** Turns the decisions of the search into a plan. */
function readSolution(problem: Problem, solution: Solution): Plan {
  const { graph, classes, pricing, isConstant } = problem;
  const placements = new Map<string, Placement>();
  for (const value of graph.values.keys()) if (!isConstant(value)) placements.set(value, REPLICATE);
  for (const [state, placement] of problem.begun) placements.set(state, placement);
  const strategies = new Map<string, Strategy>();
  const moves = new Map<string, Map<string, Move>>();
  let compute = 0, communication = 0;
  problem.steps.forEach((step, s) => {
    const source = problem.sources[s]!, decision = solution.decisions[s]!;
    if (source.kind === "enter") {
      const cls = classes.get(source.value)!;
      if (cls.kind === "fixed") placements.set(source.value, cls.placements[decision.alternative]!);
    }
    decision.ways.forEach((way, i) => {
      const value = step.inputs[i]!, cls = classes.get(value)!;
      for (const [a, b] of way.moves) {
        const from = cls.placements[a]!, to = cls.placements[b]!;
        moves.set(value, (moves.get(value) ?? new Map<string, Move>()).set(placementKey(to), { from, to }));
        const kind = directStep(from, to)!;
        const cost = pricing.step(kind, pricing.bytes(valueOf(graph, value).type), to.kind === "S" ? to : from);
        if (communicates(kind)) communication += cost;
        else compute += cost;
      }
    });
    if (source.kind !== "call") return;
    const { call } = source, chosen = call.candidates[decision.alternative]!;
    compute += call.compute[decision.alternative]!;
    strategies.set(call.node.name, { inputs: chosen.inputs, outputs: chosen.outputs, name: chosen.name });
    call.node.outputs.forEach((name, k) => name !== "" && placements.set(name, chosen.outputs[k]!));
  });
  return {
    ranks: pricing.ranks,
    placements,
    strategies,
    reshards: placeReshards(graph, { placements, strategies, moves, isConstant }),
    cost: {
      compute: seconds(compute),
      communication: seconds(communication),
      weightBytes: Math.max(...weightBytes(problem, strategies)),
      total: seconds(solution.cost),
    },
    gap: seconds(solution.gap),
  };
}

interface Move {
  readonly from: Placement;
  readonly to: Placement;
}

/** Puts each move in front of the first node that needs it. */
function placeReshards(
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
    // Values that the search does not follow are replicated, and so are their uses.
    const move = moves.get(value)?.get(key);
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

/** Bytes of weights on each rank: every constant once for each placement in which it is used. */
function weightBytes(
  { graph, calls, isConstant, pricing }: Problem,
  strategies: ReadonlyMap<string, Strategy>,
): number[] {
  const held = new Map<string, { bytes: number; placement: Placement }>();
  for (const { node } of calls) {
    node.inputs.forEach((name, i) => {
      if (name === "" || !isConstant(name) || valueOf(graph, name).ints) return;
      const placement = strategies.get(node.name)!.inputs[i]!;
      held.set(`${name}\n${placementKey(placement)}`, { bytes: pricing.bytes(valueOf(graph, name).type), placement });
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
