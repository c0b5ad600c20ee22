// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// All-reduces in the background: right, in order, beside others, while JavaScript computes; waited for blocking and not. An
// argument makes the last rank die, or rank 0 cancel one.
import assert from "node:assert/strict";
import { CommunicatorError, PeerLost } from "../../../src/runtime/comm/errors.ts";
import { init } from "../../../src/runtime/comm/init.ts";

const comm = await init({ timeoutMs: 60_000 });
const { rank, size } = comm, n = 200_000, total = size * (size + 1) / 2;
const fresh = () => new Float32Array(n).fill(rank + 1);

// Several layers' gradients, begun one after the other; JavaScript neither waits nor looks, and yet they end.
const layers = [fresh(), fresh(), comm.allocate([n], "f32").data as Float32Array];
layers[2]!.fill(rank + 1);
const out = new Float32Array(n);
const works = [
  comm.allReduce(layers[0]!, "sum", { background: true }),
  comm.allReduce(layers[1]!, "max", { background: true }),
  comm.allReduce(layers[2]!, "sum", { background: true, recv: out }),
];
const end = performance.now() + 60_000, ends = [0, n / 2, n - 1]; // parts come in the order in which ranks have reduced them
while (ends.some((i) => out[i] !== total) && performance.now() < end) Math.sqrt(end); // computes
if (size > 1) assert.equal(works[0]!.state, "running"); // nobody has looked
while (!works[2]!.test() && performance.now() < end);
assert.ok(out.every((v) => v === total));
await works[0];
works[1]!.waitSync();
assert.ok(layers[0]!.every((v) => v === total));
assert.ok(layers[1]!.every((v) => v === size));
assert.ok(layers[2]!.every((v) => v === rank + 1));

// Beside others, blocking and not, in another order on every rank.
const a = fresh(), b = fresh(), c = comm.allReduce(a, "sum", { background: true });
if (rank === 0) await c;
comm.allReduceSync(b);
await comm.barrier();
c.waitSync();
assert.equal(a[7], total);
assert.equal(b[7], total);
const scaled = fresh();
await comm.allReduce(scaled, { preMulSum: 2 }, { background: true });
assert.equal(scaled[n - 1], 2 * total);

if (Deno.args[0] === "cancels") {
  const beside = (await comm.split(0))!, word = new Uint8Array(1);
  if (rank > 0) await beside.recv(word, 0); // rank 0 has given up by then
  const given = AbortSignal.timeout(100);
  await assert.rejects(
    async () => await comm.allReduce(fresh(), "sum", { background: true, ...rank === 0 ? { signal: given } : {} }),
    (error) => {
      assert.ok(error instanceof CommunicatorError);
      assert.match(error.message, rank === 0 ? /cancelled: TimeoutError/ : /rank 0 .*aborted the group/);
      return true;
    },
  );
  console.log("cancelled");
  if (rank === 0) { for (let other = 1; other < size; other++) await beside.send(word, other); }
  // Not gone before rank 1 has heard: else it would, rightly, say that rank 0 ended.
  await beside.barrier();
  await comm[Symbol.asyncDispose]();
} else if (Deno.args[0] !== "dies") {
  const last = fresh(), work = comm.allReduce(last, "sum", { background: true });
  await comm.close(); // waits for it
  await work;
  assert.equal(last[0], total);
  console.log("done");
} else if (rank === size - 1) Deno.kill(Deno.pid, "SIGKILL");
else {
  await assert.rejects(async () => await comm.allReduce(fresh(), "sum", { background: true }), (error) => {
    assert.ok(error instanceof PeerLost);
    assert.equal(error.rank, size - 1);
    assert.match(error.message, /rank 1 of group "world.background" ended/);
    return true;
  });
  await assert.rejects(async () => await comm.allReduce(fresh(), "sum", { background: true }), PeerLost);
  console.log("lost");
  await comm[Symbol.asyncDispose]();
}
