/** Forms that a size decides: few rows or many, whole words or single bits, few tokens for experts or many, one query or many. */
import assert from "node:assert/strict";
import type { DType } from "../../src/core/dtype.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import type { Attributes } from "../../src/graph/graph.ts";
import { float, int, string } from "../../src/graph/attributes.ts";
import type { OpExample } from "../../src/ops/def.ts";
import { inlineData } from "../../src/graph/builder.ts";
import { OPS } from "../../src/ops/table.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { assertGpuCases, gpuCase, kernelsOf } from "../support/gpu_examples.ts";
import { cudaTest } from "../support/standin.ts";

const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });
const u8 = (...shape: number[]) => ({ dtype: "u8" as const, shape });

interface Bits {
  readonly rows: number;
  readonly n: number;
  readonly k: number;
  readonly bits: number;
  readonly block: number;
  readonly zeros?: "packed" | "floats";
  readonly bias?: true;
}

function nbits({ rows, n, k, bits, block, zeros, bias }: Bits): OpExample {
  const blocks = Math.ceil(k / block);
  return {
    inputs: [
      f32(rows, k),
      u8(n, blocks, (block * bits) / 8),
      f32(n, blocks),
      zeros === "packed" ? u8(n, Math.ceil((blocks * bits) / 8)) : zeros === "floats" ? f32(n, blocks) : undefined,
      undefined,
      ...(bias ? [f32(n)] : []),
    ],
    ranges: { 1: [0, 256], 3: [0, 256] },
    attributes: { K: int(k), N: int(n), bits: int(bits), block_size: int(block) },
  };
}

function moe(tokens: number, experts: number, k: number, more: Attributes = {}): OpExample {
  return {
    inputs: [
      f32(tokens, 16),
      f32(tokens, experts),
      f32(experts, 24, 16),
      f32(experts, 24),
      f32(experts, 16, 24),
      f32(experts, 16),
    ],
    attributes: { activation_type: string("silu"), k: int(k), normalize_routing_weights: int(1), ...more },
  };
}

/** Of 4 bits: ONNX Runtime 1.30 wants scales of another shape with 8. */
function qmoe(tokens: number, block: number): OpExample {
  return {
    inputs: [
      f32(tokens, 32),
      f32(tokens, 5),
      u8(5, 128, 16),
      f32(5, 128, 32 / block),
      f32(5, 128),
      u8(5, 32, 32),
      f32(5, 32, 64 / block),
      f32(5, 32),
    ],
    ranges: { 2: [0, 256], 5: [0, 256] },
    attributes: {
      activation_type: string("swiglu"),
      k: int(2),
      swiglu_fusion: int(1),
      activation_alpha: float(1.5),
      expert_weight_bits: int(4),
      block_size: int(block),
    },
  };
}

cudaTest("products with weights of few bits, and experts, at all forms that sizes decide", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const op = (name: string) => OPS.get(name)!, halves: DType[] = ["f16", "bf16"];
  const wide: Bits[] = [
    { rows: 1, n: 37, k: 2048, bits: 4, block: 32 },
    { rows: 1, n: 5, k: 96, bits: 4, block: 16, zeros: "packed", bias: true },
    { rows: 8, n: 6, k: 128, bits: 8, block: 64, zeros: "packed" },
    { rows: 3, n: 7, k: 64, bits: 4, block: 32, zeros: "floats" },
    { rows: 9, n: 7, k: 64, bits: 4, block: 32, zeros: "packed", bias: true },
    { rows: 33, n: 6, k: 128, bits: 8, block: 32 },
  ];
  // What ends within a block, or has 2 bits, is restored element by element.
  const narrow: Bits[] = [
    { rows: 2, n: 5, k: 72, bits: 4, block: 16, zeros: "packed" },
    { rows: 2, n: 5, k: 64, bits: 2, block: 32 },
  ];
  const cases = [
    ...[...wide, ...narrow].map((b) => gpuCase(op("com.microsoft.MatMulNBits"), nbits(b), JSON.stringify(b))!),
    ...halves.flatMap((dtype) =>
      wide.filter((b) => b.zeros !== "floats").map((b) =>
        gpuCase(op("com.microsoft.MatMulNBits"), nbits(b), JSON.stringify(b), dtype)!
      )
    ),
    ...[moe(1, 6, 2), moe(30, 6, 2), moe(3, 4, 4)].map((e, i) => gpuCase(op("com.microsoft.MoE"), e, `${i}`)!),
    ...halves.map((dtype) => gpuCase(op("com.microsoft.MoE"), moe(2, 6, 2), "few tokens", dtype)!),
    ...[qmoe(1, 16), qmoe(30, 16)].map((e, i) => gpuCase(op("com.microsoft.QMoE"), e, `${i}`)!),
  ];
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});

cudaTest("a tensor of one number is made in what the GPU holds floats in", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const def = OPS.get("ConstantOfShape")!;
  const filled: OpExample = {
    inputs: [{ dtype: "i64", shape: [2] }],
    constants: { 0: [2, 3] },
    attributes: { value: { kind: "tensor", value: inlineData("f32", [1], Float32Array.of(1.5)) } },
  };
  const cases = (["f32", "f16", "bf16"] as const).map((dtype) => gpuCase(def, filled, "of 1.5", dtype)!);
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});

interface Heads {
  readonly batch?: number;
  readonly heads: number;
  readonly kv: number;
  readonly queries: number;
  readonly keys: number;
  readonly size: number;
  readonly valueSize?: number;
  readonly causal?: true;
  readonly mask?: readonly number[];
  readonly softcap?: number;
}

function attention(
  { batch = 1, heads, kv, queries, keys, size, valueSize = size, causal, mask, softcap }: Heads,
): OpExample {
  return {
    inputs: [
      f32(batch, heads, queries, size),
      f32(batch, kv, keys, size),
      f32(batch, kv, keys, valueSize),
      ...(mask ? [f32(...mask)] : []),
    ],
    attributes: {
      ...(causal ? { is_causal: int(1) } : {}),
      ...(softcap ? { softcap: float(softcap) } : {}),
    },
  };
}

cudaTest("attention of many queries in 16-bit floats goes through keys tile by tile", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const def = OPS.get("Attention")!;
  const forms: Heads[] = [
    { heads: 2, kv: 2, queries: 5, keys: 5, size: 8 },
    { batch: 2, heads: 4, kv: 2, queries: 70, keys: 70, size: 16, causal: true },
    { heads: 1, kv: 1, queries: 17, keys: 130, size: 24, valueSize: 40, mask: [17, 130] },
    { batch: 2, heads: 3, kv: 1, queries: 9, keys: 33, size: 64, mask: [2, 1, 9, 33], softcap: 2 },
    { heads: 2, kv: 1, queries: 66, keys: 40, size: 128, valueSize: 72, causal: true },
    { heads: 2, kv: 1, queries: 20, keys: 50, size: 256, causal: true, softcap: 3 },
    { heads: 1, kv: 1, queries: 6, keys: 18, size: 136, valueSize: 192, mask: [6, 18] },
  ];
  const cases = (["f16", "bf16"] as const).flatMap((dtype) =>
    forms.map((form) => gpuCase(def, attention(form), JSON.stringify(form), dtype)!)
  );
  for (const c of cases) assert.ok(kernelsOf(c).some(({ text }) => text.includes("rows_fragment")), c.name);
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});

cudaTest("attention of many queries in 32 bits, or with odd heads, keeps no scores in memory", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const def = OPS.get("Attention")!;
  const forms: Heads[] = [
    { heads: 2, kv: 2, queries: 5, keys: 5, size: 7 },
    { batch: 2, heads: 4, kv: 2, queries: 70, keys: 70, size: 16, causal: true },
    { heads: 1, kv: 1, queries: 17, keys: 130, size: 24, valueSize: 40, mask: [17, 130] },
    { batch: 2, heads: 3, kv: 1, queries: 9, keys: 33, size: 64, mask: [2, 1, 9, 33], softcap: 2 },
    { heads: 2, kv: 1, queries: 66, keys: 40, size: 72, valueSize: 256, causal: true },
    { heads: 1, kv: 1, queries: 65, keys: 65, size: 256, valueSize: 33, causal: true },
  ];
  const cases = [
    ...forms.map((form) => gpuCase(def, attention(form), JSON.stringify(form))!),
    ...(["f16", "bf16"] as const).map((dtype) => gpuCase(def, attention(forms[0]!), "odd heads", dtype)!),
  ];
  for (const c of cases) assert.ok(kernelsOf(c).some(({ text }) => text.includes("weights[")), c.name);
  await assertGpuCases(cases, { device, engine: await openNativeEngine() });
});
