// deno-lint-ignore-file no-console -- a program reports to its test by its output
// What a GPU must do for the calls of src/ffi to be right; throws at the first difference. Runs on the stand-in and on GPUs.
import assert from "node:assert/strict";
import { Cublas, CUBLAS_ENUM as B } from "../../../src/ffi/cublas.ts";
import { CUBLAS_LT_ENUM as LT, CublasLt, HEURISTIC_RESULT } from "../../../src/ffi/cublas_lt.ts";
import { CudaError } from "../../../src/ffi/cuda_error.ts";
import { CudaEvent, CudaStream } from "../../../src/ffi/cuda_handles.ts";
import { KernelCompileError } from "../../../src/ffi/nvrtc.ts";
import { Gpu } from "./gpu.ts";
import { KERNELS } from "./kernels.cu.ts";

const gpu = new Gpu();
const module = gpu.compile(KERNELS);
const scale = module.function("sw_scale"), softmax = module.function("sw_softmax");
const random = (n: number, k: number) => Float32Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i * 1.7 + k)));

assert.ok(gpu.driver.version >= 12000);
assert.match(gpu.context.facts.uuid, /^[0-9a-f]{32}$/);
assert.ok(gpu.context.memory().free > 0);

// Kernels, their arguments, shared memory, lanes.
const x = gpu.upload(random(3 * 100, 1)), y = gpu.alloc(4 * 300);
gpu.launch(softmax, { grid: 3, block: 64, shared: 400 }, y.value, x.value, 100);
const probabilities = gpu.download(y, 300);
for (let r = 0; r < 3; r++) {
  const row = random(300, 1).subarray(100 * r, 100 * r + 100), most = Math.max(...row);
  const e = row.map((v) => Math.exp(v - most)), sum = e.reduce((a, b) => a + b, 0);
  e.forEach((v, c) => assert.ok(Math.abs(probabilities[100 * r + c]! - v / sum) < 1e-6));
}
gpu.launch(module.function("sw_lanes"), { grid: 1, block: 32 }, y.value);
const lanes = new Uint32Array(gpu.download(y, 32).buffer);
const expected = Array.from({ length: 32 }, (_, l) => {
  const first = l - l % 8, before = l % 8 > 0 ? l - 1 : l;
  return before * 10000 + first * 100 + (l < 16 ? l ^ 15 : 0);
});
assert.deepEqual([...lanes], expected);

// Streams, events, pinned memory; a captured graph does what its calls do, each time.
const other = new CudaStream(gpu.driver), done = new CudaEvent(gpu.driver), host = gpu.pinned(1200);
const step = () => {
  gpu.launch(scale, { grid: 2, block: 128 }, y.value, x.value, { f32: 2 }, 300);
  done.record(gpu.stream.value);
  other.waitFor(done);
  gpu.launch(scale, { grid: 1, block: 32, stream: other }, y.value, y.value, { f32: 3 }, 300);
  gpu.driver.call.cuMemcpyDtoHAsync_v2(host.value, y.value, 1200n, other.value);
  done.record(other.value);
  gpu.stream.waitFor(done);
};
step();
gpu.stream.synchronize();
const floats = new Float32Array(host.bytes.buffer, 0, 300), once = [...floats];
assert.deepEqual(once, [...random(300, 1)].map((v) => Math.fround(Math.fround(v * 2) * 3)));
const graph = gpu.stream.capture(step);
for (let i = 0; i < 3; i++) {
  host.bytes.fill(0);
  graph.launch(gpu.stream);
  while (!gpu.stream.done()) await new Promise((resolve) => setTimeout(resolve, 1));
  assert.deepEqual([...floats], once);
}
graph[Symbol.dispose]();
graph[Symbol.dispose]();

// C[M,N] = A[M,K] B[K,N], row-major, by two libraries; bias and GELU in the epilogue.
const [M, N, K] = [7, 24, 16], a = random(M * K, 3), b = random(K * N, 4), bias = random(N, 5);
const product = new Float64Array(M * N);
for (let i = 0; i < M; i++) {
  for (let j = 0; j < N; j++) for (let k = 0; k < K; k++) product[i * N + j]! += a[i * K + k]! * b[k * N + j]!;
}
const da = gpu.upload(a), db = gpu.upload(b), dbias = gpu.upload(bias), dc = gpu.alloc(4 * M * N);
const one = new Float32Array([1]), zero = new Float32Array([0]);
const cublas = new Cublas(gpu.libraries);
{
  using handle = cublas.create();
  handle.setStream(gpu.stream.value);
  const { CUDA_R_32F: f32, CUBLAS_COMPUTE_32F: c32 } = B;
  cublas.call.cublasGemmEx(
    handle.value,
    0,
    0,
    N,
    M,
    K,
    one,
    db.value,
    f32,
    N,
    da.value,
    f32,
    K,
    zero,
    dc.value,
    f32,
    N,
    c32,
    -1,
  );
  gpu.stream.synchronize();
  near(gpu.download(dc, M * N), product);
  // 16-bit floats in, 32-bit out, two of them at once with B transposed: halves of the same matrices.
  const half = (values: Float32Array) => new Uint16Array(new Uint32Array(values.slice().buffer).map((w) => w >>> 16));
  const ha = gpu.upload(half(a)), hb = gpu.upload(half(b)), bf16 = B.CUDA_R_16BF, k = K / 2;
  const round = (v: Float32Array, i: number) => new Float32Array(new Uint32Array([half(v)[i]! << 16]).buffer)[0]!;
  cublas.call.cublasGemmStridedBatchedEx(
    ...[handle.value, 1, 0, 3, 2, k, one, hb.value, bf16, k, BigInt(3 * k), ha.value, bf16, k, BigInt(2 * k)] as const,
    ...[zero, dc.value, f32, 3, 6n, 2, c32, -1] as const,
  );
  gpu.stream.synchronize();
  const batches = new Float64Array(12);
  for (let i = 0; i < 2; i++) {
    for (let r = 0; r < 2; r++) {
      for (let c = 0; c < 3; c++) {
        for (let q = 0; q < k; q++) {
          batches[6 * i + 3 * r + c]! += round(a, 2 * k * i + k * r + q) * round(b, 3 * k * i + k * c + q);
        }
      }
    }
  }
  near(gpu.download(dc, 12), batches);
  // One pointer too large.
  assert.throws(
    () =>
      cublas.call.cublasGemmEx(
        handle.value,
        0,
        0,
        N,
        M,
        K,
        one,
        db.value,
        f32,
        4,
        da.value,
        f32,
        K,
        zero,
        dc.value,
        f32,
        N,
        c32,
        -1,
      ),
    (e) => e instanceof CudaError && e.code === 7 && e.codeName === "CUBLAS_STATUS_INVALID_VALUE",
  );
}
{
  const lt = new CublasLt(gpu.libraries);
  using handle = lt.create();
  using desc = lt.matmulDesc(B.CUBLAS_COMPUTE_32F, B.CUDA_R_32F);
  lt.call.cublasLtMatmulDescSetAttribute(desc.value, LT.CUBLASLT_MATMUL_DESC_EPILOGUE, new Int32Array([36]), 4n);
  const pointer = new BigUint64Array([dbias.value]);
  lt.call.cublasLtMatmulDescSetAttribute(desc.value, LT.CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer, 8n);
  const layout = (rows: number, columns: number) =>
    lt.layout(B.CUDA_R_32F, BigInt(rows), BigInt(columns), BigInt(rows));
  using lb = layout(N, K);
  using la = layout(K, M);
  using lc = layout(N, M);
  using preference = lt.preference();
  const bytes = 1 << 20, workspace = gpu.alloc(bytes), most = new BigUint64Array([BigInt(bytes)]);
  lt.call.cublasLtMatmulPreferenceSetAttribute(preference.value, LT.CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most, 8n);
  const results = new Uint8Array(HEURISTIC_RESULT.bytes), found = new Int32Array(1);
  lt.call.cublasLtMatmulAlgoGetHeuristic(
    ...[handle.value, desc.value, lb.value, la.value, lc.value, lc.value, preference.value, 1, results, found] as const,
  );
  assert.equal(found[0], 1);
  lt.call.cublasLtMatmul(
    ...[handle.value, desc.value, one, db.value, lb.value, da.value, la.value, zero, dc.value, lc.value] as const,
    ...[dc.value, lc.value, results, workspace.value, BigInt(bytes), gpu.stream.value] as const,
  );
  gpu.stream.synchronize();
  near(gpu.download(dc, M * N), product.map((v, i) => gelu(v + bias[i % N]!)));
}

// What is wrong with a text, and where.
assert.throws(() => gpu.compile('extern "C" __global__ void k(float* y) { y[0] = undefined_name; }'), (e) => {
  assert.ok(e instanceof KernelCompileError);
  assert.match(e.message, /test\.cu does not compile:[^]*undefined_name/);
  assert.match(e.source, /^ +1 +extern "C"/);
  return true;
});
assert.throws(() => module.function("sw_nothing"), /cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND \(500\)/);
assert.throws(
  () => gpu.alloc(2 ** 50),
  /CUDA_ERROR_OUT_OF_MEMORY \(2\), 1073741824 MiB were asked for, \d+ MiB of \d+ MiB are free/,
);
console.log("right");

function gelu(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

/** A GPU may multiply in TF32 only when it is asked to; these are sums of up to 16 products of numbers below 1. */
function near(found: Float32Array, expected: Float64Array): void {
  expected.forEach((v, i) => assert.ok(Math.abs(found[i]! - v) < 1e-5, `element ${i} is ${found[i]}, expected ${v}`));
}
