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
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import { seconds } from "./cost.ts";
import { leastOf, solveCapped, type SolvedPlan, totalCost } from "./capped.ts";
import { FrontierSearch, type Solution } from "./frontier.ts";
import { measureMemory } from "./memory.ts";
import type { Plan, Reshard, Strategy } from "./plan.ts";
import { buildProblem, type PlanOptions, type Problem } from "./problem.ts";
import { communicates, directStep } from "./redistribute.ts";

export type { PlanOptions, SolvedPlan };

/** Few models need a tenth of it; where it is met, the plan tells how far from the optimum it may be. */
const MAX_STATES = 1024;

/** The cheapest plan. @throws {PlanError} If an override cannot be met. */
export function search(graph: Graph<"global">, options: PlanOptions): Plan {
  return solvePlan(graph, options).plan;
}

/** Like {@linkcode search}, and keeps the search. */
export function solvePlan(graph: Graph<"global">, options: PlanOptions): SolvedPlan {
  const problem = buildProblem(graph, options);
  const maxStates = options.maxStates ?? MAX_STATES;
  const frontier = new FrontierSearch(problem.steps, { maxStates });
  const solution = frontier.solve();
  if (!solution) {
    throw new PlanError(`Cannot plan graph "${graph.name}" for ${options.ranks} ranks as the overrides ask`, {
      hint: "a carried state would need two placements at once: override its readers alike, or not at all",
    });
  }
  const free = { plan: readSolution(problem, solution), problem, frontier, solution };
  const cap = options.memory?.perRank;
  if (cap === undefined || free.plan.cost.memory.total <= cap) return free;
  return solveCapped(free, {
    bytes: cap,
    maxStates,
    read: (found) => readSolution(problem, found),
    leastOn: (ranks) => leastMemory(graph, { ...options, ranks }),
  });
}

/** The least that every rank of a plan must be able to hold, in bytes. */
export function leastMemory(graph: Graph<"global">, options: PlanOptions): number {
  const problem = buildProblem(graph, options), maxStates = options.maxStates ?? MAX_STATES;
  const read = (found: Solution) => readSolution(problem, found);
  return leastOf(problem, { maxStates, read }).plan.cost.memory.total;
}

/** Turns the decisions of the search into a plan. */
export function readSolution(problem: Problem, solution: Solution): Plan {
  const { graph, classes, pricing, isConstant } = problem;
  const placements = new Map<string, Placement>();
  for (const value of graph.values.keys()) if (!isConstant(value)) placements.set(value, REPLICATE);
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
  const reshards = placeReshards(graph, { placements, strategies, moves, isConstant });
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
