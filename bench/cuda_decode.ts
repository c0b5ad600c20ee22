// deno-lint-ignore-file no-console
/**
 * What a GPU does for a model: how long a prompt and each greedy token take, of it the host's time, and alone what they are made of: matrix
 * products, as shares of what the GPU could do at most; launches, all-reduces.
 * Started on every rank: `deno task launch --nproc 2 bench/cuda_decode.ts MODEL [--tokens 64] [--prompt 16] [--dtype bf16]`.
 */
import { parseArgs } from "node:util";
import { generate } from "../src/generate/generate.ts";
import { Sampler } from "../src/generate/sampler.ts";
import type { GemmStep, Matrix, Operand } from "../src/ops/kernels/kernel.ts";
import { NcclCommunicator } from "../src/runtime/comm/nccl/nccl_communicator.ts";
import { init } from "../src/runtime/comm/init.ts";
import { CU_ENUM } from "../src/ffi/cuda_driver.ts";
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

/** Additions and multiplications a clock and multiprocessor, by compute capability, in 16-bit floats on tensor cores: NVIDIA's white papers. */
const TENSOR_FLOPS: Readonly<Record<number, number>> = {
  70: 1024,
  75: 1024,
  80: 2048,
  86: 1024,
  89: 1024,
  90: 4096,
  100: 8192,
};

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
  const length = Number(values.prompt), prompt = Array.from({ length }, (_, i) => i + 1);
  const times: number[] = [], host: number[] = [];
  // The first text compiles kernels and makes connections.
  for (let text = 0; text < 2; text++) {
    times.length = host.length = 0;
    let last = performance.now();
    const options = { sampler: new Sampler(), maxNewTokens: Number(values.tokens) };
    for await (const _ of generate(running, prompt, options)) {
      times.push(performance.now() - last);
      last = performance.now();
      host.push(times.at(-1)! - running.timing.waiting);
    }
  }
  const ms = middle(times.slice(1)), { notRecorded } = running.timing;
  say(
    `prompt of ${length}: ${times[0]!.toFixed(2)} ms; then ${ms.toFixed(2)} ms a token (${
      (1000 / ms).toFixed(1)
    }/s), ` +
      `${(1000 * middle(host.slice(1))).toFixed(0)} us of it without the GPU` +
      (notRecorded === undefined ? "" : `; not recorded: ${notRecorded}`),
  );
}

function middle(list: readonly number[]): number {
  return list.toSorted((a, b) => a - b)[list.length >> 1] ?? NaN;
}

/** What a GPU does at most by its own account: bytes of memory a second; products of 16-bit and of 32-bit floats, operations a second. */
function peaks(
  { context }: GpuDevice,
): { readonly memory: number; readonly bf16: number | undefined; readonly f32: number } {
  const { architecture, multiprocessors } = context.facts;
  const clock = 1000 * context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_CLOCK_RATE) * multiprocessors;
  const memoryClock = 1000 * context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
  const flops = TENSOR_FLOPS[architecture], lanes = architecture === 75 || architecture === 80 ? 64 : 128;
  return {
    memory: 2 * memoryClock * context.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH) / 8, // twice a clock
    bf16: flops === undefined ? undefined : flops * clock,
    f32: 2 * lanes * clock,
  };
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

/** Bytes of which 2 are a bf16, and 4 a f32, of 0.008 to 2, and of either sign. */
function randomHalves(count: number): Uint8Array {
  const halves = Uint16Array.from(
    { length: count },
    () => 0x3c00 + Math.random() * 0x400 | (Math.random() < 0.5 ? 0x8000 : 0),
  );
  return new Uint8Array(halves.buffer);
}

async function products(device: GpuDevice, n: number): Promise<void> {
  const peak = peaks(device), random = randomHalves(n * n * 2); // of zeros, products take less power than of weights
  const percent = (part: number, whole: number | undefined) => whole ? ` (${(100 * part / whole).toFixed(0)} %)` : "";
  for (const [dtype, m] of [["bf16", 1], ["bf16", n], ["f32", n]] as const) {
    const bytes = dtype === "f32" ? 4 : 2;
    using a = device.memory.allocate(m * n * bytes, "values of a step");
    using c = device.memory.allocate(m * n * bytes, "values of a step");
    using weights = new DisposableStack();
    // So many weights that caches hold none of them until its next turn, as in a model.
    const count = Math.min(32, Math.ceil(4 * device.context.facts.l2Bytes / (n * n * bytes)) || 1);
    const calls = Array.from({ length: count }, () => {
      const b = weights.use(device.memory.allocate(n * n * bytes, "values of a step"));
      device.upload(b.value, random.subarray(0, n * n * bytes));
      const matrix = (index: number): Matrix => {
        const operand: Operand = { of: "scratch", index, dtype };
        return { operand, offset: 0, stride: n, batch: 0, transposed: false };
      };
      const [left, right, to] = [matrix(0), matrix(1), matrix(2)], sizes = { m, n, k: n, batches: 1 };
      const step: GemmStep = { kind: "gemm", ...sizes, a: left, b: right, c: to, alpha: 1, beta: 0 };
      return device.prepareGemm(step, ({ index }) => [a, b, c][index]!.value);
    });
    device.upload(a.value, random.subarray(0, m * n * bytes));
    const ms = await timed(device, Math.ceil(20 / count), () => calls.forEach((call) => call())) / count;
    const flops = 2 * m * n * n / ms * 1000, read = n * n * bytes / ms * 1000;
    say(
      `product ${dtype} [${m},${n}] x [${n},${n}]: ${ms.toFixed(4)} ms, ${(flops / 1e12).toFixed(2)} TFLOP/s` +
        `${percent(flops, peak[dtype])}, ${(read / 1e9).toFixed(0)} GB/s of weights${percent(read, peak.memory)}`,
    );
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
