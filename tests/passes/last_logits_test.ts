/** Logits of the last position only, against the last of all. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import { type HostTensor, hostTensor } from "../../src/core/host_tensor.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { isCall } from "../../src/graph/graph.ts";
import { type Config, ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { REPOSITORY } from "../support/shared.ts";

const MODELS = join(REPOSITORY, "tests/data/models");

function lastOf({ shape, data }: HostTensor): HostTensor {
  const [rows = 0, positions = 0, width = 0] = shape, out = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    const end = (row + 1) * positions * width;
    out.set((data as Float32Array).subarray(end - width, end), row * width);
  }
  return hostTensor("f32", [rows, 1, width], out);
}

for (const model of ["llama", "gpt2", "phi3", "qwen3", "bloom", "gpt-neox"]) {
  Deno.test(`${model} gives the logits of the last position, and nothing else differs`, async () => {
    const engine = await openNativeEngine();
    using file = readOnnx(join(MODELS, model, "model.onnx"));
    const inputs = Object.fromEntries(await readTensors(join(MODELS, model, "prefill.inputs.safetensors")));
    const open = (config: Config, ranks: number) => {
      const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
      const clean = cleanPipeline().run(importOnnx(file), ctx);
      return { clean, model: EmulatedModel.open(engine, shardPipeline().run(clean, ctx), ranks) };
    };
    await using all = await open({}, 1).model;
    const whole = await all.run(inputs);
    assert.ok(whole.logits!.shape[1]! > 1, "a prompt of one token would prove nothing");
    const expected = new Map([...Object.entries(whole), ["logits", lastOf(whole.logits!)] as const]);
    for (const ranks of [1, 2, 3]) {
      const { clean, model } = open({ logits: "last" }, ranks);
      assert.equal(clean.nodes.filter((n) => isCall(n) && n.inputs[1] === "last_position").length, 1);
      await using last = await model;
      for (const o of compareTensors(await last.run(inputs), expected, { atol: 1e-5, rtol: 1e-4 })) {
        assert.ok(o.pass, `${ranks} ranks: ${o.name} ${o.problem ?? `off by ${o.maxAbs}`}`);
      }
    }
  });
}

Deno.test("a model without logits stays as it is", () => {
  using file = readOnnx(join(MODELS, "mlp", "model.onnx"));
  const run = (config: Config) => {
    const ctx = new ParallelExecutionCtx({ ranks: 2, rank: 0, config });
    return cleanPipeline().run(importOnnx(file), ctx).nodes.map((n) => n.name);
  };
  assert.deepEqual(run({ logits: "last" }), run({}));
});
