/** The pass that decides: a placement for every value, by exact search. */
import type { Graph } from "../graph/graph.ts";
import { REPLICATE } from "../graph/placement.ts";
import { opDef } from "../ops/table.ts";
import { search } from "../plan/search.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import type { Pass } from "./pass.ts";

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

  readonly apply = (graph: Graph<"global">, ctx: ParallelExecutionCtx): Graph<"annotated"> => {
    const { memoryPrice, costs, nominal, overrides, maxStates } = ctx.config;
    ctx.plan ??= search(graph, {
      ranks: ctx.ranks,
      opDef,
      ...(costs || memoryPrice !== undefined
        ? { costs: { ...costs, ...(memoryPrice === undefined ? {} : { memoryPrice }) } }
        : {}),
      ...(nominal ? { nominal } : {}),
      ...(overrides ? { overrides } : {}),
      ...(maxStates === undefined ? {} : { maxStates }),
    });
    const { placements } = ctx.plan;
    const values = new Map(
      [...graph.values].map(([name, v]) => [name, { ...v, placement: placements.get(name) ?? REPLICATE }] as const),
    );
    return { ...graph, stage: "annotated", values };
  };
}
