/** Messages from rank to rank, and groups of calls. */
import type { Features, Run } from "./cases.ts";
import { bufferOf, bytesOf, garbage, source } from "./tensors.ts";

/** Rings, pairs, order, tags, any source, and calls that belong together. */
export async function messageCases(run: Run, features: Features): Promise<void> {
  const { comm } = run, { rank, size } = comm;
  const next = (rank + 1) % size, before = (rank + size - 1) % size;
  if (!run.supports("send", "f32") || !run.supports("recv", "f32")) return;
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

  if (!features.tags) return;
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
