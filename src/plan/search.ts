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
import type { Graph } from "../graph/graph.ts";
import { leastOf, solveCapped, type SolvedPlan } from "./capped.ts";
import { isFoldable, KEPT_BLOCKS, solveFolded, unfoldPlan } from "./fold.ts";
import { FrontierSearch, type Solution } from "./frontier.ts";
import type { Plan } from "./plan.ts";
import { buildProblem, type PlanOptions } from "./problem.ts";
import { readSolution } from "./read_solution.ts";
import { foldBlocks } from "./repeats.ts";

export type { PlanOptions, SolvedPlan };

/** Few models need a tenth of it; where it is met, the plan tells how far from the optimum it may be. */
export const MAX_STATES = 1024;

/** The cheapest plan. Of a graph of many equal blocks a few are searched. @throws {PlanError} If an override cannot be met. */
export function search(graph: Graph<"global">, options: PlanOptions): Plan {
  for (const kept of isFoldable(options) ? KEPT_BLOCKS : []) {
    const repeats = foldBlocks(graph, kept);
    const folded = repeats && solveFolded(repeats.graph, repeats, options, MAX_STATES);
    if (folded) return unfoldPlan(graph, folded);
  }
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
