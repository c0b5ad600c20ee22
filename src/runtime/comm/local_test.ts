import assert from "node:assert/strict";
import { InputError } from "../../core/errors.ts";
import { CommunicatorError } from "./errors.ts";
import { LocalCommunicator } from "./local.ts";

Deno.test("allocate() gives a tensor that collectives take and peers can read", async () => {
  await using comm = new LocalCommunicator();
  const x = comm.allocate([2, 3], "f32");
  assert.deepEqual(x.shape, [2, 3]);
  assert.equal(x.data.length, 6);
  x.data.fill(3 as never);
  await comm.allReduce(x, "avg");
  assert.deepEqual([...x.peer(0)], [3, 3, 3, 3, 3, 3]);
  assert.throws(() => comm.allocate([2, -1], "f32"), /shape \[2, -1\]/);
});

Deno.test("a work can be waited for with a timeout and a signal, and again afterwards", async () => {
  await using comm = new LocalCommunicator();
  const x = new Float32Array(1), coming = comm.recv(x, 0);
  await assert.rejects(coming.wait({ timeoutMs: 20 }), { name: "TimeoutError" });
  const controller = new AbortController();
  controller.abort(new Error("enough"));
  await assert.rejects(coming.wait({ signal: controller.signal }), /enough/);
  assert.equal(coming.test(), false);
  await comm.send(Float32Array.of(7), 0);
  assert.deepEqual(await coming, { source: 0, tag: 0, count: 1 });
  assert.equal(coming.state, "done");
  assert.equal(x[0], 7);
});

Deno.test("wrong arguments are errors that say what was found", async () => {
  await using comm = new LocalCommunicator();
  const x = new Float32Array(4);
  assert.throws(
    () => comm.broadcast(x, 1),
    (e) => e instanceof InputError && /Cannot use 1 as a rank: expected 0 to 0/.test(e.message),
  );
  assert.throws(() => comm.allReduce(x, "bxor"), /Cannot reduce f32 by bxor: it is for integers and bool/);
  assert.throws(
    () => comm.allReduce(x, "sum", { recv: new Float32Array(3) }),
    /Cannot use 3 elements as the output: expected 4/,
  );
  assert.throws(() => comm.allReduce(x, "sum", { recv: new Int32Array(4) }), /Cannot receive f32 into a buffer of i32/);
  assert.throws(() => comm.allReduce(new Int16Array(4)), /Cannot use a buffer of Int16Array as the input/);
  assert.throws(() => comm.allGather(x, new Float32Array(4), { counts: [1, 3] }), /\[1, 3\] as the counts of 1 ranks/);
  assert.throws(
    () => comm.allReduce({ data: new Uint8Array(5), dtype: "bf16" }),
    /Cannot use 5 bytes at offset 0 as the input/,
  );
});

Deno.test("a closed communicator refuses to be used", async () => {
  const comm = new LocalCommunicator();
  await comm.close();
  await comm.close();
  assert.throws(
    () => comm.barrierSync(),
    (e) => e instanceof CommunicatorError && /group "world": it is closed/.test(e.message),
  );
});

Deno.test("a rank that is alone and waits, blocking, for its own message gets an error", () => {
  const comm = new LocalCommunicator();
  assert.throws(() => comm.recv(new Float32Array(1), 0).waitSync(), /alone waits, blocking, for a message from itself/);
});
