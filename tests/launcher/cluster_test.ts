/** Real schedulers: mpirun of Open MPI and of MPICH, and a private Slurm. Each test says what is missing where it cannot run. */
import assert from "node:assert/strict";
import type { LaunchEnv } from "../../src/core/launch_env.ts";
import { alive, program } from "./harness.ts";
import { slurmMissing, startSlurm, which } from "./slurm.ts";

const DENO = Deno.execPath(), MAIN = new URL("../../launcher/main.ts", import.meta.url).pathname;
const ROOT = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const WHO = [DENO, "run", "-A", program("who.ts")];
const LAUNCH = [DENO, "run", "-A", MAIN];
/** Tests that wait for a minute are for those who ask. */
const SLOW = Deno.env.get("SHARDWISE_TEST_ALL") === "1";
const AS_ROOT = { OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" };

async function output(
  command: readonly string[],
  env: Record<string, string> = {},
): Promise<{ code: number; text: string }> {
  const child = new Deno.Command(command[0]!, {
    args: command.slice(1),
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
  const { code, stdout, stderr } = await child.output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

function everyone(text: string): LaunchEnv[] {
  return text.split("\n").filter((line) => line.includes("WHO ")).map((line) =>
    JSON.parse(line.slice(line.indexOf("{"))) as LaunchEnv
  ).sort((a, b) => a.rank - b.rank);
}

/** Checks that `found` are the ranks of one job of `n` on one host. */
function assertOneJob(found: readonly LaunchEnv[], n: number, scheme: LaunchEnv["scheme"]): void {
  assert.deepEqual(found.map((e) => e.rank), Array.from({ length: n }, (_, rank) => rank));
  for (const e of found) {
    assert.equal(e.scheme, scheme);
    assert.equal(e.worldSize, n);
    assert.equal(e.localRank, e.rank);
    assert.equal(e.localWorldSize, n);
    assert.deepEqual([e.runId, e.masterAddr, e.masterPort], [
      found[0]!.runId,
      found[0]!.masterAddr,
      found[0]!.masterPort,
    ]);
  }
}

function testWith(name: string, missing: string | undefined, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({
    name: missing === undefined ? name : `${name} (skipped: ${missing})`,
    ignore: missing !== undefined,
    fn,
  });
}

function tool(...names: string[]): [path: string, missing: string | undefined] {
  const found = names.map(which).find((path) => path !== undefined);
  return [found ?? "", found === undefined ? `${names[0]} is not installed` : undefined];
}

const [openMpi, noOpenMpi] = tool("mpirun.openmpi");
const [mpich, noMpich] = tool("mpirun.mpich", "mpiexec.hydra");

testWith("ranks that Open MPI's mpirun starts know who they are", noOpenMpi, async () => {
  const { code, text } = await output([openMpi, "--oversubscribe", "-n", "4", ...WHO], AS_ROOT);
  assert.equal(code, 0, text);
  assertOneJob(everyone(text), 4, "openmpi");
});

testWith("two mpirun jobs have different run ids", noOpenMpi, async () => {
  const [a, b] = await Promise.all([
    output([openMpi, "-n", "1", ...WHO], AS_ROOT),
    output([openMpi, "-n", "1", ...WHO], AS_ROOT),
  ]);
  assert.notEqual(everyone(a.text)[0]!.runId, everyone(b.text)[0]!.runId);
});

testWith("mpirun of one launcher a host makes one job of all their ranks", noOpenMpi, async () => {
  const { code, text } = await output([
    openMpi,
    "--oversubscribe",
    "-n",
    "2",
    ...LAUNCH,
    "--nproc",
    "2",
    program("barrier.ts"),
    "all",
  ], AS_ROOT);
  assert.equal(code, 0, text);
  assert.equal(text.match(/past the barrier of all with 4/g)?.length, 4, text);
});

testWith("the example mpi.sh runs as it is", noOpenMpi ?? noMpich, async () => {
  // Three slots on a small host need --oversubscribe with Open MPI, which one rank does not.
  const path = `${DENO.slice(0, DENO.lastIndexOf("/"))}:${Deno.env.get("PATH")}`;
  const { stdout, code } = await new Deno.Command(`${ROOT}/examples/cluster/mpi.sh`, {
    args: ["1"],
    cwd: ROOT,
    env: { ...AS_ROOT, PATH: path },
  }).output();
  assert.equal(code, 0);
  assert.match(new TextDecoder().decode(stdout), /rank 0 of 1 /);
});

testWith("ranks that MPICH's mpirun starts know who they are", noMpich, async () => {
  const { code, text } = await output([mpich, "-n", "3", ...WHO]);
  assert.equal(code, 0, text);
  assertOneJob(everyone(text), 3, "hydra");
});

testWith(
  "Slurm: srun's tasks are ranks, a batch script is none, launchers are nodes, and scancel ends all",
  slurmMissing(),
  async (t) => {
    await using slurm = await startSlurm();
    const { env } = slurm;
    const dir = await Deno.makeTempDir();
    const batch = async (lines: string[], flags: string[] = []): Promise<{ id: string; out: string }> => {
      const out = `${dir}/${crypto.randomUUID()}`;
      await Deno.writeTextFile(`${out}.sh`, `#!/bin/sh\n${lines.join("\n")}\n`);
      const { code, text } = await output([which("sbatch")!, "--parsable", "-o", out, ...flags, `${out}.sh`], env);
      assert.equal(code, 0, text);
      return { id: text.trim(), out };
    };
    const until = async (what: () => Promise<boolean>, ms: number) => {
      for (
        const end = performance.now() + ms;
        performance.now() < end;
        await new Promise((done) => setTimeout(done, 200))
      ) if (await what()) return;
      assert.fail(`it did not happen within ${ms} ms`);
    };
    const over = async (id: string) => (await output([which("squeue")!, "-h", "-j", id], env)).text.trim() === "";
    const read = (path: string) => Deno.readTextFile(path).catch(() => "");

    await t.step("srun starts 4 ranks that know who they are", async () => {
      const { code, text } = await output([which("srun")!, "-n4", ...WHO], env);
      assert.equal(code, 0, text);
      assertOneJob(everyone(text), 4, "slurm");
      assert.equal(everyone(text)[0]!.masterAddr, Deno.hostname().split(".")[0]);
    });
    await t.step("a process of the batch script itself is a job of one", async () => {
      const { id, out } = await batch([WHO.join(" ")], ["-n3"]);
      await until(() => over(id), 20_000);
      const found = everyone(await read(out));
      assert.deepEqual([found[0]!.scheme, found[0]!.worldSize], ["single", 1]);
    });
    await t.step("the launcher in a batch script runs a job on its host", async () => {
      const { id, out } = await batch([[...LAUNCH, "--nproc", "4", program("barrier.ts"), "all"].join(" ")], ["-n4"]);
      await until(() => over(id), 20_000);
      assert.equal((await read(out)).match(/past the barrier of all with 4/g)?.length, 4);
    });
    await t.step("srun of one launcher a task makes one job of 2 + 2 ranks", async () => {
      const { code, text } = await output([
        which("srun")!,
        "-n2",
        ...LAUNCH,
        "--nproc",
        "2",
        program("barrier.ts"),
        "all",
      ], env);
      assert.equal(code, 0, text);
      assert.equal(text.match(/past the barrier of all with 4/g)?.length, 4, text);
    });
    for (
      const [file, expected] of [["slurm_ranks.sbatch", /rank 3 of 4 .* started by slurm/], [
        "slurm_launchers.sbatch",
        /\[rank 3\] rank 3 of 4 .* started by shardwise/,
      ]] as const
    ) {
      await t.step(`the example ${file} runs as it is`, async () => {
        const out = `${dir}/${file}.log`;
        const path = `${DENO.slice(0, DENO.lastIndexOf("/"))}:${Deno.env.get("PATH")}`;
        const { code, text } = await output([
          which("sbatch")!,
          "--parsable",
          "-D",
          ROOT,
          "-o",
          out,
          `${ROOT}/examples/cluster/${file}`,
        ], { ...env, PATH: path });
        assert.equal(code, 0, text);
        await until(() => over(text.trim()), 20_000);
        assert.match(await read(out), expected);
      });
    }
    await t.step("a time limit's early signal reaches the ranks as SIGUSR2", async () => {
      const { id, out } = await batch([
        `exec ${[...LAUNCH, "--nproc", "2", program("stubborn.ts"), "usr2"].join(" ")}`,
      ]);
      await until(async () => (await read(out)).match(/is up/g)?.length === 2, 20_000);
      // What Slurm sends with --signal=B:USR1@…, without waiting a minute for it.
      await output([which("scancel")!, "-b", "-s", "USR1", id], env);
      await until(async () => (await read(out)).match(/got USR2/g)?.length === 2, 10_000);
      await output([which("scancel")!, id], env);
      await until(() => over(id), 15_000);
    });
    await t.step("scancel ends a job, and nothing of it is left", async () => {
      const mark = crypto.randomUUID();
      const { id, out } = await batch([
        `export TEST_MARK=${mark}`,
        `exec ${[...LAUNCH, "--nproc", "4", program("fault.ts"), "done", "99"].join(" ")}`,
      ], ["-n4"]);
      await until(async () => (await read(out)).match(/is up/g)?.length === 4, 20_000);
      await output([which("scancel")!, id], env);
      await until(() => Promise.resolve(alive(mark).length === 0), 15_000);
      assert.match(await read(out), /received SIGTERM|CANCELLED/);
    });
    await t.step({
      name: `a time limit ends a job, and nothing of it is left${
        SLOW ? "" : " (skipped: SHARDWISE_TEST_ALL=1 runs it)"
      }`,
      ignore: !SLOW,
      fn: async () => {
        const mark = crypto.randomUUID();
        const { id, out } = await batch([
          `export TEST_MARK=${mark}`,
          `exec ${[...LAUNCH, "--nproc", "2", program("fault.ts"), "done", "99"].join(" ")}`,
        ], ["-n2", "--time=1"]);
        await until(async () => (await read(out)).match(/is up/g)?.length === 2, 20_000);
        // Limits are minutes, but a job's end may be moved. Slurm looks at ends twice a minute.
        const moved = await output([which("scontrol")!, "update", `JobId=${id}`, "EndTime=now"], env);
        assert.equal(moved.code, 0, moved.text);
        await until(() => Promise.resolve(alive(mark).length === 0), 90_000);
        await until(() => over(id), 15_000);
        assert.match(await read(out), /DUE TO TIME LIMIT/);
        assert.match(await read(out), /received SIGTERM/);
        assert.match((await output([which("scontrol")!, "show", "job", id], env)).text, /JobState=TIMEOUT/);
      },
    });
    await Deno.remove(dir, { recursive: true });
  },
);
