/** Products that become one call with the bias and the activation after them, on a GPU, against ONNX Runtime. */
import assert from "node:assert/strict";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { type Graph, isCall, valueOf } from "../../src/graph/graph.ts";
import { REPLICATE } from "../../src/graph/placement.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { fuseProducts } from "../../src/ops/kernels/fused_products.ts";
import { inferTypes } from "../../src/passes/infer_types.ts";
import { localize } from "../../src/passes/localize.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { lowerGraph } from "../../src/runtime/cuda/lower.ts";
import { assertGpuCases, type GpuCase } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

/** `x[lead,k] · w[k,n]`, and what is done with it. */
function graphOf(after: string, { k = 16, n = 24, lead = "2,3" } = {}): Graph<"local"> {
  const graph = inferTypes(
    parseGraph(`graph g : global {opset=20, com.microsoft=1}
%x = placeholder : f32[${lead},${k}]
%w = placeholder : f32[${k},${n}]
%b = placeholder : f32[${n}]
%p = MatMul(%x, %w) : ?[?]
${after}
`) as Graph<"global">,
  );
  const values = new Map([...graph.values].map(([name, v]) => [name, { ...v, placement: REPLICATE }] as const));
  return localize({ ...graph, stage: "sharded", values }, 0, 1);
}

const ADDED = "%s = Add(%p, %b) : ?[?]\n", GELU = `Gelu(%s) {approximate="tanh"} : ?[?]\noutput %y`;
const FORMS: Readonly<Record<string, string>> = {
  bias: "%y = Add(%b, %p) : ?[?]\noutput %y",
  relu: "%y = Relu(%p) : ?[?]\noutput %y",
  "bias and relu": `${ADDED}%y = Relu(%s) : ?[?]\noutput %y`,
  "bias and gelu": `${ADDED}%y = ${GELU}`,
  "com.microsoft's bias and gelu": "%y = com.microsoft.FastGelu(%p, %b) : ?[?]\noutput %y",
};

function caseOf(name: string, local: Graph<"local">, float?: "f16" | "bf16"): GpuCase {
  let state = 7;
  const next = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 31 - 1;
  const feeds = new Map(local.nodes.flatMap((n) => {
    if (n.kind !== "placeholder") return [];
    const shape = valueOf(local, n.outputs[0]).type.shape as number[];
    const count = shape.reduce((a, b) => a * b, 1);
    return [[n.outputs[0], fromNumbers("f32", shape, Array.from({ length: count }, next))] as const];
  }));
  return { name, local, feeds, ...(float ? { float } : {}) };
}

const epilogues = (local: Graph<"local">) =>
  lowerGraph(local, { bindings: new Map(), rank: 0, ranks: 1 }).commands.filter((c) =>
    c.kind === "gemm" && c.step.epilogue !== undefined
  ).length;

cudaTest("a product takes the bias and the activation after it along", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const cases = Object.entries(FORMS).flatMap(([name, after]) => {
    const local = graphOf(after), odd = graphOf(after, { n: 23 });
    assert.deepEqual(fuseProducts(local).nodes.filter(isCall).map((c) => c.op), ["Product"], name);
    assert.equal(epilogues(local), 1, name);
    // What cuBLASLt may have no algorithm for is a product and maps.
    assert.equal(epilogues(odd), 0, name);
    return [
      caseOf(name, local),
      caseOf(`${name} of a matrix`, graphOf(after, { lead: "5", k: 40, n: 8 })),
      caseOf(`${name} of odd sizes`, odd),
      caseOf(`${name} in f16`, local, "f16"),
      caseOf(`${name} in bf16`, local, "bf16"),
    ];
  });
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});

Deno.test("a product that others read, or whose sum is no bias, stays what it is", () => {
  const fused = (after: string) => fuseProducts(graphOf(after)).nodes.filter(isCall).map((c) => c.op);
  assert.deepEqual(fused(`${ADDED}output %s, %p`), ["MatMul", "Add"]);
  assert.deepEqual(fused("%r = Relu(%p) : ?[?]\n%s = Add(%p, %r) : ?[?]\noutput %s"), ["MatMul", "Relu", "Add"]);
  assert.deepEqual(fused("%s = Add(%p, %p) : ?[?]\noutput %s"), ["MatMul", "Add"]);
  assert.deepEqual(fused(`${ADDED}%y = Gelu(%s) : ?[?]\noutput %y`), ["Product", "Gelu"]);
  assert.deepEqual(fused(`${ADDED}%y = com.microsoft.FastGelu(%s, %b) : ?[?]\noutput %y`), ["Product", "FastGelu"]);
});
