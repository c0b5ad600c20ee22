/** Plans side by side: what the search found, and what simple rules make of the same model, priced alike. */
import { PlanError } from "../core/errors.ts";
import type { Graph } from "../graph/graph.ts";
import type { Baseline } from "./baselines.ts";
import { explainSolved } from "./explain.ts";
import type { PlanMemory } from "./plan.ts";
import type { PlanOptions } from "./problem.ts";
import { type SolvedPlan, solvePlan } from "./search.ts";

/** One plan's numbers. */
export interface PlanComparison {
  /** Whose plan it is. */
  readonly name: "solver" | Baseline;
  /** Seconds of one step on the slowest rank, shared out among its tokens. */
  readonly secondsPerToken: number;
  /** How much of it is collectives. */
  readonly communicationPerToken: number;
  /** Bytes of all collectives, shared out among the tokens of a step. */
  readonly bytesPerToken: number;
  /** Collectives of one step. */
  readonly collectives: number;
  /** Bytes on the rank with the most. */
  readonly memory: PlanMemory;
  /** Whether that keeps the cap, where there is one. */
  readonly fits: boolean;
}

/**
 * The plan that was found, and those of the rules. Overrides hold in all of them; a cap is told, not enforced, in those of
 * the rules.
 *
 * @throws {PlanError} If a rule cannot be carried out together with the overrides.
 */
export function comparePlans(
  graph: Graph<"global">,
  solved: SolvedPlan,
  baselines: readonly Baseline[],
  options: PlanOptions,
): PlanComparison[] {
  const { memory, ...rest } = options;
  const cap = memory?.perRank ?? Infinity;
  const length = memory?.length === undefined ? {} : { memory: { length: memory.length } };
  return [
    compared(graph, "solver", solved, cap),
    ...baselines.map((baseline) => {
      try {
        return compared(graph, baseline, solvePlan(graph, { ...rest, ...length, baseline }), cap);
      } catch (cause) {
        if (!(cause instanceof PlanError)) throw cause;
        throw new PlanError(`Cannot compare with "${baseline}": ${cause.message}`, { cause });
      }
    }),
  ];
}

function compared(
  graph: Graph<"global">,
  name: PlanComparison["name"],
  solved: SolvedPlan,
  cap: number,
): PlanComparison {
  const { cost, collectives, tokens } = explainSolved(graph, solved, false);
  return {
    name,
    secondsPerToken: (cost.compute + cost.communication) / tokens,
    communicationPerToken: cost.communication / tokens,
    bytesPerToken: collectives.reduce((sum, c) => sum + c.bytesPerToken, 0),
    collectives: collectives.length,
    memory: cost.memory,
    fits: cost.memory.total <= cap,
  };
}
