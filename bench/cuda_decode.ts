// deno-lint-ignore-file no-console
/**
 * What a GPU does for a model: tokens/s of greedy decoding, and alone what a decode is made of: matrix products, launches, all-reduces.
 * Started on every rank: `deno task launch --nproc 2 bench/cuda_decode.ts MODEL [--tokens 64] [--prompt 16] [--dtype bf16]`.
 */
import { parseArgs } from "node:util";
import { generate } from "../src/generate/generate.ts";
import { Sampler } from "../src/generate/sampler.ts";
import type { GemmStep, Matrix, Operand } from "../src/ops/kernels/kernel.ts";
import { NcclCommunicator } from "../src/runtime/comm/nccl/nccl_communicator.ts";
import { init } from "../src/runtime/comm/init.ts";
import { CudaLibraries } from "../src/ffi/cuda_libraries.ts";
import { GpuDevice } from "../src/runtime/cuda/device.ts";
import { mapLaunch } from "../src/runtime/cuda/kernel_text.ts";
import { requireHeldDType } from "../src/runtime/device_choice.ts";
import { parallelizeModel } from "../src/session.ts";

const { values, positionals: [path] } = parseArgs({
  options: {
    tokens: { type: "string", default: "64" },
    prompt: { type: "string", default: "16" },
    dtype: { type: "string" },
    size: { type: "string", default: "4096" },
  },
  allowPositionals: true,
});

await using comm = await init({ device: "cuda" });
const say = (text: string) => comm.rank === 0 && console.log(text);

if (path !== undefined) await decode(path);
{
  using device = comm instanceof NcclCommunicator
    ? new GpuDevice({ gpu: comm.process })
    : new GpuDevice({ gpu: 0, libraries: new CudaLibraries() });
  const { name, architecture, multiprocessors } = device.context.facts;
  say(`${name}, sm_${architecture}, ${multiprocessors} multiprocessors; ${comm.size} ranks`);
  await products(device, Number(values.size));
  await launches(device);
  if (comm instanceof NcclCommunicator) await allReduces(device, comm);
}

async function decode(model: string): Promise<void> {
  const dtype = values.dtype === undefined ? {} : { dtype: requireHeldDType(values.dtype) };
  await using running = await parallelizeModel(model, { comm, device: "cuda", ...dtype });
  const prompt = Array.from({ length: Number(values.prompt) }, (_, i) => i + 1), times: number[] = [];
  let last = performance.now();
  // The first text compiles kernels and makes connections.
  for (let text = 0; text < 2; text++) {
    times.length = 0;
    last = performance.now();
    const options = { sampler: new Sampler(), maxNewTokens: Number(values.tokens) };
    for await (const _ of generate(running, prompt, options)) {
      times.push(performance.now() - last);
      last = performance.now();
    }
  }
  const [first, ...rest] = times, sorted = rest.toSorted((a, b) => a - b);
  const middle = sorted[sorted.length >> 1] ?? NaN;
  say(
    `decode: first token ${first!.toFixed(2)} ms, then ${middle.toFixed(2)} ms a token (${
      (1000 / middle).toFixed(1)
    }/s)`,
  );
}

/** Milliseconds of one of `count` calls of `enqueue` in the stream. */
async function timed(device: GpuDevice, count: number, enqueue: () => void): Promise<number> {
  enqueue();
  await device.settled();
  const started = performance.now();
  for (let i = 0; i < count; i++) enqueue();
  await device.settled();
  return (performance.now() - started) / count;
}

async function products(device: GpuDevice, n: number): Promise<void> {
  for (const [dtype, m] of [["bf16", 1], ["bf16", n], ["f32", n]] as const) {
    const bytes = dtype === "f32" ? 4 : 2;
    using a = device.memory.allocate(m * n * bytes, "values of a step");
    using b = device.memory.allocate(n * n * bytes, "values of a step");
    using c = device.memory.allocate(m * n * bytes, "values of a step");
    const matrix = (index: number): Matrix => {
      const operand: Operand = { of: "scratch", index, dtype };
      return { operand, offset: 0, stride: n, batch: 0, transposed: false };
    };
    const step: GemmStep = {
      kind: "gemm",
      m,
      n,
      k: n,
      batches: 1,
      a: matrix(0),
      b: matrix(1),
      c: matrix(2),
      alpha: 1,
      beta: 0,
    };
    const ms = await timed(device, 10, device.prepareGemm(step, ({ index }) => [a, b, c][index]!.value));
    const rate = `${(2 * m * n * n / ms / 1e9).toFixed(2)} TFLOP/s, ${
      (n * n * bytes / ms / 1e6).toFixed(0)
    } GB/s of weights`;
    say(`product ${dtype} [${m},${n}] x [${n},${n}]: ${ms.toFixed(3)} ms, ${rate}`);
  }
}

async function launches(device: GpuDevice): Promise<void> {
  using y = device.memory.allocate(4, "values of a step");
  const write = { operand: { of: "output", index: 0, dtype: "f32" } as const, offset: 0, strides: [1] };
  const launch = mapLaunch({ kind: "map", shape: [1], reads: [], write, expression: "1.f" })!;
  device.kernels.load([launch.plain]);
  const ms = await timed(device, 1000, device.prepareLaunch(launch, () => y.value));
  say(`launch: ${(1000 * ms).toFixed(2)} us`);
}

async function allReduces(device: GpuDevice, ranks: NcclCommunicator): Promise<void> {
  for (const bytes of [8 * 1024, 1024 * 1024]) {
    using buffer = device.memory.allocate(bytes, "values of a step");
    device.driver.call.cuMemsetD8Async(buffer.value, 0, BigInt(bytes), device.stream.value);
    const whole = { ptr: buffer.value, dtype: "f32", count: bytes / 4, stream: device.stream.value } as const;
    ranks.device.allReduce(whole);
    await ranks.device.settled(device.stream.value);
    const started = performance.now();
    for (let i = 0; i < 20; i++) ranks.device.allReduce(whole);
    await ranks.device.settled(device.stream.value);
    say(`all-reduce of ${bytes / 1024} KiB: ${(50 * (performance.now() - started)).toFixed(1)} us`);
  }
}
