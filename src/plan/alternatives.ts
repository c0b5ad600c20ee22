/**
 * Why a layer became what it is: all that it could have become, each with the best plan around it.
 *
 * The numbers are exact: an alternative's plan is the cheapest of all in which the layer is that, and everything else free.
 */
import type { Graph } from "../graph/graph.ts";
import { printPlacement } from "../graph/placement.ts";
import { seconds } from "./cost.ts";
import { type CollectiveReport, explainSolved, layersOf, type PlanReport } from "./explain.ts";
import { type LayerKind, layerKind } from "./layer_kind.ts";
import { Memo } from "./memo.ts";
import { meantLayers } from "./overrides.ts";
import type { PlanMemory } from "./plan.ts";
import { isHeavy } from "./problem.ts";
import type { SolvedPlan } from "./capped.ts";
import { readSolution } from "./read_solution.ts";
import type { PricedCall } from "./sequence.ts";
import type { Candidate } from "./strategies.ts";

/** One thing that a layer could be. */
export interface AlternativeReport {
  /** What the layer would be. */
  readonly kind: LayerKind;
  /** Placements of its weights as DTensor prints them, in the order of the inputs. */
  readonly weights: readonly string[];
  /** Whether the plan has it so. */
  readonly chosen: boolean;
  /** Seconds of a step, of work and collectives. */
  readonly seconds: number;
  /** What it costs more than the plan, in the seconds that the search minimises: with the price of memory. */
  readonly extra: number;
  /** All collectives of a step. */
  readonly collectives: readonly CollectiveReport[];
  /** Bytes of all collectives, shared out among the tokens of a step. */
  readonly bytesPerToken: number;
  /** Bytes on the rank with the most. */
  readonly memory: PlanMemory;
  /** Collectives that the plan does not have, and those that only the plan has. */
  readonly added: readonly CollectiveReport[];
  /** Collectives of the plan that fall away. */
  readonly removed: readonly CollectiveReport[];
  /** Other layers that would then be something else. */
  readonly others: readonly { readonly name: string; readonly from: LayerKind; readonly to: LayerKind }[];
}

/** Why a layer is what it is. */
export interface LayerExplanation {
  /** Name of its node. */
  readonly name: string;
  /** Layers that are like it in every way but their place. */
  readonly likewise: readonly string[];
  /** The cheapest first. */
  readonly alternatives: readonly AlternativeReport[];
}

/**
 * All alternatives of the layers that a pattern means, one explanation for layers that are alike.
 *
 * @throws {PlanError} If the pattern matches no layer: with near names.
 */
export function explainLayers(graph: Graph<"global">, solved: SolvedPlan, pattern: string): LayerExplanation[] {
  const { problem, solution } = solved;
  const steps = new Map(problem.sources.flatMap((s, i) => (s.kind === "call" ? [[s.call, i] as const] : [])));
  const named = layersOf(problem).map((call) => ({
    name: call.node.name,
    scope: call.node.scope,
    heavy: isHeavy(call),
    call,
    index: steps.get(call)!,
  }));
  const report = explainSolved(graph, solved, false);
  const lists: Memo<readonly Candidate[], number> = new Memo(() => lists.size);
  const groups = Map.groupBy(meantLayers(pattern, named), ({ call, index }) => {
    return `${call.shape.id};${lists.of(call.candidates)};${solution.decisions[index]!.alternative}`;
  });
  return [...groups.values()].map(([first, ...rest]) => ({
    name: first!.name,
    likewise: rest.map((l) => l.name),
    alternatives: alternativesOf(graph, solved, { ...first!, report }),
  }));
}

function alternativesOf(
  graph: Graph<"global">,
  { plan, problem, frontier, solution }: SolvedPlan,
  { call, index, report }: { readonly call: PricedCall; readonly index: number; readonly report: PlanReport },
): AlternativeReport[] {
  const optimum = frontier.solve()!.cost;
  const groups = Map.groupBy(call.candidates.keys(), (i) => labelOf(call, i));
  const chosen = labelOf(call, solution.decisions[index]!.alternative);
  const found = [...groups].flatMap(([label, members]): AlternativeReport[] => {
    const isChosen = label === chosen;
    const variant = isChosen ? solution : frontier.solveWith(index, (i) => members.includes(i));
    if (!variant) return [];
    const made = isChosen ? plan : readSolution(problem, variant);
    const other = isChosen ? report : explainSolved(graph, { plan: made, problem, frontier, solution: variant }, false);
    const candidate = call.candidates[variant.decisions[index]!.alternative]!;
    return [{
      kind: layerKind(candidate, call.weights[0]),
      weights: call.weights.map((i) => printPlacement(candidate.inputs[i]!)),
      chosen: isChosen,
      seconds: made.cost.compute + made.cost.communication,
      extra: isChosen ? 0 : seconds(Math.max(0, variant.cost - optimum)),
      collectives: other.collectives,
      bytesPerToken: other.collectives.reduce((sum, c) => sum + c.bytesPerToken, 0),
      memory: made.cost.memory,
      added: difference(other.collectives, report.collectives),
      removed: difference(report.collectives, other.collectives),
      others: report.layers.flatMap(({ name, kind }, i) => {
        const to = other.layers[i]!.kind;
        return to === kind || name === call.node.name ? [] : [{ name, from: kind, to }];
      }),
    }];
  });
  return found.toSorted((a, b) => Number(b.chosen) - Number(a.chosen) || a.extra - b.extra);
}

/** What a strategy makes of a layer, for people: several strategies that differ only elsewhere are one. */
function labelOf(call: PricedCall, alternative: number): string {
  const candidate = call.candidates[alternative]!;
  const weights = call.weights.map((i) => printPlacement(candidate.inputs[i]!));
  return `${layerKind(candidate, call.weights[0])} ${weights.join(" ")}`;
}

function difference(all: readonly CollectiveReport[], without: readonly CollectiveReport[]): CollectiveReport[] {
  const known = new Set(without.map((c) => `${c.kind} ${c.value}`));
  return all.filter((c) => !known.has(`${c.kind} ${c.value}`));
}
