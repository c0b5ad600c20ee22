/** All-reduces that go on while JavaScript computes. */
import assert from "node:assert/strict";
import { leftovers, runRanks, startRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/background.ts", import.meta.url);

for (const ranks of [1, 2, 3]) {
  Deno.test(`all-reduces in the background of ${ranks} ranks go on while JavaScript computes`, async () => {
    for (const { stdout } of await runRanks(ranks, PROGRAM)) assert.equal(stdout, "done\n");
  });
}

Deno.test("a rank that dies is named to a collective in the background", async () => {
  const job = startRanks(2, PROGRAM, { args: ["dies"], timeoutMs: 60_000 });
  const [survivor] = await job.results;
  assert.equal(survivor!.stdout, "lost\n", survivor!.stderr);
  assert.equal(survivor!.code, 0);
  assert.deepEqual(leftovers(job.runId), []);
});

Deno.test("a collective in the background that one rank cancels ends at the others too", async () => {
  for (const { stdout } of await runRanks(2, PROGRAM, { args: ["cancels"], timeoutMs: 60_000 })) {
    assert.equal(stdout, "cancelled\n");
  }
});
