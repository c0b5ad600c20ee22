/** The pass after which a graph is one rank's: local shapes, and the slices of the weights that it holds. */
import type { Graph } from "../graph/graph.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import { localize } from "./localize.ts";
import type { Pass } from "./pass.ts";

/**
 * Makes rank `ctx.rank`'s part of a sharded graph. Constants become slices that are read from the model's file when they
 * are needed, and only then; nothing is read here.
 */
export class InitializeOrLoadWeightsPass implements Pass<Graph<"sharded">, Graph<"local">> {
  readonly name = "initialize_or_load_weights";

  /** The rank's graph. @throws {GraphError} If a local type contradicts its placement. */
  readonly apply = (graph: Graph<"sharded">, ctx: ParallelExecutionCtx): Graph<"local"> =>
    localize(graph, ctx.rank, ctx.ranks, { slices: ctx.slices });
}
