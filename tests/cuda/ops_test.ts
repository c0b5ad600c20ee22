/** Every op that runs on GPUs, on the examples of its definition, against ONNX Runtime. */
import assert from "node:assert/strict";
import { toNumbers } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { type Graph, isCall, opKey, outputOf } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { loweringOf } from "../../src/ops/kernels/table.ts";
import { OPS } from "../../src/ops/table.ts";
import { localize } from "../../src/passes/localize.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { GpuExecutor } from "../../src/runtime/cuda/executor.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { emulatedStep } from "../support/emulated.ts";
import { exampleGraph } from "../support/op_examples.ts";
import { cudaTest } from "../support/standin.ts";

/** ONNX Runtime 1.30 has no CPU kernel for it. */
const WITHOUT_REFERENCE = new Set(["Swish"]);

cudaTest("every op with a kernel gives on a GPU what ONNX Runtime gives", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const engine = await openNativeEngine();
  const cases = [...OPS.values()].flatMap((def) =>
    WITHOUT_REFERENCE.has(def.op) ? [] : def.examples.flatMap((example, index) => {
      const { graph, feeds } = exampleGraph(def, example);
      if (!loweringOf(graph.nodes.find(isCall)!)) return [];
      const values = new Map([...graph.values].map(([n, v]) => [n, { ...v, placement: REPLICATE }] as const));
      const whole: Graph<"sharded"> = { ...graph, stage: "sharded", values };
      return [{ name: `${opKey(def)} example ${index}`, local: localize(whole, 0, 1), feeds }];
    })
  );
  assert.ok(cases.length > 200, `only ${cases.length} examples have a kernel`);
  // One module for all of them: a compiler that starts once.
  device.kernels.load(
    cases.flatMap(({ local }) =>
      lowerGraph(local, { bindings: new Map(), rank: 0, ranks: 1 }).commands.flatMap((c) =>
        c.kind === "kernel" ? [c.launch.plain] : []
      )
    ),
  );
  for (const { name, local, feeds } of cases) {
    const [expected] = await emulatedStep(engine, [local], [feeds]);
    using executor = new GpuExecutor(local, { device, rank: 0, ranks: 1 });
    const results = await executor.run(Object.fromEntries(feeds));
    outputOf(local).names.forEach((output, i) => {
      const got = results.get(output)!, wanted = expected![i]!;
      assert.deepEqual([got.dtype, ...got.shape], [wanted.dtype, ...wanted.shape], name);
      const [a, b] = [toNumbers(got), toNumbers(wanted)];
      // Sums of large numbers that cancel are as exact as those numbers.
      const largest = Math.max(0, ...Array.from(b, Math.abs).filter(Number.isFinite));
      for (let k = 0; k < b.length; k++) {
        const same = Object.is(a[k], b[k]) || a[k] === b[k] ||
          Math.abs(a[k]! - b[k]!) <= 2e-5 * (1 + Math.abs(b[k]!)) + 1e-6 * largest;
        assert.ok(same, `${name}: element ${k} is ${a[k]}, not ${b[k]}`);
      }
    });
  }
});
