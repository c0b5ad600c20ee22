/** Reductions of rows with what is computed element by element before and after them: one kernel, and the same results. */
import assert from "node:assert/strict";
import type { DType } from "../../src/core/dtype.ts";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import type { Graph } from "../../src/graph/graph.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { assertGpuCases, kernelsOf } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

/** Lines of a graph, and how many kernels it takes. */
const GRAPHS: Readonly<Record<string, { readonly text: string; readonly kernels: number }>> = {
  "a residual sum, which others read too, its norm, and a cast": {
    kernels: 3,
    text: `%x = placeholder : f32[2,3,8]
%r = placeholder : f32[2,3,8]
%b = placeholder : f32[8]
%w = placeholder : f32[8]
%o = Add(%x, %b) : f32[2,3,8]
%s = Add(%o, %r) : f32[2,3,8]
%n = LayerNormalization(%s, %w, %b) {axis=-1, epsilon=0.01} : f32[2,3,8]
%h = Cast(%n) {to=10} : f16[2,3,8]
%t = Transpose(%h) {perm=[0,2,1]} : f16[2,8,3]
%e = Exp(%s) : f32[2,3,8]
output %t, %e, %s`,
  },
  "scores with a mask of fewer dims, scaled before and after their softmax": {
    kernels: 1,
    text: `%x = placeholder : f32[2,3,8]
%r = placeholder : f32[2,3,8]
%b = placeholder : f32[8]
%w = placeholder : f32[8]
%c = Mul(%x, %w) : f32[2,3,8]
%m = Add(%c, %b) : f32[2,3,8]
%p = Softmax(%m) {axis=-1} : f32[2,3,8]
%q = Mul(%p, %r) : f32[2,3,8]
%y = Add(%q, %m) : f32[2,3,8]
output %y`,
  },
  "two norms, of which each is a kernel": {
    kernels: 2,
    text: `%x = placeholder : f32[2,3,8]
%r = placeholder : f32[2,3,8]
%b = placeholder : f32[8]
%w = placeholder : f32[8]
%n = LayerNormalization(%x, %w, %b) {axis=-1} : f32[2,3,8]
%s = Add(%n, %r) : f32[2,3,8]
%y = LayerNormalization(%s, %w) {axis=-1} : f32[2,3,8]
output %y, %s`,
  },
  "a softmax of another dim stays by itself": {
    kernels: 3,
    text: `%x = placeholder : f32[2,3,8]
%r = placeholder : f32[2,3,8]
%b = placeholder : f32[8]
%w = placeholder : f32[8]
%m = Add(%x, %r) : f32[2,3,8]
%p = Softmax(%m) {axis=1} : f32[2,3,8]
%v = Mul(%p, %b) : f32[2,3,8]
%y = Add(%v, %w) : f32[2,3,8]
output %y`,
  },
  "what another op reads before the norm is made before": {
    kernels: 4,
    text: `%x = placeholder : f32[2,3,8]
%r = placeholder : f32[2,3,8]
%b = placeholder : f32[8]
%w = placeholder : f32[8]
%s = Add(%x, %r) : f32[2,3,8]
%t = Transpose(%s) {perm=[2,1,0]} : f32[8,3,2]
%u = Transpose(%t) {perm=[2,1,0]} : f32[2,3,8]
%n = LayerNormalization(%s, %w, %b) {axis=-1} : f32[2,3,8]
%y = Sub(%n, %u) : f32[2,3,8]
output %y`,
  },
};

cudaTest("norms and softmax take along what is elementwise before and after them", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const number = (i: number, from: number) => Math.sin(1.3 * i + from);
  const tensor = (shape: readonly number[], from: number) =>
    fromNumbers("f32", shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => number(i, from)));
  const feeds = new Map([
    ["x", tensor([2, 3, 8], 0)],
    ["r", tensor([2, 3, 8], 1)],
    ["b", tensor([8], 2)],
    ["w", tensor([8], 3)],
  ]);
  const cases = Object.entries(GRAPHS).flatMap(([name, { text, kernels }]) => {
    const local = parseGraph(`graph g : local {opset=20}\n${text}\n`, { stage: "local" }) as Graph<"local">;
    const own = local.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
    const given = new Map([...feeds].filter(([input]) => own.includes(input)));
    assert.equal(kernelsOf({ name, local, feeds: given }).length, kernels, name);
    const held = name.includes("cast") ? [] : [{ float: "bf16" as DType }];
    return [{}, ...held].map((float) => ({ name, local, feeds: given, ...float }));
  });
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});
