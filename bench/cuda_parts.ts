// deno-lint-ignore-file no-console
/**
 * What a step of a model on a GPU is made of, each alone: matrix products, as shares of what the GPU could do at most; launches; all-reduces.
 * Whole models: `shardwise bench MODEL --device cuda`.
 * Started on every rank: `deno task launch --nproc 2 bench/cuda_parts.ts [--size 4096]`.
 */
import { parseArgs } from "node:util";
import type { GemmStep, Matrix, Operand } from "../src/ops/kernels/kernel.ts";
import { NcclCommunicator } from "../src/runtime/comm/nccl/nccl_communicator.ts";
import { init } from "../src/runtime/comm/init.ts";
import { CudaLibraries } from "../src/ffi/cuda_libraries.ts";
import { GpuDevice } from "../src/runtime/cuda/device.ts";
import { PeerReduce } from "../src/runtime/cuda/peer_reduce.ts";
import { measureReduces } from "../src/runtime/cuda/reduce_choice.ts";
import { mapLaunch } from "../src/runtime/cuda/kernel_text.ts";
import { gpuPeaks } from "../src/runtime/cuda/peaks.ts";

const { values } = parseArgs({ options: { size: { type: "string", default: "4096" } } });

await using comm = await init({ device: "cuda" });
const say = (text: string) => comm.rank === 0 && console.log(text);

{
  using device = comm instanceof NcclCommunicator
    ? new GpuDevice({ gpu: comm.process })
    : new GpuDevice({ gpu: 0, libraries: new CudaLibraries() });
  const { name, architecture, multiprocessors } = device.context.facts;
  say(`${name}, sm_${architecture}, ${multiprocessors} multiprocessors; ${comm.size} ranks`);
  await products(device, Number(values.size));
  await launches(device);
  if (comm instanceof NcclCommunicator) allReduces(device, comm);
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
  const peak = gpuPeaks(device.context), random = randomHalves(n * n * 2); // of zeros, products take less power than of weights
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
        `${percent(flops, peak.flopsPerSecond[dtype])}, ${(read / 1e9).toFixed(0)} GB/s of weights${
          percent(read, peak.bytesPerSecond)
        }`,
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

/** By NCCL, and over peer memory where GPUs reach each other's. */
function allReduces(device: GpuDevice, ranks: NcclCommunicator): void {
  const peer = PeerReduce.open(ranks, device), refused = "refused" in peer;
  if (refused) say(`all-reduce over peer memory: ${peer.refused}`);
  for (const { bytes, ...us } of measureReduces(ranks, device, refused ? undefined : peer)) {
    const parts = Object.entries(us).map(([means, time]) => time === undefined ? "" : `${means} ${time.toFixed(1)} us`);
    say(`all-reduce of ${bytes / 1024} KiB of f16: ${parts.filter(Boolean).join(", ")}`);
  }
  if (!refused) peer[Symbol.dispose]();
}
