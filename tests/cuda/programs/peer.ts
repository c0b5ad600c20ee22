// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// All-reduces over peer memory. Arguments: what to do; for `right`: dtypes, reductions, 1 of how many sizes, and up to how many bytes.
import assert from "node:assert/strict";
import type { DType } from "../../../src/core/dtype.ts";
import { bf16ArrayToF32, f32ArrayToBf16 } from "../../../src/core/half.ts";
import type { Reduction } from "../../../src/graph/placement.ts";
import { CommunicatorError } from "../../../src/runtime/comm/errors.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import { NcclCommunicator } from "../../../src/runtime/comm/nccl/nccl_communicator.ts";
import { GpuDevice } from "../../../src/runtime/cuda/device.ts";
import { PeerReduce, type Reduce } from "../../../src/runtime/cuda/peer_reduce.ts";
import { largestMessage, type Shots } from "../../../src/runtime/cuda/peer_text.ts";

const [what, ...rest] = Deno.args as [string, ...string[]];
const comm = await init({
  backend: "nccl",
  timeoutMs: { late: 600, unwatched: 600, refused: 8000 }[what] ?? 60_000,
  joinTimeoutMs: 60_000,
});
assert.ok(comm instanceof NcclCommunicator);
const { rank, size } = comm, device = new GpuDevice({ gpu: comm.process });

if (what === "refused") {
  const found = PeerReduce.open(comm, device);
  console.log("refused" in found ? found.refused : "open");
  await comm.barrier();
  Deno.exit(0);
}

const opened = PeerReduce.open(comm, device);
if ("refused" in opened) throw new Error(opened.refused);
const peer = opened;

const ELEMENT: Partial<Record<DType, number>> = { f64: 8, i64: 8, u64: 8, f32: 4, i32: 4, u32: 4, f16: 2, bf16: 2 };
const bytesOf = (dtype: DType) => ELEMENT[dtype] ?? (dtype === "i16" || dtype === "u16" ? 2 : 1);

/** Values of a rank, as the dtype holds them. */
function values(dtype: DType, count: number, of: number, turn: number): number[] {
  let state = 17 * count + 31 * of + 101 * turn + 1;
  const next = () => (state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31;
  return decode(
    dtype,
    encode(
      dtype,
      Array.from(
        { length: count },
        () =>
          (dtype[0] === "f" || dtype === "bf16")
            ? next() - 0.5
            : Math.floor(next() * 200) - (dtype[0] === "u" ? 0 : 100),
      ),
    ),
  );
}

const ARRAYS = {
  f64: Float64Array,
  f32: Float32Array,
  f16: Float16Array,
  i32: Int32Array,
  u32: Uint32Array,
  i16: Int16Array,
  u16: Uint16Array,
  i8: Int8Array,
  u8: Uint8Array,
} as const;

function encode(dtype: DType, list: readonly number[]): Uint8Array<ArrayBuffer> {
  if (dtype === "bf16") {
    const out = new Uint16Array(list.length);
    f32ArrayToBf16(Float32Array.from(list), out);
    return new Uint8Array(out.buffer);
  }
  if (dtype === "i64") return new Uint8Array(BigInt64Array.from(list, BigInt).buffer);
  if (dtype === "u64") return new Uint8Array(BigUint64Array.from(list, BigInt).buffer);
  return new Uint8Array(ARRAYS[dtype as keyof typeof ARRAYS].from(list).buffer);
}

function decode(dtype: DType, bytes: Uint8Array<ArrayBuffer>): number[] {
  if (dtype === "bf16") {
    const out = new Float32Array(bytes.length / 2);
    bf16ArrayToF32(new Uint16Array(bytes.buffer), out);
    return [...out];
  }
  if (dtype === "i64") return Array.from(new BigInt64Array(bytes.buffer), Number);
  if (dtype === "u64") return Array.from(new BigUint64Array(bytes.buffer), Number);
  return [...new ARRAYS[dtype as keyof typeof ARRAYS](bytes.buffer)];
}

/** What every rank must hold, bit for bit: in the order of ranks, 16-bit floats in 32 bits and rounded once. */
function expected(dtype: DType, reduction: Reduction, count: number, turn: number): Uint8Array {
  const all = Array.from({ length: size }, (_, r) => values(dtype, count, r, turn));
  const narrow = dtype === "f32" || dtype === "f16" || dtype === "bf16" ? Math.fround : (x: number) => x;
  const pair = { sum: (a: number, b: number) => narrow(a + b), max: Math.max, min: Math.min }[reduction];
  return encode(dtype, all[0]!.map((first, i) => all.slice(1).reduce((sum, list) => pair(sum, list[i]!), first)));
}

const large = Math.max(largestMessage("one-shot", size), largestMessage("two-shot", size));
// Room for shifts, so that units need not be aligned.
const x = device.memory.allocate(large + 64, "values of a step"),
  y = device.memory.allocate(large + 64, "values of a step");

interface Case {
  readonly shots: Shots;
  readonly dtype: DType;
  readonly reduction: Reduction;
  readonly count: number;
  /** Elements before the first, in and out. */
  readonly shift?: readonly [number, number];
  readonly inPlace?: boolean;
}

function prepared({ shots, dtype, reduction, count, shift = [0, 0], inPlace = false }: Case) {
  const each = BigInt(bytesOf(dtype));
  const from = { of: "input", index: 0, dtype } as const, to = { of: "output", index: 0, dtype } as const;
  const reduce: Reduce = { kind: "reduce", from, to: [to], count, reduction };
  assert.ok(peer.takes(shots, reduce), `${shots} of ${count} ${dtype}`);
  const input = x.value + each * BigInt(shift[0]), output = inPlace ? input : y.value + each * BigInt(shift[1]);
  return { input, output, enqueue: peer.prepare(shots, reduce, (o) => (o.of === "input" ? input : output)) };
}

async function check(c: Case, turn: number): Promise<void> {
  const { input, output, enqueue } = prepared(c), bytes = c.count * bytesOf(c.dtype);
  device.clear(y.value, large);
  device.upload(input, encode(c.dtype, values(c.dtype, c.count, rank, turn)));
  enqueue();
  await settled();
  const found = new Uint8Array(bytes);
  device.download(output, found);
  assert.deepEqual(found, expected(c.dtype, c.reduction, c.count, turn), JSON.stringify(c));
}

async function settled(): Promise<void> {
  await (comm as NcclCommunicator).device.settled(device.stream.value);
  await device.settled();
}

if (what === "right") await right(rest);
else if (what === "replay") await replay();
else await fault();

async function right([dtypes, reductions, sparse, bytes]: string[]): Promise<void> {
  let cases = 0, turn = 0;
  for (const dtype of dtypes!.split(",") as DType[]) {
    for (const reduction of reductions!.split(",") as Reduction[]) {
      for (const shots of ["one-shot", "two-shot"] as const) {
        const most = Math.min(largestMessage(shots, size), Number(bytes)) / bytesOf(dtype), unit = 16 / bytesOf(dtype);
        // Less than a unit, a block, several blocks, all blocks; whole and not.
        const sizes = [1, unit - 1, unit, unit + 1, 7, 100, 1023, 256 * unit, 256 * unit + 1, 5000, most - 1, most];
        for (const [i, count] of [...new Set(sizes)].filter((n) => n > 0 && n <= most).entries()) {
          if (i % Number(sparse) !== turn % Number(sparse)) continue;
          await check({ shots, dtype, reduction, count }, turn++);
          cases++;
        }
        await check({ shots, dtype, reduction, count: 37, shift: [1, 0] }, turn++);
        await check({ shots, dtype, reduction, count: 1037, shift: [0, 3] }, turn++);
        await check({ shots, dtype, reduction, count: 333, inPlace: true }, turn++);
        cases += 3;
      }
    }
  }
  peer[Symbol.dispose]();
  device[Symbol.dispose]();
  await comm.close();
  console.log(JSON.stringify({ cases }));
}

/** Reductions of both kinds and sizes that need different numbers of blocks, with NCCL between them, recorded and launched again and again. */
async function replay(): Promise<void> {
  assert.ok(comm instanceof NcclCommunicator);
  const dtype = "f32", reduction = "sum", counts = [3, 6000, 40, 2048];
  const cases = counts.map((count, i) =>
    prepared({ shots: i % 2 === 0 ? "one-shot" : "two-shot", dtype, reduction, count, inPlace: true })
  );
  const one = { ptr: y.value, dtype: "f32", count: 10, stream: device.stream.value } as const;
  const all = () => {
    for (const { enqueue } of cases) {
      enqueue();
      (comm as NcclCommunicator).device.allReduce(one, "max");
    }
  };
  device.clear(x.value, large);
  device.clear(y.value, large);
  all();
  await settled();
  const graph = device.stream.capture(all);
  for (let turn = 0; turn < 100; turn++) {
    const mine = values("f32", 6000, rank, turn).map((v) => Math.round(8 * v));
    device.upload(x.value, encode("f32", mine));
    device.upload(y.value, encode("f32", Array(10).fill(rank + turn)));
    graph.launch(device.stream);
    await settled();
    // Small integers: sums of sums are exact.
    const lists = Array.from({ length: size }, (_, r) => values("f32", 6000, r, turn).map((v) => Math.round(8 * v)));
    let wanted = lists[0]!.map((_, i) => lists.map((l) => l[i]!));
    for (const count of counts) {
      wanted = wanted.map((list, i) => i < count ? list.map(() => list.reduce((a, b) => a + b)) : list);
    }
    const found = new Uint8Array(4 * 6000);
    device.download(x.value, found);
    assert.deepEqual([...new Float32Array(found.buffer)], wanted.map((list) => list[rank]!), `turn ${turn}`);
    device.download(y.value, found.subarray(0, 40));
    assert.deepEqual(decode("f32", found.slice(0, 40)), Array(10).fill(size - 1 + turn));
  }
  graph[Symbol.dispose]();
  peer[Symbol.dispose]();
  device[Symbol.dispose]();
  await comm.close();
  console.log("right");
}

async function fault(): Promise<void> {
  const c = prepared({ shots: "one-shot", dtype: "f32", reduction: "sum", count: 1000 });
  device.clear(x.value, large);
  for (let i = 0; i < 3; i++) c.enqueue();
  await settled();
  const graph = device.stream.capture(c.enqueue);
  await comm.barrier();
  const start = performance.now();
  if (rank === size - 1) {
    if (what === "killed") Deno.kill(Deno.pid, "SIGKILL");
    await new Promise((go) => setTimeout(go, what === "late" ? 2000 : 4000));
  }
  try {
    graph.launch(device.stream);
    graph.launch(device.stream);
    // As a host that hangs: kernels alone watch the clock.
    while (what === "unwatched" && !device.stream.done()) await new Promise((go) => setTimeout(go, 10));
    await settled();
    console.log(JSON.stringify({ name: "done" }));
  } catch (error) {
    if (!(error instanceof CommunicatorError)) throw error;
    const { name, message, exitCode } = error, ms = performance.now() - start;
    const extra = { rank: (error as { rank?: number }).rank, missing: (error as { missing?: number[] }).missing };
    // Kernels have been told to end: the GPU is free again, in time.
    for (const until = performance.now() + 5000; !device.stream.done() && performance.now() < until;) {
      await new Promise((go) => setTimeout(go, 5));
    }
    console.log(JSON.stringify({ name, message, ms, ended: device.stream.done(), ...extra }));
    Deno.exit(exitCode);
  }
}
