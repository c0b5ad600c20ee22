// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// What a caller can do with a work: ask, wait for a while, give up waiting, take it back, cancel.
import assert from "node:assert/strict";
import { CollectiveAborted, CollectiveTimeout, CommunicatorError } from "../../../src/runtime/comm/errors.ts";
import { init } from "../../../src/runtime/comm/init.ts";

const comm = await init({ timeoutMs: 20_000 });
const { rank, size } = comm, other = size - 1 - rank;
let unhandled = 0;
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof assert.AssertionError) return; // of this program
  event.preventDefault();
  unhandled++;
});
const timedOut = (error: unknown) => error instanceof DOMException && error.name === "TimeoutError";
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

// Asking moves it on, without any waiting.
const x = Float32Array.of(rank, 1);
const asked = comm.allReduce(x);
while (!asked.test());
assert.equal(asked.state, "done");
assert.deepEqual([...x], [size * (size - 1) / 2, size]);
// Waiting for a while: the work goes on afterwards, and can be waited for again; blocking or not, and by a signal.
if (rank === 0) {
  const y = Float32Array.of(1), work = comm.allReduce(y);
  await assert.rejects(work.wait({ timeoutMs: 30 }), timedOut);
  assert.throws(() => work.waitSync({ timeoutMs: 30 }), timedOut);
  const stop = new AbortController(), reason = new Error("enough");
  setTimeout(() => stop.abort(reason), 20);
  await assert.rejects(work.wait({ signal: stop.signal }), reason);
  await assert.rejects(work.wait({ signal: AbortSignal.abort(reason) }), reason);
  assert.equal(work.state, "running");
  await comm.send(new Uint8Array(1), other);
  await work.wait({ timeoutMs: 20_000 });
  assert.equal(y[0], 2);
} else {
  await comm.recv(new Uint8Array(1), other); // comes when rank 0 is through with its waits
  await comm.allReduce(Float32Array.of(1));
}

// A receive that no message has met is taken back, and the message then goes to the next one.
const note = Int32Array.of(0), cancel = new AbortController(), given = new Error("not needed");
const unmet = comm.recv(note, other, { tag: 7, signal: cancel.signal });
await pause(5);
assert.equal(unmet.test(), false);
cancel.abort(given);
await assert.rejects(async () => await unmet, given);
const before = comm.recv(note, other, { tag: 7, signal: AbortSignal.abort(given) });
await assert.rejects(async () => await before, given);
await comm.barrier();
await comm.sendRecv({ send: Int32Array.of(rank + 5), dest: other }, { recv: note, source: other }, { tag: 7 });
assert.equal(note[0], other + 5);
// A signal that comes when all is over changes nothing.
const late = new AbortController();
await comm.allReduce(x, "max", { signal: late.signal });
late.abort();
await comm.barrier();

// A group of calls fails as one, after all of it has ended, and nobody else complains.
const parts = comm.group(() => {
  comm.send(new Float32Array(3), other);
  comm.recv(new Float32Array(2), other); // too short
});
await assert.rejects(async () => await parts, /Cannot receive 3 elements/);
await comm.barrier();

// Collectives of values wait as long as they are told.
const slow = (await comm.split(0))!;
if (rank === 0) {
  await assert.rejects(slow.objects.allGather(1, { timeoutMs: 100 }), (error) => {
    assert.ok(error instanceof CollectiveTimeout);
    assert.deepEqual(error.missing, [1]);
    return true;
  });
} else await pause(800);
await slow[Symbol.asyncDispose]();
assert.throws(() => comm.barrier({ timeoutMs: -1 }), /Cannot wait -1 ms/);
await assert.rejects(comm.objects.broadcast(1, 0, { timeoutMs: NaN }), /Cannot wait NaN ms/);

// Who leaves a group takes what it had under way there with it; only those who wait for it hear of that.
const left = (await comm.split(0))!;
const unmetRecv = left.recv(note, other), unmetBarrier = rank === 0 ? left.barrier() : undefined;
void left.recv(note, other, { tag: 1 });
await pause(5);
await left[Symbol.asyncDispose]();
await assert.rejects(async () => await unmetRecv, /Group "world\.\d+\.0" was closed before this was done/);
await assert.rejects(async () => await (unmetBarrier ?? unmetRecv), /was closed before this was done/);
await comm.barrier();

// To cancel a collective is to stop the group: the ranks would be out of step.
if (rank === 0) {
  const work = comm.allReduce(new Float32Array(1), "sum", { signal: AbortSignal.timeout(50) });
  await assert.rejects(async () => await work, (error) => {
    assert.ok(error instanceof CommunicatorError);
    assert.match(error.message, /Rank 0 aborted group "world": a collective or message was cancelled: TimeoutError/);
    return true;
  });
} else {
  await assert.rejects(async () => await comm.recv(new Uint8Array(1), 0), (error) => {
    assert.ok(error instanceof CollectiveAborted);
    assert.equal(error.rank, 0);
    return true;
  });
}
await pause(20);
assert.equal(unhandled, 0);
await comm[Symbol.asyncDispose]();
console.log("done");
