/** The pass that turns what exporters write out into the ops that it is, before anything is planned. */
import type { Graph } from "../graph/graph.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import { foldConstants } from "./fold_constants.ts";
import type { Pass } from "./pass.ts";
import { mergeEqual } from "./rewrites/merge_equal.ts";
import { applyRewrite } from "./rewrites/rewrite.ts";
import { CLEANING_RULES, FUSING_RULES } from "./rewrites/rules.ts";

/**
 * Applies the rules of src/passes/rewrites, which need types. What each did, and why it left a place alone, goes to
 * `ctx.rewrites`. With `config.fuse` false the graph stays as it is.
 */
export class RewritePass implements Pass {
  readonly name = "rewrite";

  /** The graph with fused ops. Values that are new have types, no known contents. */
  readonly apply = (graph: Graph<"global">, ctx: ParallelExecutionCtx): Graph<"global"> => {
    if (ctx.config.fuse === false) return graph;
    let current = graph;
    for (const rule of CLEANING_RULES) current = foldConstants(applyRewrite(current, rule).graph);
    current = mergeEqual(current);
    for (const rule of FUSING_RULES) {
      const { graph: next, notes } = applyRewrite(current, rule);
      ctx.rewrites.push(...notes);
      current = next;
    }
    return current;
  };
}
