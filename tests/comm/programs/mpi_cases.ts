// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// What the conformance suite does not ask: borders of messages, groups that live and die, the event loop during a wait.
// Prints one line of JSON a rank; ends without closing if told to, as programs do that only end.
import assert from "node:assert/strict";
import { init } from "../../../src/runtime/comm/init.ts";

const [leave = ""] = Deno.args;
const comm = await init({ backend: "mpi", timeoutMs: 60_000 });
const { rank, size } = comm, next = (rank + 1) % size, before = (rank + size - 1) % size;
const done: string[] = [];

// Empty messages and empty collectives.
const nothing = new Float32Array(0);
assert.deepEqual(
  await comm.sendRecv({ send: nothing, dest: next }, { recv: nothing, source: before }),
  { source: before, tag: 0, count: 0 },
);
await comm.allReduce(nothing);
await comm.allGather(nothing, nothing);
await comm.allToAll(nothing, nothing);
await comm.reduceScatter(nothing, nothing, "sum", { counts: Array.from({ length: size }, () => 0) });
done.push("empty");

// Messages of a pair keep their order, whatever is received first; "any" takes the first.
const sent = [7, 7, 8].map((tag, i) => comm.send(Int32Array.of(rank, i), next, { tag }));
const eight = new Int32Array(2), first = new Int32Array(2), second = new Int32Array(2);
assert.deepEqual(await comm.recv(eight, before, { tag: 8 }), { source: before, tag: 8, count: 2 });
assert.deepEqual(await comm.recv(first, "any", { tag: "any" }), { source: before, tag: 7, count: 2 });
await comm.recv(second, before, { tag: 7 });
assert.deepEqual([...eight, ...first, ...second], [before, 2, before, 0, before, 1]);
await Promise.all(sent);
done.push("order");

// A message may be shorter than its buffer, but not longer; a longer one fails its receive alone.
const room = new Float64Array(5);
const short = comm.send(Float64Array.of(1, 2), next, { tag: 1 });
assert.equal((await comm.recv(room, before, { tag: 1 })).count, 2);
await short;
const long = comm.send(new Float64Array(9), next, { tag: 2 });
await assert.rejects(async () => await comm.recv(room, before, { tag: 2 }), /longer message .* into a buffer of 5/);
await long;
// As does one of another dtype.
const other = comm.send(new Float32Array(2), next, { tag: 3 });
await assert.rejects(
  async () => await comm.recv(new Int32Array(2), before, { tag: 3 }),
  /Cannot receive f32 from rank/,
);
await comm.recv(new Float32Array(2), before, { tag: 3 });
await other;
done.push("misfits");

// Tags: large ones travel, and those beyond MPI's are refused at once.
const large = 32767;
const tagged = comm.send(Int32Array.of(rank), next, { tag: large });
assert.equal((await comm.recv(new Int32Array(1), before, { tag: large })).tag, large);
await tagged;
assert.throws(() => comm.send(nothing, next, { tag: -1 }), /Cannot use -1 as a tag/);
assert.throws(() => comm.recv(nothing, next, { tag: 2 ** 31 - 1 }), /over MPI tags are 0 to \d+/);
assert.throws(() => comm.send(nothing, size), /Cannot use \d+ as a rank/);
done.push("tags");

// A receive that nobody has answered is taken back; the group goes on.
const giveUp = new AbortController();
const never = comm.recv(new Int32Array(1), before, { tag: 99, signal: giveUp.signal });
giveUp.abort(new Error("changed my mind"));
await assert.rejects(async () => await never, /changed my mind/);
await comm.barrier();
done.push("taken back");

// A wait leaves the event loop free: timers run while this rank waits for the others.
let ticks = 0;
const timer = setInterval(() => ticks++, 5);
if (rank === 0) await new Promise((go) => setTimeout(go, 200));
await comm.barrier();
clearInterval(timer);
assert.ok(ticks > 3, `${ticks} ticks`);
done.push("free");

// Short arrays, which V8 moves, stay put while MPI writes to them.
const shorts = Array.from({ length: 50 }, () => Float32Array.of(1, 2));
const works = shorts.map((x) => comm.allReduce(x));
const litter = Array.from({ length: 20_000 }, (_, i) => new Uint8Array(i % 60));
await Promise.all(works);
assert.equal(litter.length, 20_000);
for (const x of shorts) assert.deepEqual([...x], [size, 2 * size]);
done.push("pinned");

// No limit of time: MPI's own blocking calls.
comm.barrierSync({ timeoutMs: Infinity });
const halves = { data: Uint16Array.of(0x3c00, 0x7e00), dtype: "f16" } as const; // 1, NaN
comm.allReduceSync(halves, "max", { timeoutMs: Infinity });
assert.deepEqual([...halves.data], [0x3c00, 0x7e00]);
done.push("blocking");

// Groups made at once, of other members, do not meet each other's messages; many come and go.
const [ones, twos] = await Promise.all([comm.split(rank % 2), comm.split(0, -rank)]);
const ranks = await twos!.objects.allGather(rank);
assert.deepEqual(ranks, Array.from({ length: size }, (_, r) => size - 1 - r));
assert.deepEqual(ones!.ranks, Array.from({ length: size }, (_, r) => r).filter((r) => r % 2 === rank % 2));
const pair = rank < 2 && size > 1 ? await comm.subgroup([1, 0]) : undefined;
if (pair !== undefined) assert.deepEqual(await pair.objects.allGather(rank), [1, 0]);
for (let i = 0; i < 30; i++) {
  const child = await comm.split(0);
  await child!.close();
}
for (let i = 0; i < 2100; i++) { // MPICH has room for 2048 at once
  const alone = await comm.subgroup([rank]);
  await alone[Symbol.asyncDispose]();
}
await Promise.all([ones!.close(), twos!.close(), pair?.close()]);
const mesh = await comm.mesh({ dp: -1, tp: size % 2 === 0 ? 2 : 1 });
assert.equal(mesh.axis("tp").size * mesh.axis("dp").size, size);
await mesh.close();
done.push("groups");

// Memory is each rank's own.
const own = comm.allocate([2, 2], "f32");
(own.data as Float32Array).set([1, 2, 3, 4]);
await comm.allReduce(own);
assert.deepEqual([...own.data], [1, 2, 3, 4].map((v) => v * size));
if (size > 1) assert.throws(() => own.peer(next), /Cannot read the memory of rank \d: mpi joins the ranks/);
done.push("memory");

// MPI is joined once.
await assert.rejects(init({ backend: "mpi" }), /MPI is initialised in this process/);
done.push("once");

console.log(JSON.stringify(done));
if (leave === "throw" && rank === 0) throw new Error("a rank that fails");
if (leave === "") await comm.close();
else await comm[Symbol.asyncDispose]();
