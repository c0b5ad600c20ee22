import assert from "node:assert/strict";
import { FormatError } from "../core/errors.ts";
import { attribute, graph, model, node, tensor } from "../../tests/support/onnx_models.ts";
import { checkModel } from "./onnx_check.ts";
import type { ModelProto } from "./onnx_messages.ts";

function fails(m: ModelProto, says: RegExp): void {
  assert.throws(() => checkModel(m, "m.onnx"), (e) => e instanceof FormatError && says.test(e.message), String(says));
}

const RELU = () => graph([node("Relu", ["x"], ["y"])]);

Deno.test("the version window is told when a model is outside of it", () => {
  const opset = (version: bigint) => ({ opsetImport: [{ domain: "ai.onnx", version }] });
  checkModel(model(RELU(), { irVersion: 13n, ...opset(26n) }), "m.onnx");
  checkModel(model(RELU(), opset(11n)), "m.onnx");
  fails(model(RELU(), { irVersion: 14n }), /IR version 14, and at most 13/);
  fails(model(RELU(), { irVersion: 0n }), /no IR version/);
  fails(model(RELU(), opset(27n)), /opset 27, newer than the supported 11 to 26/);
  fails(model(RELU(), opset(10n)), /opset 10, older than the supported 11 to 26/);
  fails(model(RELU(), { opsetImport: [] }), /no opset/);
});

Deno.test("names are defined once, before use", () => {
  fails(
    model(graph([node("Relu", ["x"], ["y"]), node("Abs", ["x"], ["y"], { name: "again" })])),
    /"y" is defined twice, by Relu "n_y" and by Abs "again"/,
  );
  fails(model(graph([node("Relu", ["x"], ["x"])])), /"x" is defined twice, by an input/);
  fails(
    model(graph([node("Relu", ["hiden"], ["y"]), node("Relu", ["x"], ["hidden"])])),
    /Relu "n_y" uses "hiden", which nothing defines: did you mean "hidden"/,
  );
  fails(model(graph([node("Relu", ["x"], ["t"])])), /the output list uses "y"/);
  fails(
    model(graph([], { initializers: [tensor("w"), tensor("w")], outputs: [] })),
    /initializer "w" is defined twice/,
  );
  fails(model(graph([], { inputs: ["x", "x"], outputs: [] })), /input "x" is defined twice/);
  fails(model(graph([node("", ["x"], ["y"])])), /names no op/);
  checkModel(model(graph([node("Relu", ["x"], ["y"])], { inputs: ["x", "w"], initializers: [tensor("w")] })), "m.onnx");
});

Deno.test("nodes out of order are sorted, keeping the order where it is free", () => {
  const g = graph([
    node("Add", ["a", "b"], ["y"]),
    node("Relu", ["x"], ["a"]),
    node("Abs", ["a"], ["b"]),
    node("Neg", ["x"], ["free"]),
  ]);
  checkModel(model(g), "m.onnx");
  assert.deepEqual(g.node.map((n) => n.output[0]), ["a", "b", "y", "free"]);
});

Deno.test("a cycle is an error that names a node of it", () => {
  fails(
    model(graph([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])])),
    /Add "n_a" needs its own output/,
  );
});

Deno.test("a subgraph sees the values around it, and makes its node wait for them", () => {
  const branch = graph([node("Neg", ["late"], ["r"])], { inputs: [], outputs: ["r"] });
  const If = node("If", ["c"], ["y"], { attribute: [attribute("then_branch", { g: branch })] });
  const g = graph([If, node("Relu", ["x"], ["late"])], { inputs: ["x", "c"] });
  checkModel(model(g), "m.onnx");
  assert.deepEqual(g.node.map((n) => n.opType), ["Relu", "If"]);
  branch.node[0]!.input[0] = "nowhere";
  fails(model(g), /If "n_y" uses "nowhere"/);
});

Deno.test("a chain of 50,000 nodes in reverse order is sorted without a deep stack", () => {
  const chain = Array.from(
    { length: 50_000 },
    (_, i) => node("Relu", [i === 0 ? "x" : `v${i - 1}`], [i === 49_999 ? "y" : `v${i}`]),
  );
  const g = graph(chain.reverse());
  checkModel(model(g), "m.onnx");
  assert.equal(g.node[0]!.input[0], "x");
});
