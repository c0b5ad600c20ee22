import assert from "node:assert/strict";
import { PlanError, ShapeError, ShardwiseError } from "../core/errors.ts";
import type { Graph } from "../graph/graph.ts";
import { REPLICATE } from "../graph/placement.ts";
import { parseGraph } from "../graph/text_parser.ts";
import { ParallelExecutionCtx } from "./context.ts";
import { pass } from "./pass.ts";
import { PassPipeline } from "./pipeline.ts";

const GRAPH = parseGraph("graph g : global {opset=17}\n%x = placeholder : f32[2]\noutput %x\n", { stage: "global" });

const keep = pass("keep", (graph: Graph<"global">) => graph);
const annotate = pass("annotate", (graph: Graph<"global">): Graph<"annotated"> => ({
  ...graph,
  stage: "annotated",
  values: new Map([...graph.values].map(([name, value]) => [name, { ...value, placement: REPLICATE }])),
}));
const shardPass = pass("shard", (graph: Graph<"annotated">): Graph<"sharded"> => ({ ...graph, stage: "sharded" }));

function context(dump = false): ParallelExecutionCtx {
  return new ParallelExecutionCtx({ ranks: 2, rank: 1, config: { dump } });
}

Deno.test("a PassPipeline runs its passes in order and notes it in the context", () => {
  const ctx = context(true);
  const pipeline = new PassPipeline().append(keep).append(annotate).append(shardPass);
  const graph: Graph<"sharded"> = pipeline.run(GRAPH, ctx);
  assert.equal(graph.stage, "sharded");
  assert.deepEqual(pipeline.names, ["keep", "annotate", "shard"]);
  assert.deepEqual(ctx.dumps.map((d) => [d.pass, d.text.split("\n")[0]]), [
    ["keep", "graph g : global {opset=17}"],
    ["annotate", "graph g : annotated {opset=17}"],
    ["shard", "graph g : sharded {opset=17}"],
  ]);
  assert.equal(ctx.compileTimes, 1);
  assert.equal(ctx.lastOptimizedGraph, graph);
});

Deno.test("a PassPipeline in the wrong order does not compile", () => {
  // @ts-expect-error a pass on annotated graphs cannot be the first
  new PassPipeline().append(shardPass);
  // @ts-expect-error a pass on global graphs cannot follow one that annotates
  new PassPipeline().append(annotate).append(keep);
  const pipeline = new PassPipeline().append(annotate);
  // @ts-expect-error the result of the pipeline is annotated, not sharded
  const wrong: PassPipeline<Graph<"global">, Graph<"sharded">> = pipeline;
  // @ts-expect-error a pipeline takes graphs of its first pass's stage only
  assert.throws(() => pipeline.run({ ...GRAPH, stage: "sharded" }, context()), ShardwiseError);
  assert.equal(wrong.names.length, 1);
});

Deno.test("a PassPipeline says which pass failed, after which others, and keeps cause and hint", () => {
  const fail = pass("fail", (_: Graph<"annotated">): Graph<"annotated"> => {
    throw new ShapeError("Cannot cut it", { hint: "try less" });
  });
  const ctx = context();
  assert.throws(() => new PassPipeline().append(keep).append(annotate).append(fail).run(GRAPH, ctx), (error) => {
    assert.ok(error instanceof ShardwiseError);
    assert.equal(error.message, 'Cannot apply pass fail to graph "g" (after keep, annotate): Cannot cut it');
    assert.equal(error.hint, "try less");
    assert.ok(error.cause instanceof ShapeError);
    return true;
  });
  assert.equal(ctx.compileTimes, 0);
});

Deno.test("a PassPipeline passes on as it is what says that a user's wish cannot be met", () => {
  const wish = new PlanError('No layer matches "nope"');
  const refuse = pass("refuse", (_: Graph<"global">): Graph<"global"> => {
    throw wish;
  });
  assert.throws(() => new PassPipeline().append(keep).append(refuse).run(GRAPH, context()), (error) => error === wish);
});

Deno.test("a PassPipeline refuses the invalid graph that a pass gives, naming the pass", () => {
  const lose = pass("lose", (graph: Graph<"global">): Graph<"global"> => ({ ...graph, values: new Map() }));
  assert.throws(
    () => new PassPipeline().append(lose).run(GRAPH, context()),
    /pass lose .*the first pass.*not in the table/,
  );
});

Deno.test("a ParallelExecutionCtx refuses a rank that is none, and a plan that nobody has made", () => {
  assert.throws(() => new ParallelExecutionCtx({ ranks: 2, rank: 2 }), RangeError);
  assert.throws(() => new ParallelExecutionCtx({ ranks: 0, rank: 0 }), RangeError);
  assert.throws(() => context().requirePlan(), PlanError);
});
