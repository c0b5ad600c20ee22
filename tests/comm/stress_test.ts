/** Ranks that outnumber cores, and collectives by the hundred thousand. */
import assert from "node:assert/strict";
import { leftovers, runRanks, startRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/stress.ts", import.meta.url);

Deno.test("two ranks pass 100,000 barriers and 20,000 all-reduces without a lost wake-up", async () => {
  await runRanks(2, PROGRAM, { args: ["100000", "20000", "500"] });
});

Deno.test("sixteen ranks on few cores pass 3000 barriers and 500 all-reduces", async () => {
  await runRanks(16, PROGRAM, { args: ["3000", "500", "200"], timeoutMs: 60_000 });
});

Deno.test("awaiting a collective leaves the event loop free", async () => {
  const results = await runRanks(2, PROGRAM, { args: ["0", "0", "300"] });
  for (const { stdout } of results) assert.ok(JSON.parse(stdout).ticks > 0, stdout);
});

Deno.test("a rank that waits in a collective still handles signals", async () => {
  const job = startRanks(2, new URL("./programs/signal.ts", import.meta.url), { timeoutMs: 20_000 });
  const [waiting] = await job.results;
  assert.equal(waiting!.stdout, "handled\n", waiting!.stderr);
  assert.equal(waiting!.code, 3);
});

Deno.test("ranks that are all killed leave nothing in /dev/shm", async () => {
  const job = startRanks(3, PROGRAM, { args: ["100000000", "0", "0"] });
  await new Promise((resolve) => setTimeout(resolve, 1500));
  for (const child of job.children) child.kill("SIGKILL");
  for (const { code } of await job.results) assert.equal(code, 137);
  assert.deepEqual(leftovers(job.runId), []);
});
