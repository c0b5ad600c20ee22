/** The lowest number of 32 bits, by which exporters hide positions, on GPUs that hold floats in 16. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fromNumbers, toNumbers } from "../../src/core/host_tensor.ts";
import { exportOnnx } from "../../src/formats/export_onnx.ts";
import { readTensors, writeTensors } from "../../src/formats/tensor_file.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import type { Attributes } from "../../src/graph/graph.ts";
import { shardwiseIn } from "../support/cli.ts";
import { cudaTest } from "../support/standin.ts";

const LOWEST = Float32Array.of(-3.4028234663852886e38);

/** A mask as BART's: everything hidden, times 0 where it is to be seen; once filled, once a constant. */
function masks(): Uint8Array<ArrayBuffer> {
  const b = new GraphBuilder("global", "masks", new Map([["", 17]]));
  b.placeholder({ name: "scores", type: { dtype: "f32", shape: [1, 3] } });
  b.placeholder({ name: "hidden", type: { dtype: "f32", shape: [1, 3] } });
  b.getAttr("w", inlineData("f32", [1, 3], Float32Array.of(1, 1, 1)));
  b.getAttr("lowest", inlineData("f32", [1], LOWEST));
  b.getAttr("shape", inlineData("i64", [2], BigInt64Array.of(1n, 3n)));
  const call = (op: string, inputs: string[], output: string, attributes: Attributes = {}) =>
    b.call({ kind: "call_function", domain: "", op, inputs, outputs: [output], attributes }, [
      { name: output, type: { dtype: "f32", shape: [1, 3] } },
    ]);
  call("ConstantOfShape", ["shape"], "filled", { value: { kind: "tensor", value: inlineData("f32", [1], LOWEST) } });
  call("Mul", ["scores", "w"], "weighted");
  for (const lowest of ["filled", "lowest"]) {
    call("Mul", [lowest, "hidden"], `${lowest}.mask`);
    call("Add", ["weighted", `${lowest}.mask`], `${lowest}.scores`);
    call("Softmax", [`${lowest}.scores`], `${lowest}.y`);
  }
  return exportOnnx(b.finish({ inputs: ["filled.y", "lowest.y"], names: ["filled", "constant"] }));
}

cudaTest("a mask that is made by multiplication hides, and spoils nothing, in 16 bits", async (env) => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-lowest-" });
  try {
    const [model, inputs, outputs] = ["masks.onnx", "in.safetensors", "out.safetensors"].map((n) => join(folder, n));
    Deno.writeFileSync(model!, masks());
    const floats = (values: number[]) => fromNumbers("f32", [1, 3], values);
    await writeTensors(inputs!, new Map([["scores", floats([1, 1, 8])], ["hidden", floats([0, 0, 1])]]));
    for (const dtype of ["bf16", "fp16"]) {
      const paths = ["--inputs", inputs!, "--outputs", outputs!];
      const { code, stderr } = await shardwiseIn(env, "run", model!, ...paths, "--device", "cuda", "--dtype", dtype);
      assert.equal(code, 0, stderr);
      const found = await readTensors(outputs!);
      for (const name of ["filled", "constant"]) {
        assert.deepEqual(Array.from(toNumbers(found.get(name)!)), [0.5, 0.5, 0], `${name} in ${dtype}`);
      }
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
