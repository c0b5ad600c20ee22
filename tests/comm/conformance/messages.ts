/** Messages from rank to rank, and groups of calls. */
import { Work } from "../../../src/runtime/comm/work.ts";
import type { Run } from "./cases.ts";
import { bufferOf, bytesIn, bytesOf, garbage, source } from "./tensors.ts";

/** Rings, pairs, order, tags, any source, and calls that belong together. */
export async function messageCases(run: Run): Promise<void> {
  const { comm } = run, { rank, size } = comm;
  const next = (rank + 1) % size, before = (rank + size - 1) % size;
  if (!run.supports("send", "f32") || !run.supports("recv", "f32")) {
    for (const message of [() => comm.send(Int32Array.of(1), next), () => comm.recv(new Int32Array(1), before)]) {
      await run.refused("a message that the engine has not", "UnavailableError", message);
    }
    return await run.refused("a probe", "UnavailableError", () => comm.probe(before));
  }
  const from = (r: number, n: number) => bytesOf(source("f32", n, r));

  for (const n of [0, 1, 1023, 8192, 100_000]) {
    const recv = garbage("f32", n);
    const received = await comm.sendRecv({ send: bufferOf("f32", from(rank, n)), dest: next }, {
      recv,
      source: before,
    });
    run.same(`what sendRecv of ${n} tells`, received, { source: before, tag: 0, count: n });
    run.equal(`sendRecv of ${n}`, recv, from(before, n));
  }

  // In a group, sends and receives may come in any order, together with collectives.
  const parts = Array.from({ length: size }, () => garbage("f32", 2000)),
    sum = bufferOf("i32", bytesOf(source("i32", 9, 3)));
  const work = comm.group(() => {
    for (let r = 0; r < size; r++) comm.recv(parts[r]!, r);
    for (let r = size - 1; r >= 0; r--) comm.send(bufferOf("f32", from(rank + 10 * r, 2000)), r);
    comm.group(() => comm.broadcast(sum, 0));
  });
  await work;
  run.same("the state of a group of calls", work.state, "done");
  for (let r = 0; r < size; r++) run.equal(`the message of rank ${r} in a group`, parts[r]!, from(r + 10 * rank, 2000));
  comm.group(() => {}).waitSync();
  const recv = garbage("f32", 5);
  comm.group(() => {
    comm.recv(recv, before);
    comm.send(bufferOf("f32", from(rank, 5)), next);
  }).waitSync();
  run.equal("a group that is waited for blocking", recv, from(before, 5));

  // One buffer for both directions is replaced.
  const both = bufferOf("f32", from(rank, 50_000));
  await comm.sendRecv({ send: both, dest: next }, { recv: both, source: before });
  run.equal("sendRecv of one buffer", both, from(before, 50_000));

  await run.refused("any of no works", "InputError", () => Work.any([]));
  await run.refused("a negative tag", "InputError", () => comm.send(both, next, { tag: -1 }));
  await run.refused("half a tag", "InputError", () => comm.recv(both, next, { tag: 0.5 }));
  await run.refused("a time that is none", "InputError", () => comm.recv(both, next, { timeoutMs: NaN }));

  await probes(run);
  // To oneself, whichever is called first; and two groups of the same ranks keep their messages apart.
  const own = garbage("f32", 4), first = comm.recv(own, rank, { tag: 9 });
  await comm.send(bufferOf("f32", from(rank, 4)), rank, { tag: 9 });
  run.same("what a message to oneself tells", await first, { source: rank, tag: 9, count: 4 });
  run.equal("a message to oneself", own, from(rank, 4));
  const twin = (await comm.split(0))!, pair = [garbage("i32", 1), garbage("i32", 1)];
  const two = [comm.recv(pair[0]!, before), twin.recv(pair[1]!, before)];
  const sends = [twin.send(Int32Array.of(rank), next), comm.send(Int32Array.of(-rank), next)];
  await Promise.all([...two, ...sends]);
  run.equal("a message in a group", pair[0]!, bytesIn({ data: Int32Array.of(-before), dtype: "i32" }));
  run.equal("a message in its twin", pair[1]!, bytesIn({ data: Int32Array.of(before), dtype: "i32" }));
  await twin.close();
  // A receive that waits holds up no collective, and no collective that waits a message.
  const later = garbage("f32", 3), met = comm.recv(later, before, { tag: 5 }), met2 = comm.barrier();
  await comm.allReduce(sum);
  await met2;
  await comm.send(bufferOf("f32", from(rank, 3)), next, { tag: 5 });
  await met;
  run.equal("what a receive got that was called before a collective", later, from(before, 3));
  // Of several works, the first, then all that are done.
  const ways = [garbage("f32", 9), garbage("f32", 9)].map((x, i) =>
    comm.group(() => {
      if (i === 0) comm.recv(x, before);
    })
  );
  run.same("the work that is done first", (await Work.any(ways)).index, 1);
  await comm.barrier(); // until all ranks have asked
  const nine = comm.send(bufferOf("f32", from(rank, 9)), next);
  await Work.all(ways);
  await nine;
  run.same("the works that are done", (await Work.some(ways)).map(({ index }) => index), [0, 1]);
  run.same("the works of none", await Work.some([]), []);
  await comm.barrier();
  const one = new Int32Array(2), works = [];
  for (let i = 0; i < 20; i++) works.push(comm.send(Int32Array.of(i, rank), next, { tag: i % 2 }));
  for (const tag of [1, 0]) {
    for (let i = tag; i < 20; i += 2) {
      await comm.recv(one, before, { tag });
      run.same(`message ${i} of tag ${tag}`, [...one], [i, before]);
    }
  }
  for (const work of works) await work;
  await comm.barrier();
  if (rank > 0) await comm.send(Int32Array.of(rank), 0, { tag: rank * 10 });
  const seen = new Set<number>();
  for (let i = 1; rank === 0 && i < size; i++) {
    const got = await comm.recv(one, "any", { tag: "any" });
    run.same("a message from any source", [got.tag, got.count, one[0]], [got.source * 10, 1, got.source]);
    seen.add(got.source);
  }
  if (rank === 0) run.same("how many sources were seen", seen.size, size - 1);
  await comm.barrier();
}

/** Messages that are looked at before they are received. */
async function probes(run: Run): Promise<void> {
  const { comm } = run, { rank, size } = comm, next = (rank + 1) % size, before = (rank + size - 1) % size;
  const unmet = comm.probe("any", { tag: "any" });
  run.same("whether a probe is done before anything is sent", unmet.test(), false);
  await comm.barrier();
  const small = comm.send(Int32Array.of(rank), next, { tag: 6 });
  run.same("what a probe of any finds", await unmet, { source: before, tag: 6, dtype: "i32", count: 1 });
  const long = comm.send(new Float64Array(9000).fill(rank), next, { tag: 7 });
  const found = await comm.probe(before, { tag: 7 });
  run.same("what a probe finds behind another message", found, { source: before, tag: 7, dtype: "f64", count: 9000 });
  run.same("what a second probe finds", await comm.probe("any", { tag: 7 }), found);
  const x = new Float64Array(found.count), one = new Int32Array(1);
  await comm.recv(x, found.source, { tag: found.tag });
  await comm.recv(one, before, { tag: 6 });
  run.same("what was received after probes", [x[0], x[8999], one[0]], [before, before, before]);
  await Promise.all([small, long]);
  const stop = new AbortController(), never = comm.probe(before, { tag: 8, signal: stop.signal });
  stop.abort(new DOMException("enough", "AbortError"));
  await run.refused("a probe that is taken back", "AbortError", async () => await never);
  await comm.barrier();
}
