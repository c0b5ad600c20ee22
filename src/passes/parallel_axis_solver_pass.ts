/** The pass that decides: a placement for every value, by exact search. */
import type { Graph } from "../graph/graph.ts";
import { REPLICATE } from "../graph/placement.ts";
import { opDef } from "../ops/table.ts";
import { planFromFile } from "../plan/check_plan.ts";
import { type PlanOptions, search } from "../plan/search.ts";
import { restrictionOf } from "./annotations.ts";
import type { Config, ParallelExecutionCtx } from "./context.ts";
import type { Pass } from "./pass.ts";

/** What the search is told of a configuration, for the clean graph `graph`. */
export function planOptions(config: Config, ranks: number, graph: Graph<"global">): PlanOptions {
  const { memoryPrice, costs, nominal, overrides, maxStates, baseline, annotations } = config;
  const { memoryPerRank: perRank, memoryLength: length } = config;
  return {
    ranks,
    opDef,
    costs: { ...costs, ...(memoryPrice === undefined ? {} : { memoryPrice }) },
    ...(nominal ? { nominal } : {}),
    ...(overrides ? { overrides } : {}),
    ...(maxStates === undefined ? {} : { maxStates }),
    ...(annotations ? { restrict: restrictionOf(graph, annotations, ranks) } : {}),
    ...(baseline === undefined ? {} : { baseline }),
    memory: { ...(perRank === undefined ? {} : { perRank }), ...(length === undefined ? {} : { length }) },
  };
}

/**
 * Solves for the cheapest plan and writes every value's placement into the graph; the plan itself goes to `ctx.plan`.
 *
 * ```text
 * %h = MatMul(%x, %w) : f32[batch,seq,64]    ->    %h = MatMul(%x, %w) : f32[batch,seq,64] @ S(2)
 * ```
 * A `ctx.plan` that is there already (made by hand) is taken as it is; `config.plan`, from a file, once it is checked.
 */
export class ParallelAxisSolverPass implements Pass<Graph<"global">, Graph<"annotated">> {
  readonly name = "parallel_axis_solver";

  /** The graph with placements; sets `ctx.plan`. @throws {PlanError} If overrides, annotations or a given plan do not fit. */
  readonly apply = (graph: Graph<"global">, ctx: ParallelExecutionCtx): Graph<"annotated"> => {
    const { config, ranks } = ctx;
    ctx.plan ??= config.plan
      ? planFromFile(config.plan, { graph, ranks, opDef })
      : search(graph, planOptions(config, ranks, graph));
    const { placements } = ctx.plan;
    const values = new Map(
      [...graph.values].map(([name, v]) => [name, { ...v, placement: placements.get(name) ?? REPLICATE }] as const),
    );
    return { ...graph, stage: "annotated", values };
  };
}
