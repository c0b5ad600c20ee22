/** Ranks that outnumber cores, and collectives by the hundred thousand. */
import assert from "node:assert/strict";
import { leftovers, runRanks, startRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/stress.ts", import.meta.url);
/** What takes a minute is run where all tests are asked for. */
const ALL = Deno.env.get("SHARDWISE_TEST_ALL") === "1";

Deno.test("two ranks pass 100,000 barriers and 20,000 all-reduces without a lost wake-up", async () => {
  await runRanks(2, PROGRAM, { args: ["100000", "20000", "500"] });
});

Deno.test("sixteen ranks on few cores pass 3000 barriers and 500 all-reduces", async () => {
  await runRanks(16, PROGRAM, { args: ["3000", "500", "200"], timeoutMs: 60_000 });
});

Deno.test({
  name: "64 ranks on few cores pass barriers and all-reduces",
  ignore: !ALL, // 64 processes
  fn: async () => {
    await runRanks(64, PROGRAM, { args: ["50", "20", "10"], timeoutMs: 120_000 });
  },
});

Deno.test({
  name: "two ranks pass a million small all-reduces without a lost wake-up",
  ignore: !ALL, // the test above does with fewer
  fn: async () => {
    await runRanks(2, PROGRAM, { args: ["1000", "1000000", "500"], timeoutMs: 300_000 });
  },
});

Deno.test(`${ALL ? 10_000 : 1000} groups made and closed leave no file, no mapping and little memory behind`, async () => {
  const count = ALL ? 10_000 : 1000;
  const program = new URL("./programs/subgroups.ts", import.meta.url);
  const job = startRanks(2, program, { args: [`${count}`], timeoutMs: 120_000 });
  for (const { stdout, stderr } of await job.results) {
    assert.notEqual(stdout, "", stderr);
    const { early, end } = JSON.parse(stdout);
    assert.deepEqual(shared(end.files), shared(early.files));
    // The runtime opens a few for itself when it likes; one of ours a group would be hundreds.
    const files = `${early.files.join(", ")} became ${end.files.join(", ")}`;
    assert.ok(end.files.length - early.files.length < 10, files);
    // The engine's own heap grows and takes mappings; one of ours a group would be thousands.
    assert.ok(end.maps - early.maps < 100, `${early.maps} mappings became ${end.maps}`);
    assert.ok(end.used - early.used < 8, `${early.used} MB in use became ${end.used}`);
    assert.ok(end.megabytes - early.megabytes < 60, `${early.megabytes} MB became ${end.megabytes}`);
  }
  assert.deepEqual(leftovers(job.runId), []);
});

/** The open files that are shared memory, of which each is ours. */
const shared = (files: string[]) => files.filter((file) => file.startsWith("/dev/shm/")).sort();

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
