/** Every op that runs on GPUs, on the examples of its definition, against ONNX Runtime. */
import assert from "node:assert/strict";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { OPS } from "../../src/ops/table.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { assertGpuCases, gpuCase } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

/** ONNX Runtime 1.30 has no CPU kernel for it. */
const WITHOUT_REFERENCE = new Set(["Swish"]);

cudaTest("every op with a kernel gives on a GPU what ONNX Runtime gives", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const cases = [...OPS.values()].flatMap((def) =>
    WITHOUT_REFERENCE.has(def.op)
      ? []
      : def.examples.flatMap((example, index) => gpuCase(def, example, `example ${index}`) ?? [])
  );
  assert.ok(cases.length > 200, `only ${cases.length} examples have a kernel`);
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});
