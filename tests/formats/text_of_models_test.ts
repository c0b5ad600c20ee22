/** The text form on whole models, and the layers that are found in them. Needs the shared models; prints what is missing. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { isCall } from "../../src/graph/graph.ts";
import { printGraph } from "../../src/graph/text.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { verify } from "../../src/graph/verify.ts";
import { foldShapes } from "../../src/passes/fold_shapes.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";
import { liftLayers } from "../../src/passes/lift_layers.ts";
import { sharedOrSkip } from "../support/shared.ts";

function modelsUnder(folder: string): string[] {
  return [...Deno.readDirSync(folder)].toSorted((a, b) => (a.name < b.name ? -1 : 1)).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory) return modelsUnder(path);
    return path.endsWith(".onnx") ? [path] : [];
  });
}

for (const family of ["decoders", "encoders", "real", "seq2seq", "dynamo", "genai", "ort-fused"]) {
  Deno.test(`graphs of ${family} read back from their text, before and after lifting`, () => {
    const root = sharedOrSkip(`models/${family}`);
    if (root === undefined) return;
    for (const path of modelsUnder(root)) {
      using file = readOnnx(path);
      const graph = importOnnx(file);
      const lifted = liftLayers(foldShapes(inferTypes(graph)));
      for (const g of [graph, lifted]) {
        verify(g);
        const text = printGraph(g);
        const back = parseGraph(text, { stage: "global" });
        assert.equal(printGraph(back), text, path);
      }
    }
  });
}

/** Layers and the ops that would be ones, of a model without its shape arithmetic. */
function layers(path: string): Record<string, number> {
  using file = readOnnx(path);
  const lifted = liftLayers(foldShapes(inferTypes(importOnnx(file))));
  const constants = new Set(lifted.nodes.flatMap((n) => (n.kind === "get_attr" ? n.outputs : [])));
  const counts: Record<string, number> = { Linear: 0, Embedding: 0, left: 0 };
  for (const node of lifted.nodes) {
    if (!isCall(node)) continue;
    if (node.kind === "call_module") counts[node.op]! += 1;
    const isLeft = node.op === "MatMul" && constants.has(node.inputs[1]!) &&
      lifted.values.get(node.inputs[1]!)!.type.shape?.length === 2;
    if (isLeft) counts["left"]! += 1;
  }
  return counts;
}

Deno.test("every Linear and Embedding of known architectures is found", () => {
  const root = sharedOrSkip("models/decoders");
  if (root === undefined) return;
  const of = (name: string) => layers(join(root, name, "model.onnx"));
  // Per layer q, k, v, o, gate, up, down, and the head; GPT-2: qkv, o, two of the MLP, and word and position tables.
  assert.deepEqual(of("llama"), { Linear: 2 * 7 + 1, Embedding: 1, left: 0 });
  assert.deepEqual(of("gpt2"), { Linear: 2 * 4 + 1, Embedding: 2, left: 0 });
});
