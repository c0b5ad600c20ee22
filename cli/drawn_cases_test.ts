import assert from "node:assert/strict";
import { toNumbers } from "../src/core/host_tensor.ts";
import { importOnnx } from "../src/formats/import_onnx.ts";
import { readOnnx } from "../src/formats/onnx_file.ts";
import { drawnInputs, openedGraph } from "./drawn_cases.ts";

function inputsOf(name: string, sizes: Record<string, number> = {}) {
  const path = new URL(`../tests/data/models/${name}/model.onnx`, import.meta.url).pathname;
  using file = readOnnx(path);
  return drawnInputs(openedGraph(importOnnx(file)), { path, sizes });
}

Deno.test("drawnInputs() gives a decoder one token after a past, with ids in its table, and masks that hide nothing", () => {
  const inputs = inputsOf("llama");
  assert.deepEqual(inputs.get("input_ids")!.shape, [2, 1]);
  assert.deepEqual(inputs.get("attention_mask")!.shape, [2, 6]);
  assert.deepEqual(inputs.get("past_key_values.0.key")!.shape, [2, 2, 5, 8]);
  assert.ok(Array.from(toNumbers(inputs.get("input_ids")!)).every((id) => id >= 0 && id < 97));
  assert.ok(Array.from(toNumbers(inputs.get("attention_mask")!)).every((on) => on === 1));
  assert.ok(new Set(Array.from(toNumbers(inputs.get("past_key_values.1.value")!))).size > 50);
});

Deno.test("drawnInputs() gives an encoder texts, and other sizes where they are told", () => {
  assert.deepEqual(inputsOf("bert").get("input_ids")!.shape, [2, 7]);
  const types = Array.from(toNumbers(inputsOf("bert").get("token_type_ids")!));
  assert.ok(types.every((t) => t === 0 || t === 1), `${types}`);
  assert.deepEqual(inputsOf("mlp", { seq: 3 }).get("x")!.shape, [2, 3, 32]);
});
