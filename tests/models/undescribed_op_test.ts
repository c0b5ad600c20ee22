/** An op that nobody described runs whole on every rank, between layers that are split, and the plan says so. */
import assert from "node:assert/strict";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { explainModel } from "../../src/explain_model.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { compareTensors } from "../../cli/compare.ts";
import { emulatedModel } from "../support/emulated.ts";
import { graph, model, node, saveModel, tensor } from "../support/onnx_models.ts";

function weight(name: string, dims: readonly number[], seed: number) {
  const size = dims.reduce((a, b) => a * b, 1);
  const data = Float32Array.from({ length: size }, (_, i) => Math.sin(seed + i * 1.7));
  return tensor(name, { dims: dims.map(BigInt), rawData: new Uint8Array(data.buffer) });
}

Deno.test("an op that nobody described gets whole inputs, and the plan names it", async () => {
  const g = graph([
    node("MatMul", ["x", "up"], ["h"]),
    node("LpNormalization", ["h"], ["n"]),
    node("MatMul", ["n", "down"], ["y"]),
  ], { initializers: [weight("up", [64, 128], 1), weight("down", [128, 64], 2)] });
  g.input[0]!.type!.value = {
    case: "tensorType",
    value: {
      $typeName: "onnx.TypeProto.Tensor",
      elemType: 1,
      shape: {
        $typeName: "onnx.TensorShapeProto",
        dim: [3n, 64n].map((value) => ({
          $typeName: "onnx.TensorShapeProto.Dimension",
          denotation: "",
          value: { case: "dimValue", value },
        })),
      },
    },
  };
  const path = saveModel(model(g));
  const x = fromNumbers("f32", [3, 64], Array.from({ length: 192 }, (_, i) => Math.cos(i)));
  const engine = await openNativeEngine();
  await using whole = await emulatedModel(engine, path, 1);
  const expected = new Map(Object.entries(await whole.run({ x })));
  for (const ranks of [2, 3]) {
    const { plan, report } = explainModel(path, { ranks });
    assert.deepEqual(report.undescribed, ["LpNormalization"]);
    assert.equal(plan.placements.get("n")!.kind, "R");
    assert.ok(report.layers.some((l) => l.kind !== "replicated"), "the layers around it are split all the same");
    await using parts = await emulatedModel(engine, path, ranks);
    for (const o of compareTensors(await parts.run({ x }), expected, { atol: 1e-5, rtol: 1e-5 })) {
      assert.ok(o.pass, `at ${ranks} ranks ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
    }
  }
});
