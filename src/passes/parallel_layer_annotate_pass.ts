/** The pass that says what the plan makes of each layer, in Megatron's words. */
import { int, string } from "../graph/attributes.ts";
import { type Attributes, type Call, type Graph, isCall } from "../graph/graph.ts";
import { placementKey } from "../graph/placement.ts";
import { type LayerRole, layerRole } from "../ops/layer_roles.ts";
import type { Plan } from "../plan/plan.ts";
import type { ParallelExecutionCtx } from "./context.ts";
import type { Pass } from "./pass.ts";

/**
 * Annotates every layer with how it is parallel.
 *
 * ```text
 * call_module Linear(%x, %w)  ->  call_module Linear(%x, %w) {parallel="column", gather_output=0}
 * call_module Linear(%h, %v)  ->  call_module Linear(%h, %v) {parallel="row", input_is_parallel=1}
 * call_module Embedding(%t, %ids)  ->  call_module Embedding(%t, %ids) {parallel="vocab"}
 * ```
 * `gather_output`: an all-gather follows somewhere. `input_is_parallel`: the input comes sharded from another layer; 0
 * where each rank cuts its part from a replicated tensor.
 */
export class ParallelLayerAnnotatePass implements Pass<Graph<"annotated">> {
  readonly name = "parallel_layer_annotate";

  /** The graph with annotated layers. @throws {PlanError} If there is no plan yet. */
  readonly apply = (graph: Graph<"annotated">, ctx: ParallelExecutionCtx): Graph<"annotated"> => {
    const plan = ctx.requirePlan();
    return { ...graph, nodes: graph.nodes.map((n) => (isCall(n) && n.kind === "call_module" ? annotate(n, plan) : n)) };
  };
}

function annotate(node: Call, plan: Plan): Call {
  const strategy = plan.strategies.get(node.name);
  const role = strategy ? layerRole(node, strategy.inputs) : "replicated";
  return { ...node, attributes: { ...node.attributes, parallel: string(role), ...details(node, role, plan) } };
}

function details(node: Call, role: LayerRole, plan: Plan): Attributes {
  if (role === "column") {
    const output = node.outputs[0]!;
    const gathered = plan.reshards.some((r) => r.value === output && r.from.kind === "S" && r.to.kind === "R");
    return { gather_output: int(gathered ? 1 : 0) };
  }
  if (role === "row") {
    const input = node.inputs[0]!;
    const wanted = plan.strategies.get(node.name)!.inputs[0]!;
    const cut = plan.reshards.some((r) =>
      r.value === input && r.from.kind === "R" && placementKey(r.to) === placementKey(wanted)
    );
    return { input_is_parallel: int(cut ? 0 : 1) };
  }
  return {};
}
