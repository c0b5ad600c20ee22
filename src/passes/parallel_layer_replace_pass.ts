/** The pass that carries the plan out: parallel layers, explicit collectives. */
import { stringOf } from "../graph/attributes.ts";
import { type Call, type Graph, isCall } from "../graph/graph.ts";
import { type LayerRole, parallelName } from "../ops/layer_roles.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import type { Pass } from "./pass.ts";
import { insertReshards } from "./reshard.ts";

/**
 * Replaces layers by their parallel counterparts and inserts the collectives between them.
 *
 * ```text
 * %h = call_module Linear(%x, %w) {parallel="column"} @ S(2)
 * %y = call_module Linear(%h, %v) {parallel="row"} @ P(sum)
 * %z = Add(%x, %y)
 *   ->
 * %h = call_module ColumnParallelLinear(%x, %w.shard) {gather_output=0} @ S(2)
 * %y = call_module RowParallelLinear(%h, %v.shard) {input_is_parallel=1} @ P(sum)
 * %y.all_reduce = all_reduce(%y) {reduction=sum}
 * %z = Add(%x, %y.all_reduce)
 * ```
 * Sizes that were written for the whole tensor (head counts in Reshape, Split, Slice, attention attributes) are divided when
 * the graph is made local: each op's definition knows its own.
 */
export class ParallelLayerReplacePass implements Pass<Graph<"annotated">, Graph<"sharded">> {
  readonly name = "parallel_layer_replace";

  /** The sharded graph. @throws {PlanError} If there is no plan yet, or it is of another graph. */
  readonly apply = (graph: Graph<"annotated">, ctx: ParallelExecutionCtx): Graph<"sharded"> => {
    const sharded = insertReshards(graph, ctx.requirePlan());
    return { ...sharded, nodes: sharded.nodes.map((n) => (isCall(n) && n.kind === "call_module" ? replace(n) : n)) };
  };
}

function replace(node: Call): Call {
  const { parallel: _, ...attributes } = node.attributes;
  const role = stringOf(node.attributes, "parallel") as LayerRole | undefined;
  return { ...node, op: parallelName(node.op, role ?? "replicated"), attributes };
}
