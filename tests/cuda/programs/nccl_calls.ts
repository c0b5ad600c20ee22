// deno-lint-ignore-file no-console -- a program reports to its test by its output
// NCCL's own calls by one rank alone: those that the engine does not need, and mistakes. Prints what each was answered.
import assert from "node:assert/strict";
import { CudaError } from "../../../src/ffi/cuda_error.ts";
import { Nccl, NCCL_ENUM as N, ncclConfig, UNIQUE_ID_BYTES } from "../../../src/ffi/nccl.ts";
import { Gpu } from "./gpu.ts";

const gpu = new Gpu(), nccl = new Nccl(gpu.libraries), { call } = nccl, stream = gpu.stream.value;
const id = nccl.uniqueId();
assert.equal(id.length, UNIQUE_ID_BYTES);
assert.throws(() => nccl.beginInit(id.slice(1), { rank: 0, size: 1 }), /Cannot use 127 bytes as a ncclUniqueId/);
const comm = nccl.beginInit(id, { rank: 0, size: 1 });
await ready(comm);
const number = new Int32Array(1), x = gpu.upload(Float32Array.of(1, 2, 3, 4)), y = gpu.alloc(16);
call.ncclCommCount(comm, number);
assert.equal(number[0], 1);

// A factor of one's own, and a group made of a group, with and without this rank.
call.ncclRedOpCreatePreMulSum(number, Float32Array.of(2.5), N.ncclFloat32, 1, comm);
call.ncclAllReduce(x.value, y.value, 4n, N.ncclFloat32, number[0]!, comm, stream);
await ready(comm);
assert.deepEqual([...gpu.download(y, 4)], [2.5, 5, 7.5, 10]);
call.ncclRedOpDestroy(number[0]!, comm);
const made = new BigUint64Array(1), config = ncclConfig({ blocking: false });
call.ncclCommSplit(comm, 0, 0, made, config);
await ready(comm);
const child = made[0]!;
assert.notEqual(child, 0n);
await ready(child);
call.ncclBroadcast(x.value, y.value, 4n, N.ncclFloat32, 0, child, stream);
await ready(child);
assert.deepEqual([...gpu.download(y, 4)], [1, 2, 3, 4]);
call.ncclCommSplit(comm, -1, 0, made, config);
await ready(comm);
assert.equal(made[0], 0n);

const freed = gpu.alloc(64), gone = freed.value;
freed[Symbol.dispose]();
const reduce = (at: bigint, count: bigint, o: { type?: number; comm?: bigint; root?: number } = {}) =>
  call.ncclReduce(at, at, count, o.type ?? N.ncclFloat32, N.ncclSum, o.root ?? 0, o.comm ?? comm, stream);
const answers: Record<string, number | string> = {};
const mistake = (name: string, run: () => void) => {
  try {
    run();
    answers[name] = "none";
  } catch (error) {
    if (!(error instanceof CudaError)) throw error;
    answers[name] = error.code;
    assert.match(error.message, /^nccl\w+ failed: [\w ]+/);
  }
};
mistake("more elements than the allocation has", () => reduce(y.value, 5n));
mistake("memory that was freed", () => reduce(gone, 4n));
mistake("elements that are not aligned", () => reduce(y.value + 2n, 2n));
mistake("a root that is none", () => reduce(y.value, 1n, { root: 1 }));
mistake("a type that is none", () => reduce(y.value, 1n, { type: 99 }));
mistake(
  "an operation that was destroyed",
  () => call.ncclAllReduce(y.value, y.value, 1n, N.ncclFloat32, 5, comm, stream),
);
mistake("an id that NCCL has not made", () => void nccl.beginInit(new Uint8Array(128), { rank: 0, size: 1 }));
mistake("a rank outside", () => void nccl.beginInit(nccl.uniqueId(), { rank: 1, size: 1 }));
mistake("the end of a group that was not begun", () => call.ncclGroupEnd());
call.ncclCommFinalize(child);
await ready(child);
call.ncclCommDestroy(child);
mistake("a communicator that was destroyed", () => reduce(y.value, 1n, { comm: child }));
gpu.driver.call.cuCtxSetCurrent(0n);
mistake("no current context", () => reduce(y.value, 1n));
gpu.context.makeCurrent();
call.ncclCommAbort(comm);
console.log(JSON.stringify(answers));
Deno.exit(0);

async function ready(handle: bigint): Promise<void> {
  for (;;) {
    const state = nccl.asyncError(handle);
    if (state === N.ncclSuccess) return;
    assert.equal(state, N.ncclInProgress);
    await new Promise((go) => setTimeout(go, 1));
  }
}
