// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Messages between ranks: rings, order, tags, any source, lengths from nothing to many rings full, and what goes wrong.
import assert from "node:assert/strict";
import { CollectiveMismatch } from "../../../src/runtime/comm/errors.ts";
import { InputError } from "../../../src/core/errors.ts";
import { init } from "../../../src/runtime/comm/init.ts";

await using comm = await init({ timeoutMs: 20_000 });
const { rank, size } = comm;
const next = (rank + 1) % size, before = (rank + size - 1) % size;

for (const n of [0, 1, 1023, 8192, 300_000]) {
  const mine = Float32Array.from({ length: n }, (_, i) => rank * 1000 + i % 1000), got = new Float32Array(n);
  const received = await comm.sendRecv({ send: mine, dest: next }, { recv: got, source: before });
  assert.deepEqual(received, { source: before, tag: 0, count: n });
  assert.ok(got.every((v, i) => v === before * 1000 + i % 1000), `${n} elements in a ring`);
}

// Blocking: even ranks send first, odd ones receive first.
if (size % 2 === 0) {
  const x = new Int32Array(100_000).fill(rank);
  if (rank % 2 === 0) {
    comm.send(x, next).waitSync();
    comm.recv(x, next).waitSync();
    assert.ok(x.every((v) => v === rank + 100));
  } else {
    comm.recv(x, before).waitSync();
    comm.send(x.map((v) => v + 100), before).waitSync();
  }
}

// Messages of one tag keep their order; those of another are left for whoever asks for it. The message to itself too.
const works = [];
for (let i = 0; i < 20; i++) works.push(comm.send(Int32Array.of(i, rank), next, { tag: i % 2 }));
const pair = new Int32Array(2);
for (const tag of [1, 0]) {
  for (let i = tag; i < 20; i += 2) {
    await comm.recv(pair, before, { tag });
    assert.deepEqual([...pair], [i, before]);
  }
}
for (const work of works) await work;

// From any source, of any tag; the receiver learns which.
if (rank === 0) {
  const seen = new Set<number>();
  for (let i = 1; i < size; i++) {
    const { source, tag, count } = await comm.recv(pair, "any", { tag: "any" });
    assert.equal(tag, source * 10);
    assert.equal(count, 1);
    assert.equal(pair[0], source);
    seen.add(source);
  }
  assert.equal(seen.size, size - 1);
} else await comm.send(Int32Array.of(rank), 0, { tag: rank * 10 });
await comm.barrier(); // later messages have other tags

// A message that does not fit, and one of another type: only that receive fails.
await comm.send(new Float32Array(5), rank);
await assert.rejects(async () => await comm.recv(new Float32Array(4), rank), InputError);
await comm.send(new Float32Array(5), rank);
await assert.rejects(async () => await comm.recv(new Int32Array(5), rank), CollectiveMismatch);

// A collective and a message are under way at once, in different order on different ranks.
const sum = Int32Array.of(1), note = new Int32Array(1);
const reduced = comm.allReduce(sum), told = comm.send(Int32Array.of(rank), next, { tag: 5 });
comm.recv(note, before, { tag: 5 }).waitSync();
await told;
await reduced;
assert.equal(sum[0], size);
assert.equal(note[0], before);

await comm.close();
console.log("done");
