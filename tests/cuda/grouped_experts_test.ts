/** Experts of many tokens: slots that are sorted on the device, and products that find each expert's rows there. */
import assert from "node:assert/strict";
import type { DType } from "../../src/core/dtype.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { int, string } from "../../src/graph/attributes.ts";
import type { OpExample } from "../../src/ops/def.ts";
import { OPS } from "../../src/ops/table.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { assertGpuCases, gpuCase, kernelsOf } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });

interface Form {
  readonly tokens: number;
  readonly experts: number;
  readonly k: number;
  readonly width: number;
  readonly hidden: number;
}

function moe({ tokens, experts, k, width, hidden }: Form): OpExample {
  return {
    inputs: [
      f32(tokens, width),
      f32(tokens, experts),
      f32(experts, hidden, width),
      f32(experts, hidden),
      f32(experts, width, hidden),
      f32(experts, width),
    ],
    attributes: { activation_type: string("silu"), k: int(k), normalize_routing_weights: int(1) },
  };
}

cudaTest("many tokens are sorted by expert where few of the experts are chosen", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const forms: Form[] = [
    // More tokens than a block sorts at once, more rows than a tile, and experts that nobody chooses.
    { tokens: 300, experts: 4, k: 1, width: 8, hidden: 16 },
    { tokens: 9, experts: 12, k: 2, width: 72, hidden: 40 },
  ];
  const dtypes: (DType | undefined)[] = [undefined, "f16", "bf16"];
  const cases = forms.flatMap((form) =>
    dtypes.map((dtype) => gpuCase(OPS.get("com.microsoft.MoE")!, moe(form), JSON.stringify(form), dtype)!)
  );
  for (const c of cases) assert.ok(kernelsOf(c).some(({ text }) => text.includes("slot_of")), c.name);
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});
