/** Jobs of several launchers: here on one host, over the loopback interface. */
import assert from "node:assert/strict";
import {
  alive,
  assertNothingLeft,
  causeLine,
  patience,
  program,
  type Run,
  run,
  type Running,
  start,
} from "./harness.ts";

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Starts a launcher for each of `sizes`, which are ranks per node. */
function nodes(
  sizes: readonly number[],
  rdzv: string,
  args: readonly string[],
  flags: readonly string[] = [],
): Running[] {
  return sizes.map((size, node) =>
    start([
      "--nproc",
      String(size),
      "--nnodes",
      String(sizes.length),
      "--node-rank",
      String(node),
      "--rdzv",
      rdzv,
      "--token",
      "t",
      ...flags,
      ...args,
    ])
  );
}

async function finish(jobs: readonly Running[]): Promise<Run[]> {
  const runs = await Promise.all(jobs.map((job) => job.done));
  for (const job of jobs) await assertNothingLeft(job);
  return runs;
}

const BARRIER = [program("barrier.ts"), "all"], FAULT = program("fault.ts");

Deno.test("two launchers run one job of 2 + 2 ranks that pass a barrier", async () => {
  const runs = await finish(nodes([2, 2], `tcp://127.0.0.1:${freePort()}`, BARRIER));
  assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
  assert.match(runs[0]!.stdout, /\[rank 0\] rank 0 is past the barrier of all with 4/);
  assert.match(runs[1]!.stdout, /\[rank 3\] rank 3 is past the barrier of all with 4/);
});

Deno.test("nodes meet at an IPv6 address", async () => {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
  } catch {
    return; // This host has no IPv6.
  }
  const runs = await finish(nodes([1, 1], `tcp://[::1]:${freePort()}`, BARRIER));
  assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
});

Deno.test("nodes of different sizes meet through a folder", async () => {
  const folder = await Deno.makeTempDir();
  const runs = await finish(nodes([1, 3], `file://${folder}`, BARRIER));
  assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
  assert.match(runs[1]!.stdout, /rank 3 is past the barrier of all with 4/);
  assert.deepEqual([...Deno.readDirSync(folder)], [], "the meeting place was not tidied");
  await Deno.remove(folder);
});

Deno.test("a stale address in the folder does not mislead the next job", async () => {
  const folder = await Deno.makeTempDir();
  Deno.writeTextFileSync(
    `${folder}/shardwise-rdzv-t.json`,
    JSON.stringify({ addrs: ["127.0.0.1"], port: freePort(), token: "old" }),
  );
  const late = start([
    "--nproc",
    "1",
    "--nnodes",
    "2",
    "--node-rank",
    "1",
    "--rdzv",
    `file://${folder}`,
    "--token",
    "t",
    ...BARRIER,
  ]);
  await new Promise((done) => setTimeout(done, 300));
  const first = start([
    "--nproc",
    "1",
    "--nnodes",
    "2",
    "--node-rank",
    "0",
    "--rdzv",
    `file://${folder}`,
    "--token",
    "t",
    ...BARRIER,
  ]);
  const runs = await finish([first, late]);
  assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a failure on one node ends the others, which name it and return its code", async () => {
  const runs = await finish(nodes([2, 2], `tcp://127.0.0.1:${freePort()}`, [FAULT, "exit:7", "3", "100"]));
  assert.deepEqual(runs.map((r) => r.code), [7, 7], runs.map((r) => r.stderr).join());
  for (const r of runs) assert.match(causeLine(r), /rank 3 .*exited with code 7/);
});

Deno.test("a job of several nodes is started again as a whole", async () => {
  const script =
    'echo "attempt $SHARDWISE_ATTEMPT rank $RANK"; [ "$SHARDWISE_ATTEMPT" = 1 ] || [ $RANK != 1 ] || exit 4; [ "$SHARDWISE_ATTEMPT" = 1 ] || sleep 20';
  const runs = await finish(
    nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, ["sh", "-c", script], ["--max-restarts", "1", "--exec"]),
  );
  assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
  assert.match(runs[0]!.stdout, /attempt 1 rank 0/);
});

Deno.test("a node whose ranks have all ended well starts them again when another node's fail", async () => {
  const script = 'echo "attempt $SHARDWISE_ATTEMPT rank $RANK"; [ $RANK = 0 ] || [ "$SHARDWISE_ATTEMPT" = 1 ] || ' +
    "{ sleep 1; exit 4; }";
  const flags = ["--max-restarts", "1", "--exec"];
  const runs = await finish(nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, ["sh", "-c", script], flags));
  assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
  for (const [rank, r] of runs.entries()) {
    assert.match(r.stdout, new RegExp(`attempt 1 rank ${rank}`));
    assert.match(r.stderr, /attempt 0 failed: rank 1: exited with code 4; restarting \(1 of 1\)/);
  }
});

Deno.test("no node starts again after a clean error of the user's, or a stop, on another node", async () => {
  const flags = ["--max-restarts", "2"];
  const user = await finish(nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, [FAULT, "user", "1"], flags));
  assert.deepEqual(user.map((r) => r.code), [3, 3], user.map((r) => r.stderr).join());
  const stopped = nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, [FAULT, "done", "99"], flags);
  await Promise.all(stopped.map((job) => job.said("is up")));
  stopped[1]!.kill("SIGTERM");
  const runs = await finish(stopped);
  assert.deepEqual(runs.map((r) => r.code), [143, 143], runs.map((r) => r.stderr).join());
  for (const r of runs) assert.match(causeLine(r), /node 1 \(.*\): the launcher received SIGTERM/);
  for (const r of [...user, ...runs]) assert.doesNotMatch(r.stderr, /restarting/);
});

Deno.test("a launcher that dies ends the job on the other nodes with 113, whichever it is", async () => {
  for (const victim of [0, 1]) {
    const jobs = nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, [FAULT, "done", "99"]);
    await Promise.all(jobs.map((job) => job.said("is up")));
    jobs[victim]!.kill("SIGKILL");
    const other = await jobs[1 - victim]!.done;
    assert.equal(other.code, 113, other.stderr);
    assert.match(causeLine(other), new RegExp(`the launcher of node ${victim} .*was lost`));
    assert.ok(other.ms < patience(8000));
    await jobs[victim]!.done;
  }
  await run(["--nproc", "1", "--exec", "true"]);
});

Deno.test("Ctrl-C on one node ends all", async () => {
  const jobs = nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, [FAULT, "done", "99"]);
  await Promise.all(jobs.map((job) => job.said("is up")));
  jobs[1]!.kill("SIGINT");
  const runs = await finish(jobs);
  assert.deepEqual(runs.map((r) => r.code), [130, 130], runs.map((r) => r.stderr).join());
  for (const { stderr } of runs) assert.match(stderr, /shardwise: job \S+ STOPPED after/);
});

Deno.test("Ctrl-C on a node whose ranks have ended ends those of the others", async () => {
  const script = "echo is up; [ $RANK = 1 ] || exec sleep 60";
  const jobs = nodes([1, 1], `tcp://127.0.0.1:${freePort()}`, ["sh", "-c", script], ["--exec"]);
  await Promise.all(jobs.map((job) => job.said("is up")));
  for (let i = 0; i < 200 && alive(jobs[1]!.mark).length > 1; i++) await new Promise((done) => setTimeout(done, 20));
  jobs[1]!.kill("SIGINT");
  const runs = await finish(jobs);
  assert.deepEqual(runs.map((r) => r.code), [130, 130], runs.map((r) => r.stderr).join());
  for (const { stderr } of runs) assert.match(stderr, /shardwise: job \S+ STOPPED after/);
  assert.match(causeLine(runs[0]!), /the launcher of node 1 .*was told to end/);
});

Deno.test("a rendezvous that never completes says who is missing and ends with 116", async () => {
  const rdzv = `tcp://127.0.0.1:${freePort()}`;
  const flags = ["--nproc", "1", "--nnodes", "3", "--rdzv", rdzv, "--token", "t", "--startup-timeout", "700ms"];
  const runs = await finish([
    start([...flags, "--node-rank", "0", ...BARRIER]),
    // Its own patience is longer: it hears of node 0's.
    start([...flags, "--node-rank", "2", "--startup-timeout", "60s", ...BARRIER]),
  ]);
  assert.deepEqual(runs.map((r) => r.code), [116, 116], runs.map((r) => r.stderr).join());
  for (const r of runs) assert.match(r.stderr, /node 1 of 3 did not come within 0\.7 s/);
});

Deno.test("Ctrl-C ends a launcher that waits for other nodes", async () => {
  const job = start(["--nnodes", "2", "--node-rank", "0", "--rdzv", `tcp://127.0.0.1:${freePort()}`, ...BARRIER]);
  await job.said("can join this job");
  job.kill("SIGINT");
  assert.equal((await job.done).code, 130);
  await assertNothingLeft(job);
});

Deno.test("a port in use is one clear error with a way out", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const result = await run([
    "--nnodes",
    "2",
    "--node-rank",
    "0",
    "--rdzv",
    `tcp://127.0.0.1:${listener.addr.port}`,
    "--token",
    "t",
    ...BARRIER,
  ]);
  assert.equal(result.code, 116);
  assert.match(result.stderr, /Cannot host the store on port \d+: .*in use/i);
  assert.match(result.stderr, /file:\/\/\//);
});

Deno.test("two hosts that claim the same node rank, or were told different sizes, are told so", async () => {
  const rdzv = `tcp://127.0.0.1:${freePort()}`;
  const flags = ["--nproc", "1", "--rdzv", rdzv, "--token", "t", "--startup-timeout", "1500ms"];
  const first = start([...flags, "--nnodes", "3", "--node-rank", "0", ...BARRIER]);
  const one = start([...flags, "--nnodes", "3", "--node-rank", "1", ...BARRIER]);
  await new Promise((done) => setTimeout(done, 500));
  const twin = start([...flags, "--nnodes", "3", "--node-rank", "1", ...BARRIER]);
  const runs = await finish([first, one, twin]);
  assert.match(runs[2]!.stderr, /already is node 1/);
  const port = freePort();
  const pair = await finish([
    start(["--nnodes", "2", "--node-rank", "0", "--rdzv", `tcp://127.0.0.1:${port}`, "--token", "t", ...BARRIER]),
    start([
      "--nnodes",
      "3",
      "--node-rank",
      "1",
      "--rdzv",
      `tcp://127.0.0.1:${port}`,
      "--token",
      "t",
      "--startup-timeout",
      "2s",
      ...BARRIER,
    ]),
  ]);
  assert.match(pair[0]!.stderr, /node 0 was told of 2 nodes, node 1 of 3/);
});

Deno.test("a launcher with another token is refused", async () => {
  const port = freePort();
  const flags = ["--nproc", "1", "--nnodes", "2", "--rdzv", `tcp://127.0.0.1:${port}`, "--startup-timeout", "1s"];
  const runs = await finish([
    start([...flags, "--token", "a", "--node-rank", "0", ...BARRIER]),
    start([...flags, "--token", "b", "--node-rank", "1", ...BARRIER]),
  ]);
  assert.equal(runs[1]!.code, 116);
  assert.match(runs[1]!.stderr, /token is not that of this job/);
  assert.match(runs[0]!.stderr, /node 1 of 2 did not come/);
});
