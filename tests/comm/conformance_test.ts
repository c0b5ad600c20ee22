/** One law for all collectives, at several numbers of ranks. */
import assert from "node:assert/strict";
import { leftovers, runRanks, startRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/conformance.ts", import.meta.url);

const hashes = new Map<number, string>();

for (const size of [1, 2, 3, 4, 7]) {
  Deno.test(`every verb, dtype, operation and size is right on ${size} ranks, with the same bits on all`, async () => {
    const results = (await runRanks(size, PROGRAM)).map((r) => JSON.parse(r.stdout) as { cases: number; hash: string });
    assert.ok(results[0]!.cases > 2000, `${results[0]!.cases} cases`);
    assert.equal(new Set(results.map((r) => r.hash)).size, 1);
    hashes.set(size, results[0]!.hash);
  });
}

Deno.test("another run gives the same bits, and leaves nothing in /dev/shm", async () => {
  const job = startRanks(2, PROGRAM);
  for (const { stdout } of await job.results) assert.equal(JSON.parse(stdout).hash, hashes.get(2));
  assert.deepEqual(leftovers(job.runId), []);
});
