// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Collectives of tensors on the GPU. Argument: `right` checks all verbs, eager and captured; the others are faults.
import assert from "node:assert/strict";
import { CudaStream, DeviceMemory } from "../../../src/ffi/cuda_handles.ts";
import { UnavailableError } from "../../../src/core/errors.ts";
import { CommunicatorError } from "../../../src/runtime/comm/errors.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import type { DeviceBuffer } from "../../../src/runtime/comm/nccl/device_collectives.ts";
import { NcclCommunicator } from "../../../src/runtime/comm/nccl/nccl_communicator.ts";

const comm = await init({
  backend: "nccl",
  timeoutMs: Deno.args[0] === "late" ? 600 : 60_000,
  joinTimeoutMs: 3000 + 20_000 * Number(Deno.args[0] !== "right"),
});
assert.ok(comm instanceof NcclCommunicator);
const { rank, size, device } = comm, { driver } = comm.process, stream = new CudaStream(driver);
const scratch = new DeviceMemory(driver, 16 * size);
driver.call.cuMemsetD8Async(scratch.value, 0, BigInt(16 * size), stream.value);
await device.warmUp({ ptr: scratch.value, stream: stream.value });
const n = 1000;

if (Deno.args[0] === "right") await right();
else if (Deno.args[0] === "ahead") await ahead();
else await fault();

async function right(): Promise<void> {
  const x = f32(ramp(rank)), all = f32(new Float32Array(n * size)), part = f32(new Float32Array(n));
  const sum = Float32Array.from({ length: n }, (_, i) => ranks().reduce((s, r) => Math.fround(s + ramp(r)[i]!), 0));
  device.allReduce(x);
  await device.settled(stream.value);
  near(read(x), sum);
  write(x, ramp(rank));
  device.allReduce(x, "max", part);
  device.settledSync(stream.value);
  near(read(part), ramp(size - 1));
  device.allReduce(x, "avg", part);
  await device.settled(stream.value);
  near(read(part), sum.map((v) => v / size));
  device.allReduce(x, { preMulSum: rank + 1 }, part);
  await device.settled(stream.value);
  near(read(part), Float32Array.from({ length: n }, (_, i) => ranks().reduce((s, r) => s + ramp(r)[i]! * (r + 1), 0)));
  device.allGather(x, all);
  device.broadcast(part, size - 1);
  await device.settled(stream.value);
  near(read(all), Float32Array.from(ranks().flatMap((r) => [...ramp(r)])));
  device.reduceScatter(all, part);
  device.reduce(x, 0, "sum");
  await device.settled(stream.value);
  near(read(part), ramp(rank).map((v) => v * size));
  if (rank === 0) near(read(x), sum);
  write(x, ramp(rank));
  device.group(() => {
    device.send(x, (rank + 1) % size);
    device.recv(part, (rank + size - 1) % size);
  });
  await device.settled(stream.value);
  near(read(part), ramp((rank + size - 1) % size));

  // Captured: the same sums at every replay, from what lies there then.
  const graph = stream.capture(() => {
    device.allReduce(x, "sum", part);
    device.allGather(part, all);
  });
  for (const factor of [1, 2, 3]) {
    write(x, ramp(rank).map((v) => v * factor));
    graph.launch(stream);
    await device.settled(stream.value);
    near(read(part), sum.map((v) => v * factor));
    near(read(all).subarray(n * (size - 1)), sum.map((v) => v * factor));
  }
  graph[Symbol.dispose]();

  assert.throws(() => device.allReduce(x, "bxor"), /Cannot reduce f32 by bxor/);
  assert.throws(
    () => device.allReduce({ ...x, dtype: "i32" }, "bxor"),
    /Cannot reduce by bxor on the GPU: NCCL has no/,
  );
  assert.throws(
    () => device.allReduce({ ...x, dtype: "f8e5m2" }),
    /Cannot reduce f8e5m2 on the GPU: NCCL has no such type/,
  );
  assert.throws(() => device.allReduce(x, "sum", { ...part, stream: 0n }), /two streams for one collective/);
  if (!comm.supports("f32", undefined, "recv")) {
    const instead = (error: unknown) =>
      error instanceof UnavailableError && /host arrays between hosts over NCCL/.test(error.message) &&
      /backend shm\+mpi or mpi; `device\.send`/.test(error.hint!);
    assert.throws(() => comm.recv(new Float32Array(1), "any"), instead);
    assert.throws(() => comm.send(new Float32Array(1), 0), instead);
    await assert.rejects(comm.objects.send(1, 0), instead);
  }
  await comm.close();
  await assert.rejects(async () => await comm.barrier(), /closed/);
  console.log("right");
}

/** The last rank leaves as soon as it is done, while the others' GPUs have more to do after the same sum. */
async function ahead(): Promise<void> {
  const x = f32(ramp(rank)), bytes = 64 * 2 ** 20;
  await comm.barrier();
  device.allReduce(x);
  if (rank < size - 1) {
    const more = new DeviceMemory(driver, bytes);
    for (let i = 0; i < 2; i++) driver.call.cuMemsetD8Async(more.value, i, BigInt(bytes), stream.value);
  }
  await device.settled(stream.value);
  near(read(x), ramp(0).map((v, i) => v + ramp(1)[i]!));
  await comm[Symbol.asyncDispose]();
  console.log("right");
}

async function fault(): Promise<void> {
  await comm.barrier();
  const x = f32(ramp(rank)), culprit = size - 1, start = performance.now();
  if (rank === culprit) {
    if (Deno.args[0] === "killed") Deno.kill(Deno.pid, "SIGKILL");
    await new Promise((go) => setTimeout(go, 2000)); // late
  }
  try {
    device.allReduce(x);
    await device.settled(stream.value);
    console.log(JSON.stringify({ name: "done" }));
  } catch (error) {
    if (!(error instanceof CommunicatorError)) throw error;
    const { name, message, exitCode } = error;
    const extra = { rank: (error as { rank?: number }).rank, missing: (error as { missing?: number[] }).missing };
    console.log(JSON.stringify({ name, message, ms: performance.now() - start, ...extra }));
    Deno.exit(exitCode);
  }
}

function ranks(): number[] {
  return Array.from({ length: size }, (_, r) => r);
}

function ramp(r: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: n }, (_, i) => i + r * 0.5);
}

function f32(values: Float32Array<ArrayBuffer>): DeviceBuffer {
  const memory = new DeviceMemory(driver, values.byteLength);
  const buffer = { ptr: memory.value, dtype: "f32", count: values.length, stream: stream.value } as const;
  write(buffer, values);
  return buffer;
}

function write(buffer: DeviceBuffer, values: Float32Array<ArrayBuffer>): void {
  driver.call.cuMemcpyHtoD_v2(buffer.ptr, values, BigInt(values.byteLength));
}

function read(buffer: DeviceBuffer): Float32Array {
  const values = new Float32Array(buffer.count);
  driver.call.cuMemcpyDtoH_v2(values, buffer.ptr, BigInt(values.byteLength));
  return values;
}

/** Sums of a few numbers, in any order. */
function near(found: Float32Array, expected: Float32Array): void {
  expected.forEach((v, i) =>
    assert.ok(Math.abs(found[i]! - v) <= 1e-6 * Math.abs(v), `${i}: ${found[i]}, expected ${v}`)
  );
}
