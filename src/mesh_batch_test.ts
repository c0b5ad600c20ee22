import assert from "node:assert/strict";
import { PlanError } from "./core/errors.ts";
import { parseDim } from "./core/dim.ts";
import { GraphBuilder, inlineData } from "./graph/builder.ts";
import { int, ints } from "./graph/attributes.ts";
import type { Graph } from "./graph/graph.ts";
import { batchOfGraph } from "./mesh_batch.ts";
import { ParallelExecutionCtx } from "./passes/context.ts";
import { cleanPipeline } from "./passes/pipelines.ts";

const FLOATS = { dtype: "f32", shape: [parseDim("b"), 3] } as const;

/** A branch that computes one op of the outer `x`. */
function branch(op: string, inputs: readonly string[], attributes = {}): Graph<"global"> {
  const g = new GraphBuilder("global", op, new Map([["", 18]]));
  g.call({ kind: "call_function", domain: "", op, inputs, outputs: ["r"], attributes }, [{ name: "r", type: FLOATS }]);
  return g.finish({ inputs: ["r"], names: ["r"] });
}

/** `y = If(condition) { then(x), Neg(x) }`, where `condition` is of `sum[b,3]`'s or of the flag's elements. */
function chosenBy(condition: "samples" | "flag", then: Graph<"global">): Graph<"global"> {
  const g = new GraphBuilder("global", "net", new Map([["", 18]]));
  g.placeholder({ name: "x", type: FLOATS });
  g.placeholder({ name: "flag", type: { dtype: "f32", shape: [1] } });
  g.getAttr("zero", inlineData("f32", [1], new Float32Array(1)));
  const call = (op: string, inputs: string[], to: string, type: object, attributes = {}) =>
    g.call({ kind: "call_function", domain: "", op, inputs, outputs: [to], attributes }, [{
      name: to,
      type: type as typeof FLOATS,
    }]);
  const of = condition === "flag" ? "flag" : "most";
  if (condition === "samples") {
    call("ReduceMax", ["x"], "most", { dtype: "f32", shape: [1] }, { axes: ints([0, 1]), keepdims: int(0) });
  }
  call("Greater", [of, "zero"], "c", { dtype: "bool", shape: [1] });
  g.call({
    kind: "call_function",
    domain: "",
    op: "If",
    inputs: ["c"],
    captures: ["x"],
    outputs: ["y"],
    attributes: {
      then_branch: { kind: "graph", value: then },
      else_branch: { kind: "graph", value: branch("Neg", ["x"]) },
    },
  }, [{ name: "y", type: FLOATS }]);
  return g.finish({ inputs: ["y"], names: ["y"] });
}

function batch(graph: Graph<"global">) {
  const ctx = new ParallelExecutionCtx({ ranks: 1, rank: 0, config: { fuse: false } });
  return batchOfGraph(cleanPipeline().run(graph, ctx), ctx);
}

Deno.test("both branches of an If are followed, where it decides by what all samples have alike", () => {
  const { outputs } = batch(chosenBy("flag", branch("Relu", ["x"])));
  assert.deepEqual([...outputs], [["y", { dim: 0, inner: 1 }]]);
  const mixing = chosenBy("flag", branch("Softmax", ["x"], { axis: int(0) }));
  assert.throws(() => batch(mixing), (e) => e instanceof PlanError && /Softmax needs dim 0/.test(e.message));
});

Deno.test("an If that decides by samples is refused", () => {
  const graph = chosenBy("samples", branch("Relu", ["x"]));
  assert.throws(
    () => batch(graph),
    (e) => e instanceof PlanError && /ReduceMax combines samples|an If decides/.test(e.message),
  );
});
