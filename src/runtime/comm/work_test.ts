import assert from "node:assert/strict";
import { CollectiveMismatch } from "./errors.ts";
import { type Waiting, WorkQueue } from "./work.ts";

Deno.test("what is found out while a rank spins is what the work fails with, and nothing of it is left under way", async () => {
  const mismatch = new CollectiveMismatch("ranks called different collectives");
  const waiting = {
    spinMs: 1,
    begin: () => {},
    spin: () => {
      throw mismatch;
    },
    passed: () => false,
    sleep: () => new Promise((resolve) => setTimeout(resolve, 1)),
    check: () => {},
  } as unknown as Waiting;
  const queue = new WorkQueue<Waiting>(waiting);
  const work = queue.issue("barrier" as never, 1000, function* () {
    while (true) yield;
  });
  // Asked at once, before the queue is driven.
  await assert.rejects(() => work.then(), mismatch);
  assert.equal(work.state, "failed");
  assert.ok(queue.idle);
});
