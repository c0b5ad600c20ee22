/** Messages from rank to rank. */
import assert from "node:assert/strict";
import { runRanks, startRanks } from "../support/ranks.ts";

for (const size of [1, 2, 3, 4]) {
  Deno.test(`messages between ${size} ranks arrive whole, in order, and at who asked for them`, async () => {
    const results = await runRanks(size, new URL("./programs/messages.ts", import.meta.url), { timeoutMs: 40_000 });
    for (const { stdout } of results) assert.equal(stdout, "done\n");
  });
}

Deno.test("a rank killed while others wait for its message, or for room to send it one, is named to them", async () => {
  for (const verb of ["recv", "send"]) {
    const program = new URL("./programs/faults.ts", import.meta.url);
    const results = await startRanks(2, program, { args: ["killed", verb], timeoutMs: 20_000 }).results;
    const seen = JSON.parse(results[0]!.stdout);
    assert.equal(seen.name, "PeerLost", seen.message);
    assert.equal(seen.rank, 1);
    assert.ok(seen.ms < 1000);
  }
});
