/** An op that nobody described runs whole on every rank, between layers that are split, and the plan says so. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { readTensors, writeTensors } from "../../src/formats/tensor_file.ts";
import { explainModel } from "../../src/explain_model.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { compareTensors } from "../../cli/compare.ts";
import { shardwise } from "../support/cli.ts";
import { emulatedModel } from "../support/emulated.ts";
import { graph, model, node, saveModel, tensor } from "../support/onnx_models.ts";

function weight(name: string, dims: readonly number[], seed: number) {
  const size = dims.reduce((a, b) => a * b, 1);
  const data = Float32Array.from({ length: size }, (_, i) => Math.sin(seed + i * 1.7));
  return tensor(name, { dims: dims.map(BigInt), rawData: new Uint8Array(data.buffer) });
}

/** Says that the graph's first input is f32 of `dims`. */
function declareInput(g: ReturnType<typeof graph>, dims: readonly bigint[]): void {
  g.input[0]!.type!.value = {
    case: "tensorType",
    value: {
      $typeName: "onnx.TypeProto.Tensor",
      elemType: 1,
      shape: {
        $typeName: "onnx.TensorShapeProto",
        dim: dims.map((value) => ({
          $typeName: "onnx.TensorShapeProto.Dimension",
          denotation: "",
          value: { case: "dimValue", value },
        })),
      },
    },
  };
}

Deno.test("an op that nobody described gets whole inputs, and the plan names it", async () => {
  const g = graph([
    node("MatMul", ["x", "up"], ["h"]),
    node("LpNormalization", ["h"], ["n"]),
    node("MatMul", ["n", "down"], ["y"]),
  ], { initializers: [weight("up", [64, 128], 1), weight("down", [128, 64], 2)] });
  declareInput(g, [3n, 64n]);
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

Deno.test("what ops without a description give reaches other ranks and later parts, whatever its type", async () => {
  // Nobody says that inv is i64 and d f32: the model declares the types of its inputs and outputs only.
  const g = graph([
    node("MatMul", ["x", "up"], ["h"]),
    node("Unique", ["h"], ["u", "", "inv", ""]),
    node("Gather", ["u", "inv"], ["flat"]),
    node("Shape", ["h"], ["shape"]),
    node("Reshape", ["flat", "shape"], ["again"]),
    node("MatMul", ["again", "middle"], ["m"]),
    node("CDist", ["m", "centres"], ["d"], { domain: "com.microsoft" }),
    node("MatMul", ["d", "down"], ["y"]),
  ], {
    initializers: [
      weight("up", [64, 128], 1),
      weight("middle", [128, 64], 2),
      weight("centres", [32, 64], 3),
      weight("down", [32, 64], 4),
    ],
  });
  declareInput(g, [3n, 64n]);
  const path = saveModel(
    model(g, { opsetImport: [{ domain: "", version: 18n }, { domain: "com.microsoft", version: 1n }] }),
  );
  const given = join(dirname(path), "x.safetensors");
  const x = fromNumbers("f32", [3, 64], Array.from({ length: 192 }, (_, i) => Math.cos(i)));
  await writeTensors(given, new Map([["x", x]]));
  const runOn = async (ranks: number) => {
    const out = join(dirname(path), `y${ranks}.safetensors`);
    const { code, stderr } = await shardwise("run", path, "-n", `${ranks}`, "-i", given, "-o", out);
    assert.equal(code, 0, stderr);
    return await readTensors(out);
  };
  const expected = await runOn(1);
  for (const ranks of [2, 3]) {
    const got = Object.fromEntries(await runOn(ranks));
    for (const o of compareTensors(got, expected, { atol: 1e-4, rtol: 1e-4 })) {
      assert.ok(o.pass, `at ${ranks} ranks ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
    }
  }
});

Deno.test("an op that the engine does not have is refused once, with its name, at any number of ranks", async () => {
  const g = graph([
    node("MatMul", ["x", "up"], ["h"]),
    node("Frob", ["h"], ["n"], { domain: "my.ops" }),
    node("MatMul", ["n", "down"], ["y"]),
  ], { initializers: [weight("up", [64, 128], 1), weight("down", [128, 64], 2)] });
  declareInput(g, [3n, 64n]);
  const path = saveModel(model(g, { opsetImport: [{ domain: "", version: 18n }, { domain: "my.ops", version: 1n }] }));
  const given = join(dirname(path), "x.safetensors"), out = join(dirname(path), "y.safetensors");
  await writeTensors(given, new Map([["x", fromNumbers("f32", [3, 64], new Array(192).fill(1))]]));
  const { code, stderr } = await shardwise("run", path, "-n", "3", "-i", given, "-o", out);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /^error: .*my\.ops:Frob/m);
  assert.doesNotMatch(stderr, /External data|FAILED/);
});
