/** Options that change how ranks are started. */
import assert from "node:assert/strict";
import { causeLine, program, run, start } from "./harness.ts";

/** A cache of its own for bundles, while Deno keeps its. */
function cacheEnv(cache: string): Record<string, string> {
  const home = Deno.env.get("XDG_CACHE_HOME") ?? `${Deno.env.get("HOME")}/.cache`;
  return { XDG_CACHE_HOME: cache, DENO_DIR: Deno.env.get("DENO_DIR") ?? `${home}/deno` };
}

const SH = ["--exec", "sh", "-c"];

Deno.test("ranks find their place in the environment, without the launcher's own options", async () => {
  const script =
    'echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $NODE_RANK/$NNODES $MASTER_ADDR ${SHARDWISE_NPROC-unset} $EXTRA"; [ $MASTER_PORT -gt 0 ]';
  const result = await run(["--env", "EXTRA=x y", ...SH, script], { env: { SHARDWISE_NPROC: "2" } });
  assert.equal(result.code, 0, result.stderr);
  const lines = result.stdout.trimEnd().split("\n").sort();
  assert.deepEqual(lines, ["[rank 0] 0/2 0/2 0/1 127.0.0.1 unset x y", "[rank 1] 1/2 1/2 0/1 127.0.0.1 unset x y"]);
});

Deno.test("a launcher inside a rank is a job of its own", async () => {
  const main = new URL("../../launcher/main.ts", import.meta.url).pathname;
  const inner = `'${Deno.execPath()}' run -A '${main}' --nproc 2 --exec sh -c 'echo inner $RANK of $WORLD_SIZE'`;
  const result = await run(["--nproc", "2", ...SH, inner]);
  assert.equal(result.code, 0, result.stderr);
  assert.equal(result.stdout.match(/inner [01] of 2/g)?.length, 4, result.stdout);
});

Deno.test("OMP_NUM_THREADS is the CPUs per rank, unless it is set", async () => {
  const show = [...SH, "echo $OMP_NUM_THREADS"];
  const mine = await run(["--nproc", "64", ...show]);
  assert.equal(mine.stdout.match(/\] 1$/gm)?.length, 64, "64 ranks on fewer CPUs have one thread each");
  assert.equal((await run(["--nproc", "1", ...show], { env: { OMP_NUM_THREADS: "7" } })).stdout, "[rank 0] 7\n");
});

Deno.test("--nproc cpu starts a rank per usable CPU, and gpu says when there is none", async () => {
  const result = await run(["--nproc", "cpu", ...SH, "echo $WORLD_SIZE"]);
  const cpus = navigator.hardwareConcurrency;
  assert.equal(result.stdout.split("\n").length - 1, cpus);
  const none = await run(["--nproc", "gpu", ...SH, "true"], { env: { CUDA_VISIBLE_DEVICES: "" } });
  assert.equal(none.code, 64);
  assert.match(none.stderr, /no GPU was found/);
  assert.equal(
    (await run(["--nproc", "gpu", ...SH, "echo $WORLD_SIZE"], { env: { CUDA_VISIBLE_DEVICES: "0,3" } })).stdout.match(
      /2$/gm,
    )?.length,
    2,
  );
});

Deno.test("--isolate-devices shows each rank its own GPU, in turn when there are fewer", async () => {
  const show = [...SH, "echo $CUDA_VISIBLE_DEVICES"], env = { CUDA_VISIBLE_DEVICES: "3,GPU-a" };
  const result = await run(["--nproc", "3", "--isolate-devices", ...show], { env });
  assert.deepEqual(result.stdout.trimEnd().split("\n").sort(), ["[rank 0] 3", "[rank 1] GPU-a", "[rank 2] 3"]);
  const none = await run(["--isolate-devices", ...show], { env: { CUDA_VISIBLE_DEVICES: "" } });
  assert.equal(none.code, 64);
  assert.match(none.stderr, /no GPU was found/);
});

Deno.test("--health-port answers with the job's state as long as it lives", async () => {
  const probe = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = probe.addr;
  probe.close();
  const job = start(["--nproc", "2", "--health-port", String(port), program("fault.ts"), "done", "99"]);
  await job.said("is up", 2);
  const get = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, text: await response.text() };
  };
  const { status, text } = await get("/");
  assert.equal(status, 200);
  const { state, attempt, running } = JSON.parse(text);
  assert.deepEqual({ state, attempt, running }, { state: "running", attempt: 0, running: [0, 1] });
  assert.equal((await get("/ready")).status, 200);
  assert.equal((await get("/other")).status, 404);
  const taken = await run(["--health-port", String(port), ...SH, "true"]);
  assert.equal(taken.code, 64);
  assert.match(taken.stderr, new RegExp(`health on port ${port}\\n.*in use`));
  job.kill("SIGTERM");
  assert.match((await job.done).stderr, new RegExp(`health at http://.*:${port}/`));
  await assert.rejects(fetch(`http://127.0.0.1:${port}/`));
});

Deno.test("--bind core gives ranks disjoint CPUs while there are enough", async () => {
  const result = await run([
    "--nproc",
    "2",
    "--bind",
    "core",
    ...SH,
    "sed -n 's/^Cpus_allowed_list:\\s*//p' /proc/self/status",
  ]);
  assert.equal(result.code, 0, result.stderr);
  const lists = result.stdout.trimEnd().split("\n").map((line) => line.replace(/^\[rank \d\] /, ""));
  assert.equal(lists.length, 2);
  if (navigator.hardwareConcurrency >= 2) assert.notEqual(lists[0], lists[1]);
  assert.equal((await run(["--nproc", "2", "--bind", "numa", ...SH, "true"])).code, 0);
});

Deno.test("--bundle runs the same program from one file, with its packages, its own place and its names, and finds it again", async () => {
  const cache = await Deno.makeTempDir();
  const env = cacheEnv(cache);
  const first = await run(["--nproc", "2", "--bundle", "--verbose", program("bundled.ts")], { env });
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stderr, /bundled 2 modules/);
  const part = new URL("programs/parts/part.ts", import.meta.url).href;
  const expected = { distance: 1, here: part, beside: true, main: true };
  for (const line of first.stdout.trimEnd().split("\n")) {
    assert.deepEqual(JSON.parse(line.replace(/^\[rank \d\] /, "")), expected);
  }
  const again = await run(["--nproc", "1", "--bundle", "--verbose", program("bundled.ts"), "fail"], { env });
  assert.doesNotMatch(again.stderr, /bundled 2 modules/);
  assert.equal(again.code, 1);
  assert.match(causeLine(again), /from a part/);
  assert.match(again.stderr, /at fail \(.*part\.ts:5/);
  await Deno.remove(cache, { recursive: true });
});

Deno.test("a program that cannot be bundled is one clear error", async () => {
  const cache = await Deno.makeTempDir();
  const result = await run(["--nproc", "2", "--bundle", program("broken_import.ts")], {
    env: cacheEnv(cache),
  });
  assert.equal(result.code, 64);
  assert.match(result.stderr, /^error: Cannot bundle .*broken_import\.ts.*does_not_exist/m);
  await Deno.remove(cache, { recursive: true });
});

Deno.test("ranks with restricted permissions run, and their failures are seen", async () => {
  const flags = ["--nproc", "2", "--deno-args=--allow-env=RANK"];
  const result = await run([...flags, program("stubborn.ts"), "block"]);
  assert.equal(result.code, 1);
  assert.match(causeLine(result), /Requires ffi access/);
});

for (
  const [name, env] of [
    ["an indexed Job of Kubernetes", {
      JOB_COMPLETION_INDEX: "NODE",
      SHARDWISE_NNODES: "2",
      MASTER_ADDR: "127.0.0.1",
      MASTER_PORT: "PORT",
      SHARDWISE_TOKEN: "t",
      SHARDWISE_NPROC: "2",
    }],
    ["Kubeflow's trainer", {
      PET_NNODES: "2",
      PET_NPROC_PER_NODE: "2",
      PET_NODE_RANK: "NODE",
      PET_MASTER_ADDR: "127.0.0.1",
      PET_MASTER_PORT: "PORT",
    }],
  ] as const
) {
  Deno.test(`launchers under ${name} find each other by its variables alone`, async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const port = String(listener.addr.port);
    listener.close();
    const jobs = ["0", "1"].map((node) => {
      const filled = Object.entries(env).map((
        [key, value],
      ) => [key, value.replace("NODE", node).replace("PORT", port)]);
      return start([program("barrier.ts"), "all"], { env: Object.fromEntries(filled) });
    });
    const runs = await Promise.all(jobs.map((job) => job.done));
    assert.deepEqual(runs.map((r) => r.code), [0, 0], runs.map((r) => r.stderr).join());
    assert.match(runs[1]!.stdout, /rank 3 is past the barrier of all with 4/);
  });
}
