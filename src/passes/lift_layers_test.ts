import assert from "node:assert/strict";
import { float, int, ints, string } from "../graph/attributes.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import type { Attributes, Graph } from "../graph/graph.ts";
import { verify } from "../graph/verify.ts";
import { printGraph } from "../graph/text.ts";
import { liftLayers } from "./lift_layers.ts";

/** A graph with `x: f32[n,4]`, weights `w: [4,6]`, `wt: [6,4]`, biases `b: [6]`, `c: [4]`. */
class Model {
  readonly builder = new GraphBuilder("global", "g", new Map([["", 17]]));

  constructor() {
    this.builder.placeholder({ name: "x", type: { dtype: "f32", shape: [3, 4] } });
    this.builder.placeholder({ name: "ids", type: { dtype: "i64", shape: [3] } });
    this.weight("w", [4, 6]).weight("wt", [6, 4]).weight("b", [6]).weight("c", [4]);
  }

  weight(name: string, shape: number[]): this {
    this.builder.getAttr(name, inlineData("f32", shape, new Float32Array(shape.reduce((a, b) => a * b, 1))));
    return this;
  }

  call(outputs: string, op: string, inputs: string[], attributes: Attributes = {}): this {
    const names = outputs.split(",");
    const shape = op === "Transpose" ? [0, 0] : undefined;
    this.builder.call(
      { kind: "call_function", domain: "", op, inputs, outputs: names, attributes },
      names.map((name) => ({ name, type: { dtype: "f32", shape } })),
    );
    return this;
  }

  /** The calls after lifting, as text. */
  lift(...results: string[]): string[] {
    const graph = this.graph(results);
    const lifted = liftLayers(graph);
    verify(lifted);
    return printGraph(lifted, { nodeNames: false }).split("\n").filter((l) => /^%.*\(/.test(l)).map((l) =>
      l.split(" : ")[0]!
    );
  }

  graph(results: string[]): Graph<"global"> {
    return this.builder.finish({ inputs: results, names: results });
  }
}

Deno.test("liftLayers() turns MatMul by a constant, with the bias in either operand of the Add, into Linear", () => {
  const model = new Model().call("m", "MatMul", ["x", "w"]).call("y", "Add", ["b", "m"]);
  assert.deepEqual(model.call("r", "Relu", ["y"]).lift("r"), [
    "%y = call_module shardwise.Linear(%x, %w, %b)",
    "%r = Relu(%y)",
  ]);
  assert.deepEqual(new Model().call("m", "MatMul", ["x", "w"]).call("y", "Add", ["m", "b"]).lift("y"), [
    "%y = call_module shardwise.Linear(%x, %w, %b)",
  ]);
});

Deno.test("liftLayers() leaves an Add whose product has other readers, or whose operand is no bias", () => {
  const shared = new Model().call("m", "MatMul", ["x", "w"]).call("y", "Add", ["m", "b"]);
  assert.deepEqual(shared.lift("y", "m"), ["%m = call_module shardwise.Linear(%x, %w)", "%y = Add(%m, %b)"]);
  const other = new Model().call("m", "MatMul", ["x", "w"]).call("y", "Add", ["m", "c"]);
  assert.deepEqual(other.lift("y"), ["%m = call_module shardwise.Linear(%x, %w)", "%y = Add(%m, %c)"]);
  const twice = new Model().call("m", "MatMul", ["x", "w"]).call("y", "Add", ["m", "m"]);
  assert.deepEqual(twice.lift("y"), ["%m = call_module shardwise.Linear(%x, %w)", "%y = Add(%m, %m)"]);
});

Deno.test("liftLayers() looks through Transpose and Identity of a weight and turns transB", () => {
  const model = new Model()
    .call("t", "Transpose", ["wt"], { perm: ints([1, 0]) })
    .call("i", "Identity", ["t"])
    .call("y", "MatMul", ["x", "i"])
    .call("z", "Gemm", ["x", "i"], { transB: int(1) });
  assert.deepEqual(model.lift("y", "z"), [
    "%y = call_module shardwise.Linear(%x, %wt) {transB=1}",
    "%z = call_module shardwise.Linear(%x, %wt)",
  ]);
});

Deno.test("liftLayers() takes a plain Gemm with its bias and leaves every other Gemm", () => {
  const gemm = (attributes: Attributes, bias = "b") =>
    new Model().call("y", "Gemm", ["x", "w", ...(bias ? [bias] : [])], attributes).lift("y");
  assert.deepEqual(gemm({ alpha: float(1), beta: float(1) }), ["%y = call_module shardwise.Linear(%x, %w, %b)"]);
  assert.deepEqual(gemm({}, ""), ["%y = call_module shardwise.Linear(%x, %w)"]);
  assert.deepEqual(gemm({ alpha: float(0.5) }), ["%y = Gemm(%x, %w, %b) {alpha=0.5}"]);
  assert.deepEqual(gemm({ transA: int(1) }), ["%y = Gemm(%x, %w, %b) {transA=1}"]);
  assert.deepEqual(gemm({}, "c"), ["%y = Gemm(%x, %w, %c)"]);
});

Deno.test("liftLayers() keeps a tied weight one constant of an Embedding and a Linear", () => {
  const model = new Model().weight("e", [9, 4])
    .call("h", "Gather", ["e", "ids"], { axis: int(0) })
    .call("t", "Transpose", ["e"], { perm: ints([1, 0]) })
    .call("y", "MatMul", ["h", "t"]);
  assert.deepEqual(model.lift("y"), [
    "%h = call_module shardwise.Embedding(%e, %ids)",
    "%y = call_module shardwise.Linear(%h, %e) {transB=1}",
  ]);
});

Deno.test("liftLayers() leaves a Gather of columns, of activations, or of a transposed table", () => {
  const columns = new Model().call("h", "Gather", ["w", "ids"], { axis: int(1) });
  assert.deepEqual(columns.lift("h"), ["%h = Gather(%w, %ids) {axis=1}"]);
  assert.deepEqual(new Model().call("h", "Gather", ["x", "ids"]).lift("h"), ["%h = Gather(%x, %ids)"]);
  const table = new Model().call("t", "Transpose", ["w"], { perm: ints([1, 0]) }).call("h", "Gather", ["t", "ids"]);
  assert.deepEqual(table.lift("h"), ["%t = Transpose(%w) {perm=[1,0]}", "%h = Gather(%t, %ids)"]);
});

Deno.test("liftLayers() lifts a loss unless its log-probabilities are read", () => {
  const loss = () => new Model().call("l,p", "SoftmaxCrossEntropyLoss", ["x", "ids"], { reduction: string("sum") });
  assert.deepEqual(loss().lift("l"), ['%l = call_module shardwise.CrossEntropyLoss(%x, %ids) {reduction="sum"}']);
  assert.deepEqual(loss().lift("l", "p"), ['%l, %p = SoftmaxCrossEntropyLoss(%x, %ids) {reduction="sum"}']);
});

Deno.test("liftLayers() gives back a graph without layers as it is", () => {
  const graph = new Model().call("y", "MatMul", ["x", "x"]).graph(["y"]);
  assert.equal(liftLayers(graph), graph);
});
