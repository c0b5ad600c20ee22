/**
 * Planning a model of equal blocks at the price of a few, exactly.
 *
 * The graph is cut down to some of its blocks and that is solved. Take two points of the search one block's worth of steps
 * apart. A block turns costs c of states into T(c), which is monotonous, and commutes with adding a constant. If T(c) ≥ c + d,
 * and the way that was found passes the same state s at both points, with T(c)(s) = c(s) + d, then by induction
 * Tⁿ(c) ≥ T(c) + (n-1)·d, with equality at s: no way through n blocks is better than to go through s at each border, as
 * the one that was solved. So the plan of the whole graph is read off, and is optimal. States that the search dropped, as a cheaper
 * one can become them, are at no point cheaper than their dominators make them. Where the proof fails, or anything of a block was left over,
 * there is no folded plan.
 */
import { type Graph, isCall } from "../graph/graph.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import { barriersOf } from "./barriers.ts";
import { picoseconds, seconds } from "./cost.ts";
import { FrontierSearch, type Trace } from "./frontier.ts";
import { measureMemory } from "./memory.ts";
import type { Plan, PlanCost, Strategy } from "./plan.ts";
import { buildProblem, meanMatrixBytes, type PlanOptions } from "./problem.ts";
import type { BlockPlace } from "./blocks.ts";
import type { Repeats } from "./repeats.ts";
import { type Move, placeReshards, readSolution, stepCost } from "./read_solution.ts";
import type { SolvedPlan } from "./capped.ts";
import type { Problem, StepSource } from "./sequence.ts";

/**
 * Blocks that are solved: some until the frontier repeats, one that repeats, one that ends. Where the first number proves nothing,
 * the next is tried.
 */
export const KEPT_BLOCKS = [3, 6] as const;

/** The plan of a graph with fewer blocks, which is that of the whole. */
export interface FoldedPlan {
  /** Of the graph with fewer blocks. */
  readonly solved: SolvedPlan;
  /** What the whole costs. */
  readonly cost: PlanCost;
  /** The nodes of the whole graph for which one of the smaller stands, in order of the blocks. */
  readonly unfoldNode: (name: string) => readonly string[];
  /** The same for values. */
  readonly unfoldValue: (name: string) => readonly string[];
  /** The values that stand beside the nodes of `node`, each in its block: a layer's weight, for each of the layers. */
  readonly beside: (node: string, value: string) => readonly string[];
  /** Blocks that were left out. */
  readonly more: number;
}

/** Whether what is asked for can be the same in all blocks. */
export function isFoldable({ overrides = {}, baseline, memory, maxStates, restrict }: PlanOptions): boolean {
  return Object.keys(overrides).length === 0 && baseline === undefined && memory?.perRank === undefined &&
    maxStates === undefined && restrict === undefined;
}

/**
 * Solves a cleaned graph of fewer blocks, `repeats.graph` after cleaning; undefined where it is no proof for the whole.
 */
export function solveFolded(
  clean: Graph<"global">,
  repeats: Repeats,
  options: PlanOptions,
  maxStates: number,
): FoldedPlan | undefined {
  const { nodes, values, names, blocks, kept } = repeats;
  // In whole numbers, as rounding must be that of the whole graph.
  const each = (name: string) => (values.has(name) ? blocks : kept);
  if (!isWhole(clean, repeats)) return undefined;
  const problem = buildProblem(clean, options, {
    matrixBytes: meanMatrixBytes(clean, each),
    reads: (node, value) => (nodes.has(node) && !values.has(value) ? blocks / kept : 1),
  });
  const frontier = new FrontierSearch(problem.steps, { maxStates });
  const solution = frontier.solve(), trace = frontier.trace();
  if (!solution || !trace || solution.gap > 0) return undefined;
  const loop = loopOf(problem, repeats, trace);
  if (!loop) return undefined;
  const more = blocks - kept;
  const unfold = (places: ReadonlyMap<string, BlockPlace>, name: string): readonly string[] => {
    const place = places.get(name);
    if (!place) return [name];
    const list = names[place.id]!, turn = loop.turns.get(place.id) ?? loop.any;
    if (place.block < turn) return [list[place.block]!];
    if (place.block > turn) return [list[place.block + more]!];
    return list.slice(turn, turn + more + 1);
  };
  const unfoldNode = (name: string) => unfold(nodes, name), unfoldValue = (name: string) => unfold(values, name);
  const beside = (node: string, value: string): readonly string[] => {
    const place = values.get(value), anchor = nodes.get(node), all = unfoldNode(node);
    if (!place || !anchor) return all.map(() => value);
    const shift = place.block - anchor.block;
    return all.map((full) => names[place.id]![nodes.get(full)!.block + shift] ?? value);
  };
  const plan = readSolution(problem, solution);
  const solved = { plan, problem, frontier, solution };
  return {
    solved,
    cost: wholeCost(solved, { repeats, loop, more, unfoldValue }),
    unfoldNode,
    unfoldValue,
    beside,
    more,
  };
}

/** What the whole graph costs, from the smaller one and the steps that repeat. */
function wholeCost(
  { plan, problem, solution }: SolvedPlan,
  { repeats, loop, more, unfoldValue }: Pick<FoldedPlan, "more" | "unfoldValue"> & {
    readonly repeats: Repeats;
    readonly loop: Loop;
  },
): PlanCost {
  let compute = 0, communication = 0, collectives = 0, total = 0;
  for (const i of loop.steps) {
    const decision = solution.decisions[i]!, step = stepCost(problem, i, decision);
    compute += step.compute;
    communication += step.communication;
    collectives += step.collectives;
    total += decision.ways.reduce((sum, w) => sum + w.cost, problem.steps[i]!.alternatives[decision.alternative]!.cost);
  }
  communication -= problem.pricing.sharedBarriers(
    collectives - barriersOfBlock(problem.graph, plan, repeats, loop),
  );
  const { cost } = plan, memory = measureMemory(problem, plan, (name) => unfoldValue(name).length);
  return {
    compute: seconds(picoseconds(cost.compute) + more * compute),
    communication: seconds(picoseconds(cost.communication) + more * communication),
    weightBytes: memory.weights,
    memory,
    total: seconds(solution.cost + more * total),
  };
}

/** The barriers of a block: as many as it begins levels after the one before. */
function barriersOfBlock(graph: Graph, plan: Plan, { nodes, names }: Repeats, { turns }: Loop): number {
  const { levels } = barriersOf(graph, plan);
  let most = 0;
  for (const [id, turn] of turns) {
    const block = Math.max(1, turn), list = names[id]!;
    if (!nodes.has(list[block]!)) continue;
    most = Math.max(most, (levels.get(list[block]!) ?? 0) - (levels.get(list[block - 1]!) ?? 0));
  }
  return most;
}

/** The plan of the whole graph. */
export function unfoldPlan(graph: Graph<"global">, folded: FoldedPlan): Plan {
  const { solved: { plan }, cost, unfoldNode, unfoldValue } = folded;
  const placements = new Map<string, Placement>(), strategies = new Map<string, Strategy>();
  const constants = new Set(graph.nodes.flatMap((n) => (n.kind === "get_attr" ? n.outputs : [])));
  for (const value of graph.values.keys()) if (!constants.has(value)) placements.set(value, REPLICATE);
  for (const [value, placement] of plan.placements) {
    for (const name of unfoldValue(value)) placements.set(name, placement);
  }
  for (const [node, strategy] of plan.strategies) for (const name of unfoldNode(node)) strategies.set(name, strategy);
  const moves = new Map<string, Map<string, Move>>();
  for (const { value, from, to } of plan.reshards) {
    for (const name of unfoldValue(value)) {
      moves.set(name, (moves.get(name) ?? new Map<string, Move>()).set(placementKey(to), { from, to }));
    }
  }
  const isConstant = (value: string) => constants.has(value);
  return {
    ...plan,
    placements,
    // In the order of the graph, as a search of the whole gives them.
    strategies: new Map(graph.nodes.flatMap((n) => {
      const strategy = strategies.get(n.name);
      return strategy ? [[n.name, strategy] as const] : [];
    })),
    // Placed anew: which node of a block is the first to need a value depends on what came before it.
    reshards: placeReshards(graph, { placements, strategies, moves, isConstant }),
    cost,
  };
}

/** Whether cleaning made nothing of a block that has no name before, and treated all blocks alike. */
function isWhole(clean: Graph<"global">, { nodes, values, kept, graph }: Repeats): boolean {
  const counts = new Map<number, number>();
  const count = (place: BlockPlace | undefined) => place && counts.set(place.id, (counts.get(place.id) ?? 0) + 1);
  const known = new Set(graph.nodes.map((n) => n.name));
  for (const node of clean.nodes) {
    if (isCall(node)) {
      if (!known.has(node.name)) return false;
      count(nodes.get(node.name));
    }
    for (const name of node.outputs) {
      if (name === "") continue;
      count(values.get(name));
      // Of a constant that was folded nobody knows whether each block has its own: small ones do not matter.
      const small = node.kind === "get_attr" && node.data.shape.filter((d) => d > 1).length < 2;
      if (!graph.values.has(name) && !small) return false;
    }
  }
  return [...counts.values()].every((n) => n === kept);
}

/** The steps that repeat. */
interface Loop {
  readonly steps: readonly number[];
  /** By number of a name: in which block it is there. */
  readonly turns: ReadonlyMap<number, number>;
  /** The same for names that no step has to do with, or that are alike in all blocks wherever they stand. */
  readonly any: number;
}

/** Steps, one of each kind that a block has, that may be repeated; undefined where there are none. */
function loopOf({ steps, sources }: Problem, repeats: Repeats, trace: Trace): Loop | undefined {
  const { values, kept, names } = repeats;
  const places = sources.map((s) => placeOf(s, repeats));
  // A step that touches nothing that is followed costs the same in every state, and so wherever it stands.
  const isLoose = (i: number) => steps[i]!.inputs.length === 0 && steps[i]!.outputs.length === 0;
  const order = [...steps.keys()].filter((i) => !isLoose(i)), at = order.map((i) => places[i]);
  const length = at.filter((p) => p !== undefined).length / kept;
  if (!Number.isInteger(length) || length === 0) return undefined;
  /** The name one block further. */
  const next = (name: string) => {
    const place = values.get(name);
    return place ? names[place.id]![place.block + 1] : name;
  };
  for (let j = 0; j + length < order.length; j++) {
    const end = j + length, from = order[j]!, to = order[end]!;
    const piece = at.slice(j, end);
    if (piece.some((p) => p === undefined) || !comesBack(trace, from, to)) continue;
    const turns = new Map(piece.map((p) => [p!.key, p!.block]));
    if (turns.size !== length) continue;
    // Before the piece the earlier blocks, behind it the later ones, of each thing.
    const sorted = at.every((p, i) => {
      if (p === undefined || (i >= j && i < end)) return true;
      const turn = turns.get(p.key);
      return turn !== undefined && (i < j ? p.block < turn : p.block > turn);
    });
    const slots = trace.slots[from]!, later = trace.slots[to]!;
    if (!sorted || slots.length !== later.length || !slots.every((name, i) => next(name) === later[i])) continue;
    const repeated = order.slice(j, end), found = turnsOf(repeated.map((i) => sources[i]!), repeats);
    if (!found) return undefined;
    const loose = new Map(
      [...steps.keys()].flatMap((i) => (places[i] && isLoose(i) ? [[places[i].key, i] as const] : [])),
    );
    return { steps: [...repeated, ...loose.values()], turns: found, any: Math.max(...found.values()) };
  }
  return undefined;
}

/** Whether the steps between two points cost every state at least what they cost the way, which comes to its own state again. */
function comesBack({ frontiers, states, spent }: Trace, from: number, to: number): boolean {
  const a = frontiers[from]!, b = frontiers[to]!;
  if (a === b) return states[from] === states[to];
  if (a.classes.length !== b.classes.length || a.classes.some((c, i) => c !== b.classes[i])) return false;
  if (a.states[states[from]!] !== b.states[states[to]!]) return false;
  const before = new Map(a.states.map((s, i) => [s, spent[from]! + a.costs[i]!]));
  const price = spent[to]! + b.costs[states[to]!]! - (spent[from]! + a.costs[states[from]!]!);
  return b.states.every((s, i) => spent[to]! + b.costs[i]! >= (before.get(s) ?? Infinity) + price);
}

/** The blocks of all names that steps have to do with: what a call writes, and reads of the model or its inputs. */
function turnsOf(piece: readonly StepSource[], { nodes, values }: Repeats): Map<number, number> | undefined {
  const turns = new Map<number, number>();
  const set = (place: BlockPlace | undefined) => {
    if (!place) return true;
    const known = turns.get(place.id);
    turns.set(place.id, place.block);
    return known === undefined || known === place.block;
  };
  const isOwn = piece.every((source) => {
    if (source.kind !== "call") return set(values.get(source.value));
    const { node, shape } = source.call;
    const held = node.inputs.filter((_, i) => shape.constant[i]);
    return set(nodes.get(node.name)) && [...node.outputs, ...held].every((name) => set(values.get(name)));
  });
  return isOwn ? turns : undefined;
}

/** The block of a step, and what it is there; undefined where it belongs to none. */
function placeOf(source: StepSource, { nodes, values }: Repeats) {
  const place = source.kind === "call" ? nodes.get(source.call.node.name) : values.get(source.value);
  return place && { ...place, key: `${source.kind} ${place.id}` };
}
