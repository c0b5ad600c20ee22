/** The pass that decides: a placement for every value, by exact search. */
import type { Graph } from "../graph/graph.ts";
import { REPLICATE } from "../graph/placement.ts";
import { opDef } from "../ops/table.ts";
import { type PlanOptions, search } from "../plan/search.ts";
import type { Config, ParallelExecutionCtx } from "./context.ts";
import type { Pass } from "./pass.ts";

/** What the search is told of a configuration. */
export function planOptions(config: Config, ranks: number): PlanOptions {
  const { memoryPrice, costs, nominal, overrides, maxStates, baseline } = config;
  const { memoryPerRank: perRank, memoryLength: length } = config;
  return {
    ranks,
    opDef,
    costs: { ...costs, ...(memoryPrice === undefined ? {} : { memoryPrice }) },
    ...(nominal ? { nominal } : {}),
    ...(overrides ? { overrides } : {}),
    ...(maxStates === undefined ? {} : { maxStates }),
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
 * A `ctx.plan` that is there already (read from a file, or made by hand) is taken as it is.
 */
export class ParallelAxisSolverPass implements Pass<Graph<"global">, Graph<"annotated">> {
  readonly name = "parallel_axis_solver";

  /** The graph with placements; sets `ctx.plan`. @throws {PlanError} If the overrides cannot be met. */
  readonly apply = (graph: Graph<"global">, ctx: ParallelExecutionCtx): Graph<"annotated"> => {
    ctx.plan ??= search(graph, planOptions(ctx.config, ctx.ranks));
    const { placements } = ctx.plan;
    const values = new Map(
      [...graph.values].map(([name, v]) => [name, { ...v, placement: placements.get(name) ?? REPLICATE }] as const),
    );
    return { ...graph, stage: "annotated", values };
  };
}
