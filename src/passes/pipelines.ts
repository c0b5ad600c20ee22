/** The pipelines that models go through. */
import type { Graph } from "../graph/graph.ts";
import { foldConstants } from "./fold_constants.ts";
import { foldShapes } from "./fold_shapes.ts";
import { inferTypes } from "./infer_types.ts";
import { inlineBranches } from "./inline_branches.ts";
import { InitializeOrLoadWeightsPass } from "./initialize_or_load_weights_pass.ts";
import { lastLogits } from "./last_logits.ts";
import { liftLayers } from "./lift_layers.ts";
import { ParallelAxisSolverPass } from "./parallel_axis_solver_pass.ts";
import { ParallelLayerAnnotatePass } from "./parallel_layer_annotate_pass.ts";
import { ParallelLayerReplacePass } from "./parallel_layer_replace_pass.ts";
import { pass } from "./pass.ts";
import { PassPipeline } from "./pipeline.ts";
import { QuantisePass } from "./quantise_pass.ts";
import { RewritePass } from "./rewrite_pass.ts";
import { roundValues } from "./round_values.ts";
import { seedDraws } from "./seed_draws.ts";

type Global = Graph<"global">;

/** Cleans an imported graph: aliases, types, shape arithmetic, fused ops, layers, quantised weights. What planning starts from. */
export function cleanPipeline(): PassPipeline<Graph<"global">> {
  return new PassPipeline<Global>()
    .append(pass("seed_draws", (g: Global) => seedDraws(g)))
    .append(pass("fold_constants", (g: Global) => foldConstants(g)))
    .append(pass("infer_types", (g: Global) => inferTypes(g)))
    .append(pass("fold_shapes", (g: Global) => foldShapes(g)))
    .append(pass("inline_branches", (g: Global) => withoutBranches(g)))
    .append(new RewritePass())
    .append(pass("lift_layers", (g: Global) => liftLayers(g)))
    .append(pass("infer_layer_types", (g: Global) => inferTypes(g)))
    .append(pass("last_logits", (g: Global, ctx) => ctx.config.logits === "last" ? lastLogits(g) : g))
    .append(new QuantisePass());
}

/** The graph without Ifs that are decided, whose nodes are then typed and folded like others. */
function withoutBranches(graph: Global): Global {
  const inlined = inlineBranches(graph);
  // What one branch gave may decide the next.
  return inlined === graph ? graph : withoutBranches(foldShapes(inferTypes(foldConstants(inlined))));
}

/** Plans a clean graph and shards it: the same on every rank. */
export function shardPipeline(): PassPipeline<Graph<"global">, Graph<"sharded">> {
  return new PassPipeline<Global>()
    .append(new ParallelAxisSolverPass())
    .append(new ParallelLayerAnnotatePass())
    .append(new ParallelLayerReplacePass());
}

/** Makes one rank's part of a sharded graph. */
export function loadPipeline(): PassPipeline<Graph<"sharded">, Graph<"local">> {
  return new PassPipeline<Graph<"sharded">>()
    .append(new InitializeOrLoadWeightsPass())
    .append(
      pass("round_values", (g: Graph<"local">, { config: { roundTo } }) => roundTo ? roundValues(g, roundTo) : g),
    );
}
