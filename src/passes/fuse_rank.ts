/** What becomes one op on a rank, though the plan keeps it apart. */
import { byteLength } from "../core/dtype.ts";
import type { Graph, TensorData } from "../graph/graph.ts";
import { JoinedWeights } from "./rewrites/joined_weights.ts";
import { joinedProducts } from "./rewrites/joined_products.ts";
import { Matcher } from "./rewrites/matcher.ts";
import { applyRewrite, type Rewrite, type RewriteNote } from "./rewrites/rewrite.ts";
import { SKIP_NORM } from "./rewrites/skip_norm.ts";

/** Constants of fewer bytes do not count: passes make them, and models have them inline. */
const SMALL = 1024;

/**
 * The graphs of one rank with ops fused that ONNX Runtime's CPU has: what a step of one token calls dozens of times a layer costs more in
 * calls than in arithmetic. The ops that planning knows stay what plans and exported parts are made of, and what GPUs run.
 *
 * Weights of products are joined only where some are made anyway (cut, or quantised on loading): of a model whose weights all lie in
 * its file as they are used, a rank maps that and copies nothing.
 */
export function fuseRank(
  graphs: readonly Graph<"local">[],
): { readonly graphs: readonly Graph<"local">[]; readonly notes: readonly RewriteNote[] } {
  const weights = new JoinedWeights(), notes: RewriteNote[] = [];
  const fused = graphs.map((graph) => {
    const rules: readonly Rewrite[] = [SKIP_NORM, ...(isMapped(graph) ? [] : [joinedProducts(weights)])];
    return rules.reduce((current, rule) => {
      const { matcher: next, notes: more } = applyRewrite(current, rule);
      notes.push(...more);
      return next;
    }, new Matcher(graph)).graph;
  });
  return { graphs: fused, notes };
}

/** Whether weights lie in files, and all of them do. */
function isMapped(graph: Graph<"local">): boolean {
  const constants = graph.nodes.flatMap((node) => (node.kind === "get_attr" ? [node.data] : []));
  const isSmall = ({ dtype, shape }: TensorData) => byteLength(dtype, shape.reduce((a, b) => a * b, 1)) < SMALL;
  return constants.some((data) => data.location) && constants.every((data) => data.location || isSmall(data));
}
