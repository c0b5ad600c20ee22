/** The pass that turns what exporters write out into the ops that it is, before anything is planned. */
import type { Graph } from "../graph/graph.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import { foldConstants } from "./fold_constants.ts";
import type { Pass } from "./pass.ts";
import { Matcher } from "./rewrites/matcher.ts";
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
    let matcher = new Matcher(graph);
    const goOnWith = (next: Graph<"global">) => next === matcher.graph ? matcher : new Matcher(next);
    for (const rule of CLEANING_RULES) {
      matcher = applyRewrite(matcher, rule).matcher;
      matcher = goOnWith(foldConstants(matcher.graph));
    }
    matcher = goOnWith(mergeEqual(matcher.graph));
    for (const rule of FUSING_RULES) {
      const { matcher: next, notes } = applyRewrite(matcher, rule);
      ctx.rewrites.push(...notes);
      matcher = next;
    }
    return matcher.graph;
  };
}
