/** A real, private Slurm of two nodes. The test says what is missing where it cannot run. */
import assert from "node:assert/strict";
import {
  assertDemo,
  assertOneJob,
  assertOneMeeting,
  DEMO,
  ENDLESS,
  everyone,
  LAUNCH,
  output,
  PATH,
  ROOT,
  sharedMemory,
  testWith,
  until,
  WHO,
} from "./cluster.ts";
import { alive, program } from "./harness.ts";
import { slurmMissing, startSlurm, which } from "./slurm.ts";

const RANK = [Deno.execPath(), "run", "-A"];
const WAITING = [program("fault.ts"), "done", "99"];
/** What a job of one node asks for, as both nodes are free. */
const ONE_NODE = ["-N1", "-n4"];

testWith(
  "Slurm: srun's tasks are ranks, a batch script is none, launchers are nodes, and scancel and time limits end all",
  slurmMissing(),
  async (t) => {
    await using slurm = await startSlurm();
    const { env } = slurm;
    const dir = await Deno.makeTempDir();
    const srun = (...args: string[]) => output([which("srun")!, ...args], env);
    const read = (path: string) => Deno.readTextFile(path).catch(() => "");
    const submit = async (out: string, ...args: string[]): Promise<string> => {
      const { code, text } = await output([which("sbatch")!, "--parsable", "-D", ROOT, "-o", out, ...args], {
        ...env,
        PATH,
      });
      assert.equal(code, 0, text);
      return text.trim();
    };
    const batch = async (lines: string[], flags: string[] = []): Promise<{ id: string; out: string; mark: string }> => {
      const out = `${dir}/${crypto.randomUUID()}`, mark = crypto.randomUUID();
      await Deno.writeTextFile(`${out}.sh`, ["#!/bin/sh", `export TEST_MARK=${mark}`, ...lines].join("\n") + "\n");
      return { id: await submit(out, ...flags, `${out}.sh`), out, mark };
    };
    const over = async (id: string) => (await output([which("squeue")!, "-h", "-j", id], env)).text.trim() === "";
    const up = (out: string, ranks: number) =>
      until(async () => (await read(out)).match(/is up/g)?.length === ranks, 60_000);

    // Slurm looks at time limits twice a minute, so this job waits for its limit while the others run. Limits are minutes, but a
    // job's end may be moved.
    const limited = await batch([`exec ${[...LAUNCH, "--nproc", "2", ...WAITING].join(" ")}`], [
      "-N1",
      "-n2",
      "--time=1",
    ]);
    await up(limited.out, 2);
    const moved = await output([which("scontrol")!, "update", `JobId=${limited.id}`, "EndTime=now"], env);
    assert.equal(moved.code, 0, moved.text);

    await t.step("srun starts 4 ranks that know who they are", async () => {
      const { code, text } = await srun(...ONE_NODE, ...WHO);
      assert.equal(code, 0, text);
      assertOneJob(everyone(text), 4, "slurm");
      assert.ok(slurm.nodes.includes(everyone(text)[0]!.masterAddr), text);
    });
    await t.step("ranks of two nodes know their node, also when it has more tasks than the other", async () => {
      const { code, text } = await srun("-N2", "-n4", ...WHO);
      assert.equal(code, 0, text);
      const found = everyone(text);
      assertOneMeeting(found, 4, "slurm");
      assert.deepEqual(found.map((e) => e.nnodes), [2, 2, 2, 2]);
      for (const node of [0, 1]) {
        const here = found.filter((e) => e.nodeRank === node);
        assert.ok(here.length > 0, text);
        assert.deepEqual(here.map((e) => e.localRank), here.map((_, i) => i));
        for (const e of here) assert.equal(e.localWorldSize, here.length);
      }
    });
    await t.step("srun of a launcher on each of two nodes makes one job of 2 + 2 ranks", async () => {
      const launcher = [...LAUNCH, "--nproc", "2", program("barrier.ts"), "all"];
      const { code, text } = await srun("-N2", "--ntasks-per-node=1", ...launcher);
      assert.equal(code, 0, text);
      assert.equal(text.match(/past the barrier of all with 4/g)?.length, 4, text);
    });
    await t.step("a process of the batch script itself is a job of one", async () => {
      const { id, out } = await batch([WHO.join(" ")], ["-n3"]);
      await until(() => over(id), 20_000);
      const found = everyone(await read(out));
      assert.deepEqual([found[0]!.scheme, found[0]!.worldSize], ["single", 1]);
    });
    await t.step("the launcher in a batch script runs a job on its host", async () => {
      const launcher = [...LAUNCH, "--nproc", "4", program("barrier.ts"), "all"].join(" ");
      const { id, out } = await batch([launcher], ["-n4"]);
      await until(() => over(id), 20_000);
      assert.equal((await read(out)).match(/past the barrier of all with 4/g)?.length, 4);
    });
    await t.step("srun runs the demo on 4 tasks", async () => {
      const { code, text } = await srun(...ONE_NODE, "--mpi=none", ...RANK, DEMO);
      assert.equal(code, 0, text);
      assertDemo(text);
    });
    for (const file of ["slurm_ranks.sbatch", "slurm_launchers.sbatch"]) {
      await t.step(`the example ${file} runs as it is, and the demo on 4 ranks`, async () => {
        const [hello, demo] = [`${dir}/${file}.hello`, `${dir}/${file}.demo`];
        const script = `${ROOT}/examples/cluster/${file}`;
        const ids = [await submit(hello, "-N1", script), await submit(demo, "-N1", script, DEMO)];
        for (const id of ids) await until(() => over(id), 60_000);
        assert.match(await read(hello), /rank 3 of 4 .* started by (slurm|shardwise)/);
        assertDemo(await read(demo));
      });
    }
    await t.step("a time limit's early signal reaches the ranks as SIGUSR2", async () => {
      const { id, out } = await batch([
        `exec ${[...LAUNCH, "--nproc", "2", program("stubborn.ts"), "usr2"].join(" ")}`,
      ]);
      await up(out, 2);
      // What Slurm sends with --signal=B:USR1@…, without waiting a minute for it.
      await output([which("scancel")!, "-b", "-s", "USR1", id], env);
      await until(async () => (await read(out)).match(/got USR2/g)?.length === 2, 10_000);
      await output([which("scancel")!, id], env);
      await until(() => over(id), 15_000);
    });
    await t.step("the example's early signal reaches the ranks under srun, and opens no debugger", async () => {
      const example = await read(`${ROOT}/examples/cluster/slurm_launchers.sbatch`);
      const signal = /--signal=(\w+)@/.exec(example)![1]!;
      const command = [which("srun")!, "-n1", ...LAUNCH, "--nproc", "2", program("stubborn.ts"), "usr2"];
      const { id, out } = await batch([`exec ${command.join(" ")}`]);
      await up(out, 2);
      // As before the time limit: to every process of the step.
      await output([which("scancel")!, "-s", signal, id], env);
      const heard = async (rank: number) => (await read(out)).includes(`rank ${rank} got USR2`);
      await until(async () => await heard(0) && await heard(1), 20_000);
      await output([which("scancel")!, id], env);
      await until(() => over(id), 15_000);
      assert.doesNotMatch(await read(out), /Debugger|inspector/);
    });
    for (
      const [who, flags, command] of [
        ["srun's ranks", [], [which("srun")!, "-n4", "--mpi=none", ...RANK]],
        ["a launcher's ranks", [], [...LAUNCH, "--nproc", "4"]],
      ] as const
    ) {
      await t.step(`scancel ends ${who} in the middle of a model's collectives, and nothing is left`, async () => {
        const before = sharedMemory();
        const { id, out, mark } = await batch([`exec ${[...command, ...ENDLESS].join(" ")}`], [...ONE_NODE, ...flags]);
        await up(out, 4);
        await output([which("scancel")!, id], env);
        await until(() => alive(mark).length === 0, 15_000);
        await until(() => over(id), 15_000);
        assert.match(await read(out), /received SIGTERM|CANCELLED/);
        assert.deepEqual(sharedMemory().filter((name) => !before.includes(name) && name.includes(`slurm-${id}-`)), []);
      });
    }
    await t.step("a task that fails ends the other tasks of srun -K1, with its code", async () => {
      const { code, text } = await srun(...ONE_NODE, "-K1", "--mpi=none", ...RANK, program("fault.ts"), "exit:7", "2");
      assert.notEqual(code, 0, text);
      assert.match(text, /task 2: Exited with exit code 7/);
    });
    await t.step("a time limit ends a job, and nothing of it is left", async () => {
      const { id, out, mark } = limited;
      await until(() => alive(mark).length === 0, 90_000);
      await until(() => over(id), 15_000);
      assert.match(await read(out), /DUE TO TIME LIMIT/);
      assert.match(await read(out), /received SIGTERM/);
      assert.match((await output([which("scontrol")!, "show", "job", id], env)).text, /JobState=TIMEOUT/);
    });
    await Deno.remove(dir, { recursive: true });
  },
);
