/**
 * The cheapest plan that fits a cap on every rank's memory.
 *
 * First by a price of memory (a Lagrange multiplier): plans that are optimal at some price are found by the ordinary
 * search, and between the last that is too big and the first that fits no other one lies on the convex hull. That gives a plan
 * and a bound on how much better another could be. Where they differ and the graph is small, the search carries memory
 * as a part of its states, between the two, and is exact.
 *
 * Memory adds up over steps by the share of the rank with the most of each tensor, which is one rank's in all layouts that
 * put remainders first. Activations do not add up: what the plan at hand needs is set aside.
 */
import { PlanError } from "../core/errors.ts";
import { seconds } from "./cost.ts";
import { FrontierSearch, type Solution } from "./frontier.ts";
import type { Plan } from "./plan.ts";
import type { Problem } from "./sequence.ts";
import { boundsOf } from "./step.ts";
import { printBytes } from "./units.ts";

/** A plan with the search that found it, which can price variants. */
export interface SolvedPlan {
  readonly plan: Plan;
  readonly problem: Problem;
  /** Under a cap its costs include the price of memory at which the cap is met. */
  readonly frontier: FrontierSearch;
  readonly solution: Solution;
}

/** What a cap is and how plans are read. */
export interface Cap {
  /** On every rank. */
  readonly bytes: number;
  readonly maxStates: number;
  /** The plan of a solution. */
  readonly read: (solution: Solution) => Plan;
  /** The least that a plan for so many ranks needs on a rank. */
  readonly leastOn: (ranks: number) => number;
}

/** Graphs of more steps are not searched with memory in the states. */
const EXACT_STEPS = 1200;
/** Prices that are tried; each halves what is left, and the hull has few corners. */
const MOST_PRICES = 40;
/** Prices at which the plan that holds least is sought. */
const LEAST_PRICES = 4;
/** Most ranks that the advice looks at. */
const MOST_RANKS = 256;

/** The cheapest plan under a cap; `free` is the best without. @throws {PlanError} If none fits: how much would, and on how many ranks. */
export function solveCapped(free: SolvedPlan, cap: Cap): SolvedPlan {
  const { problem } = free;
  const { steps } = problem;
  let best = leastOf(problem, cap);
  if (best.plan.cost.memory.total > cap.bytes) throw infeasible(problem, cap, best.plan);
  let over = point(problem, free.solution), fits = point(problem, best.solution), bound = over.cost;
  for (let i = 0; i < MOST_PRICES && over.bytes > fits.bytes && fits.cost > over.cost; i++) {
    const byte = (fits.cost - over.cost) / (over.bytes - fits.bytes);
    const frontier = new FrontierSearch(steps, { maxStates: cap.maxStates, weights: { time: 1, byte } });
    const solution = frontier.solve()!, plan = cap.read(solution), at = point(problem, solution);
    const value = ({ cost, bytes }: Point) => cost + byte * bytes;
    // What may be spent on weights and states: what the plan's activations leave.
    const room = cap.bytes - plan.cost.memory.activations;
    bound = Math.max(bound, value(at) - byte * room - rounding(steps.length));
    const isFit = plan.cost.memory.total <= cap.bytes;
    if (isFit && at.cost <= point(problem, best.solution).cost) best = { plan, solution, frontier };
    if (value(at) >= value(fits) - rounding(steps.length)) break;
    if (isFit) fits = at;
    else over = at;
  }
  let gap = Math.max(0, point(problem, best.solution).cost - bound);
  if (gap > 0 && steps.length <= EXACT_STEPS) {
    const found = exact(problem, best, cap);
    if (found) {
      if (found.solution.cost < point(problem, best.solution).cost) best = { ...best, ...found };
      gap = Math.min(gap, Math.max(0, point(problem, best.solution).cost - (found.solution.cost - found.solution.gap)));
    }
  }
  return { ...best, plan: { ...best.plan, gap: seconds(gap) }, problem };
}

/** A plan that holds least, whatever it costs. */
export function leastOf(
  problem: Problem,
  { maxStates, read }: Pick<Cap, "maxStates" | "read">,
): Pick<SolvedPlan, "plan" | "solution" | "frontier"> {
  const { steps } = problem;
  const whole = boundsOf(steps).most[0]! + 1;
  // As much for a byte as whole numbers allow. Activations have no price: of cheaper plans one may need less of them.
  const dearest = Math.max(1, Math.floor(2 ** 52 / whole));
  const prices = Array.from({ length: LEAST_PRICES }, (_, i) => Math.floor(dearest ** (1 - i / LEAST_PRICES)));
  const found = [...new Set([...prices, 0])].flatMap((byte) => {
    const frontier = new FrontierSearch(steps, { maxStates, weights: { time: 1, byte } });
    const solution = frontier.solve();
    return solution ? [{ plan: read(solution), solution, frontier }] : [];
  });
  return found.reduce((a, b) => (b.plan.cost.memory.total < a.plan.cost.memory.total ? b : a));
}

/** What a solution costs in picoseconds, without a price of memory. */
export function totalCost(problem: Problem, solution: Solution): number {
  return point(problem, solution).cost;
}

interface Point {
  readonly cost: number;
  /** Of weights and states. */
  readonly bytes: number;
}

function point({ steps, fixedBytes }: Problem, { decisions }: Solution): Point {
  let cost = 0, bytes = fixedBytes;
  decisions.forEach(({ alternative, ways }, i) => {
    const chosen = steps[i]!.alternatives[alternative]!;
    cost += chosen.cost;
    bytes += chosen.memory;
    for (const way of ways) {
      cost += way.cost;
      bytes += way.memory;
    }
  });
  return { cost, bytes };
}

/** Prices of memory are rounded to whole picoseconds at each step. */
function rounding(steps: number): number {
  return 2 * steps;
}

/** The best plan by a search with memory in its states, no dearer than the one at hand. */
function exact(
  problem: Problem,
  known: Pick<SolvedPlan, "plan" | "solution">,
  cap: Cap,
): Pick<SolvedPlan, "plan" | "solution"> | undefined {
  const room = cap.bytes - known.plan.cost.memory.activations - problem.fixedBytes;
  const budget = { bytes: room, cost: point(problem, known.solution).cost };
  const solution = new FrontierSearch(problem.steps, { maxStates: cap.maxStates, budget }).solve();
  if (!solution) return undefined;
  const plan = cap.read(solution);
  return plan.cost.memory.total <= cap.bytes ? { plan, solution } : undefined;
}

function infeasible(problem: Problem, cap: Cap, least: Plan): PlanError {
  const { ranks } = problem.pricing, { name } = problem.graph;
  const on = (n: number) => `${n} rank${n === 1 ? "" : "s"}`;
  const needed = least.cost.memory;
  const parts = `weights ${printBytes(needed.weights)}, KV cache ${printBytes(needed.states)}, ` +
    `activations ${printBytes(needed.activations)}`;
  const enough = fittingRanks(ranks, cap);
  return new PlanError(
    `Cannot plan "${name}" on ${on(ranks)} within ${printBytes(cap.bytes)} a rank: at least ${
      printBytes(needed.total)
    } are needed (${parts})`,
    {
      hint: enough !== undefined
        ? `it fits on ${on(enough)}, or with a cap of ${printBytes(needed.total)} on ${on(ranks)}`
        : `no number of ranks up to ${MOST_RANKS} is enough; allow ${
          printBytes(needed.total)
        }, or state a shorter context`,
    },
  );
}

/** The least number of ranks above `ranks` on which the cap can be kept, as far as more ranks never need more. */
function fittingRanks(ranks: number, cap: Cap): number | undefined {
  let low = ranks, high = ranks;
  do {
    if (high >= MOST_RANKS) return undefined;
    low = high;
    high = Math.min(2 * high, MOST_RANKS);
  } while (cap.leastOn(high) > cap.bytes);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (cap.leastOn(middle) > cap.bytes) low = middle;
    else high = middle;
  }
  return high;
}
