/** Jobs over two hosts that have only a network in common. */
import assert from "node:assert/strict";
import { assertNothingLeft, program, type Running, start } from "./harness.ts";
import { type NamespaceHost, namespacesMissing, type TwoHosts, twoHosts } from "./namespaces.ts";

const MAIN = new URL("../../launcher/main.ts", import.meta.url).pathname;
const HELLO = new URL("../../examples/cluster/hello.ts", import.meta.url).pathname;
const missing = namespacesMissing();

function testOnTwoHosts(name: string, fn: (hosts: TwoHosts) => Promise<void>): void {
  Deno.test({
    name: missing === undefined ? name : `${name} (skipped: ${missing})`,
    ignore: missing !== undefined,
    fn: async () => {
      using hosts = twoHosts();
      await fn(hosts);
    },
  });
}

/** Starts a launcher of two ranks on each host; they meet at the first one's address. */
function startBoth({ hosts }: TwoHosts, ...args: string[]): [Running, Running] {
  const launcher = (host: NamespaceHost, node: number) =>
    start([
      ...["--nproc", "2", "--nnodes", "2", "--node-rank", String(node)],
      ...["--rdzv", `tcp://${hosts[0].addr}:29511`, "--token", "secret", "--grace", "2s", ...args],
    ], { command: [...host.enter, Deno.execPath(), "run", "-A", MAIN], limitMs: 90_000 });
  return [launcher(hosts[0], 0), launcher(hosts[1], 1)];
}

testOnTwoHosts("2 + 2 ranks of two hosts know who they are, and where to meet", async (two) => {
  const jobs = startBoth(two, HELLO);
  const [first, second] = await Promise.all(jobs.map((job) => job.done));
  assert.deepEqual([first!.code, second!.code], [0, 0], first!.stderr + second!.stderr);
  const expected = (node: number) =>
    [0, 1].map((local) => {
      const rank = 2 * node + local;
      return `[rank ${rank}] rank ${rank} of 4 on ${Deno.hostname()} (local rank ${local} of 2, node ${node} of 2), ` +
        `started by shardwise, meets at ${two.hosts[0].addr}:29511`;
    });
  assert.deepEqual(first!.stdout.trim().split("\n").toSorted(), expected(0));
  assert.deepEqual(second!.stdout.trim().split("\n").toSorted(), expected(1));
  for (const job of jobs) await assertNothingLeft(job);
});

testOnTwoHosts("ranks of two hosts meet at the store of the first, over the network", async (two) => {
  const jobs = startBoth(two, program("barrier.ts"), "hosts");
  const ends = await Promise.all(jobs.map((job) => job.done));
  assert.deepEqual(ends.map((end) => end.code), [0, 0], ends.map((end) => end.stderr).join());
  for (const end of ends) assert.equal(end.stdout.match(/past the barrier of hosts with 4/g)?.length, 2, end.stdout);
});

testOnTwoHosts("a rank's failure on one host ends the ranks of the other, with its code and its name", async (two) => {
  const jobs = startBoth(two, program("fault.ts"), "exit:3", "3", "300");
  const ends = await Promise.all(jobs.map((job) => job.done));
  assert.deepEqual(ends.map((end) => end.code), [3, 3], ends.map((end) => end.stderr).join());
  for (const end of ends) assert.match(end.stderr, /cause +rank 3 /);
  for (const job of jobs) await assertNothingLeft(job);
});

testOnTwoHosts("when the cable is pulled, both hosts end their ranks with 113", async (two) => {
  const jobs = startBoth(two, program("fault.ts"), "done", "99");
  await Promise.all(jobs.map((job) => job.said("is up", 2)));
  // Nobody is told: a silent node is given up after 15 to 20 s.
  two.cut();
  const ends = await Promise.all(jobs.map((job) => job.done));
  assert.deepEqual(ends.map((end) => end.code), [113, 113], ends.map((end) => end.stderr).join());
  for (const job of jobs) await assertNothingLeft(job);
});
