/** A rule of rewriting reads a number that lies in another file, also when its notes are asked for later. */
import assert from "node:assert/strict";
import { explainModel } from "../../src/explain_model.ts";
import { external, graph, model, node, saveModel, tensor } from "../support/onnx_models.ts";

Deno.test("the notes about rewrites are given after the model's files are closed", () => {
  const half = tensor("half", { dims: [1n], ...external({ location: "numbers.bin", offset: 0, length: 4 }) });
  const x = tensor("table", { dims: [2n, 4n], rawData: new Uint8Array(32) });
  const nodes = [
    node("Sigmoid", ["table"], ["gate"]),
    node("Mul", ["table", "gate"], ["silu"]),
    node("Mul", ["silu", "half"], ["y"]),
  ];
  const numbers = new Uint8Array(Float32Array.of(0.5).buffer);
  const path = saveModel(model(graph(nodes, { inputs: [], initializers: [x, half] })), { "numbers.bin": numbers });
  const { rewrites } = explainModel(path, { ranks: 2 });
  assert.deepEqual(rewrites.map((n) => [n.rule, n.reason]), [["silu", undefined]]);
});
