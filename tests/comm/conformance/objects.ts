/** Values instead of buffers. */
import type { Run } from "./cases.ts";

/** What there is of values, empty ones first; after mpi4py's list for its pickled messages. */
const KINDS: readonly unknown[] = [
  ...[null, undefined, "", 0, -0, NaN, false, 0n, [], {}, new Uint8Array(), new Map(), new Set()],
  ...["ü€𝄞", 1 / 3, -(2n ** 70n), [undefined, null, , 1], { a: { b: [{}] } }, new Date(0), /x+/gi, new Error("no")],
  ...[Float32Array.of(NaN, 1), new Map<unknown, unknown>([[{}, new Set([1])]])],
];

/** Every object verb, with values that only structured clone can copy. */
export async function objectCases(run: Run): Promise<void> {
  const { comm } = run, { rank, size } = comm;
  const value = (r: number) => ({ r, big: 1n << 80n, text: "x".repeat(r % 4 * 100_000), map: new Map([[r, [1, 2]]]) });
  const everyone = Array.from({ length: size }, (_, r) => value(r)), last = size - 1;
  run.same("objects.allGather", await comm.objects.allGather(value(rank)), everyone);
  run.same("objects.gather", await comm.objects.gather(value(rank), last), rank === last ? everyone : null);
  run.same("objects.broadcast", await comm.objects.broadcast(rank === last ? value(7) : undefined, last), value(7));
  run.same("objects.scatter", await comm.objects.scatter(rank === 0 ? everyone : null, 0), value(rank));
  if (!comm.supports("u8", undefined, "send")) {
    return await run.refused("a message of a value", "UnavailableError", () => comm.objects.send(1, 0));
  }
  run.same("all kinds of values from all", await comm.objects.allGather(KINDS), everyone.map(() => KINDS));
  const next = (rank + 1) % size, before = (rank + size - 1) % size;
  // Several at once: each receive gets the whole of one message.
  const sends = [0, 1, 2].map((i) => comm.objects.send([i, value(rank)], next));
  const got = await Promise.all([0, 1, 2].map(() => comm.objects.recv(before)));
  run.same("three objects.recv at once", got, [0, 1, 2].map((i) => [i, value(before)]));
  await Promise.all(sends);
  for (const kind of KINDS) {
    const [back] = await Promise.all([
      comm.objects.recv(before, { tag: 5 }),
      comm.objects.send(kind, next, { tag: 5 }),
    ]);
    run.same("a message of a value of any kind", back, kind);
    const [own] = await Promise.all([comm.objects.recv(rank, { tag: 6 }), comm.objects.send(kind, rank, { tag: 6 })]);
    run.same("a message of a value to oneself", own, kind);
  }
  const sent = comm.objects.send(value(rank), next, { tag: 3 });
  run.same("objects.recv", await comm.objects.recv(before, { tag: 3 }), value(before));
  await sent;
  const any = comm.objects.send(rank, next, { tag: 4 });
  run.same("objects.recv of any", await comm.objects.recv("any", { tag: "any" }), before);
  await any;
}
