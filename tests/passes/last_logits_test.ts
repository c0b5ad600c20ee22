/** Logits of the last position only, against the last of all. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import { type HostTensor, hostTensor } from "../../src/core/host_tensor.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { isCall, valueOf } from "../../src/graph/graph.ts";
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

/** By model: products with one position. Of GPT-2's last layer only the head, whose exporter writes sizes into the graph. */
const PRODUCTS = { llama: 5, gpt2: 1, phi3: 4, qwen3: 5, bloom: 4, "gpt-neox": 4 };

for (const [model, products] of Object.entries(PRODUCTS)) {
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
      const narrow = clean.nodes.filter((n) =>
        isCall(n) && n.op === "Linear" && valueOf(clean, n.outputs[0]!).type.shape![1] === 1
      );
      assert.equal(narrow.length, products, narrow.map((n) => n.name).join(" "));
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
