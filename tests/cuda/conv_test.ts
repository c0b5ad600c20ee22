/** Convolutions by a product and window by window, as sizes decide. */
import assert from "node:assert/strict";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { int, ints } from "../../src/graph/attributes.ts";
import type { Attributes } from "../../src/graph/graph.ts";
import { OPS } from "../../src/ops/table.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { assertGpuCases, gpuCase } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });

interface Form {
  readonly x: readonly number[];
  readonly w: readonly number[];
  readonly bias?: true;
  readonly attributes?: Attributes;
  /** Products that it takes; none where each window is a thread's. */
  readonly products: number;
}

const FORMS: readonly Form[] = [
  { x: [2, 3, 7, 6], w: [5, 3, 3, 2], bias: true, products: 1 },
  { x: [1, 4, 9], w: [6, 2, 4], attributes: { group: int(2) }, products: 0 },
  { x: [1, 4, 9], w: [8, 2, 5], bias: true, attributes: { group: int(2), pads: ints([3, 1]) }, products: 1 },
  { x: [2, 8, 4, 5], w: [4, 8, 1, 1], products: 1 },
  { x: [2, 8, 4, 5], w: [4, 8, 1, 1], attributes: { strides: ints([2, 2]) }, products: 1 },
  {
    x: [2, 6, 5, 5],
    w: [6, 1, 3, 3],
    bias: true,
    attributes: { group: int(6), pads: ints([1, 1, 1, 1]) },
    products: 0,
  },
  { x: [1, 2, 4, 5, 6], w: [4, 2, 2, 3, 2], attributes: { dilations: ints([2, 1, 3]) }, products: 1 },
];

cudaTest("a convolution is a product of filters and windows, or goes through windows one by one", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const cases = FORMS.flatMap(({ x, w, bias, attributes = {}, products }, i) => {
    const inputs = [f32(...x), f32(...w), ...(bias ? [f32(w[0]!)] : [])];
    const made = [undefined, "f16" as const].map((dtype) =>
      gpuCase(OPS.get("Conv")!, { inputs, attributes }, `${i}`, dtype)!
    );
    const { commands } = lowerGraph(made[0]!.local, { bindings: new Map(), rank: 0, ranks: 1 });
    assert.equal(commands.filter((c) => c.kind === "gemm").length, products, `${i}`);
    return made;
  });
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});
