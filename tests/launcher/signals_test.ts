/** Signals to the launcher, its death, and ranks that do not want to end. */
import assert from "node:assert/strict";
import { alive, assertNothingLeft, causeLine, files, patience, program, report, run, start } from "./harness.ts";

const FAULT = program("fault.ts"), STUBBORN = program("stubborn.ts");
/** Ranks that wait. */
const WAITING = [FAULT, "done", "99"];

async function gone(mark: string, withinMs: number): Promise<void> {
  const deadline = performance.now() + patience(withinMs);
  while (alive(mark).length > 0 && performance.now() < deadline) await new Promise((done) => setTimeout(done, 10));
  assert.deepEqual(alive(mark), []);
}

Deno.test("a launcher that is killed by SIGKILL takes its ranks along, and the next job removes what it left", async () => {
  const job = start(["--nproc", "3", FAULT, "leave-shm", "99"]);
  await job.said("is up", 3);
  assert.equal(files(job.pid).filter((path) => path.startsWith("/dev/shm")).length, 3);
  job.kill("SIGKILL");
  await gone(job.mark, 1000);
  await job.done;
  await run(["--nproc", "1", "--exec", "true"]);
  await assertNothingLeft(job);
});

Deno.test("a launcher that is killed takes ranks along that are blocked in native code", async () => {
  const job = start(["--nproc", "2", STUBBORN, "block"]);
  await job.said("is up", 2);
  job.kill("SIGKILL");
  await gone(job.mark, 1000);
  await job.done;
  await run(["--nproc", "1", "--exec", "true"]);
  await assertNothingLeft(job);
});

Deno.test("ranks without the permission to call native code die with their launcher too", async () => {
  const job = start(["--nproc", "2", "--deno-args=--allow-env --allow-read", ...WAITING]);
  await job.said("is up", 2);
  job.kill("SIGKILL");
  await gone(job.mark, 1000);
  await job.done;
  await run(["--nproc", "1", "--exec", "true"]);
  await assertNothingLeft(job);
});

Deno.test("programs of --exec die with their launcher too", async () => {
  const job = start(["--nproc", "2", "--exec", "sh", "-c", "echo is up; exec sleep 60"]);
  await job.said("is up", 2);
  job.kill("SIGKILL");
  await gone(job.mark, 1000);
  await job.done;
  await run(["--nproc", "1", "--exec", "true"]);
  await assertNothingLeft(job);
});

Deno.test("where setpriv is missing the shim becomes the program, and the kernel ends it with its launcher", async () => {
  const shim = new URL("../../launcher/exec_shim.ts", import.meta.url).pathname;
  const mark = crypto.randomUUID();
  const parent = `const child = new Deno.Command(Deno.execPath(), { args: ["run", "-A", ${
    JSON.stringify(shim)
  }, "sh", "-c", "echo shim $0 $1; exec sleep 60", "a b", "c"],
    env: { SHARDWISE_LAUNCHER_PID: String(Deno.pid) } }).spawn(); await child.status;`;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["eval", parent],
    env: { TEST_MARK: mark },
    stdout: "piped",
  }).spawn();
  const reader = process.stdout.getReader();
  assert.equal(new TextDecoder().decode((await reader.read()).value), "shim a b c\n");
  assert.equal(alive(mark).length, 2);
  process.kill("SIGKILL");
  await process.status;
  await gone(mark, 1000);
  await reader.cancel();
  const missing = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", shim, "/no/such"],
    env: { SHARDWISE_LAUNCHER_PID: String(Deno.pid) },
    stderr: "piped",
  }).output();
  assert.equal(missing.code, 127);
  assert.match(new TextDecoder().decode(missing.stderr), /Cannot start \/no\/such/);
});

Deno.test("children of ranks that outlived a killed launcher are ended by the next one on the host", async () => {
  // Any launcher that looks into the same folder ends them, and other tests run at the same time: so this job has its own.
  const dir = await Deno.makeTempDir(), env = { TMPDIR: dir };
  const job = start(["--nproc", "2", "--exec", "sh", "-c", "setsid sleep 60 & echo is up; wait"], { env });
  await job.said("is up", 2);
  job.kill("SIGKILL");
  // Children hold the launcher's pipes no longer than themselves, so its end is awaited last.
  await new Promise((done) => setTimeout(done, 200));
  assert.equal(alive(job.mark).length, 2, "children in sessions of their own outlive their ranks");
  await run(["--nproc", "1", "--exec", "true"], { env });
  await gone(job.mark, 1000);
  await job.done;
  await assertNothingLeft(job);
  assert.deepEqual([...Deno.readDirSync(dir)], []);
  await Deno.remove(dir);
});

Deno.test("cleaning up after dead jobs leaves a live job's shared memory alone", async () => {
  const job = start(["--nproc", "2", FAULT, "leave-shm", "99"]);
  await job.said("is up", 2);
  await run(["--nproc", "1", "--exec", "true"]);
  assert.equal(files(job.pid).filter((path) => path.startsWith("/dev/shm")).length, 2);
  job.kill("SIGTERM");
  await job.done;
  await assertNothingLeft(job);
});

for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGQUIT", 131]] as const) {
  Deno.test(`${signal} to the launcher ends the job with ${code}`, async () => {
    const job = start(["--nproc", "2", ...WAITING]);
    await job.said("is up", 2);
    job.kill(signal);
    const result = await job.done;
    assert.equal(result.code, code, result.stderr);
    assert.match(causeLine(result), new RegExp(`received ${signal}`));
    await assertNothingLeft(job);
  });
}

Deno.test("a job of which ranks hear SIGTERM before the launcher does, as under Slurm, was stopped and did not fail", async () => {
  const job = start(["--nproc", "2", ...WAITING]);
  await job.said("is up", 2);
  for (const pid of alive(job.mark)) if (pid !== job.pid) Deno.kill(pid, "SIGTERM");
  await new Promise((done) => setTimeout(done, 50));
  job.kill("SIGTERM");
  const ended = await job.done;
  assert.equal(ended.code, 143, ended.stderr);
  assert.match(ended.stderr, /STOPPED after/);
  assert.match(causeLine(ended), /received SIGTERM/);
  await assertNothingLeft(job);
});

Deno.test("a rank that somebody else ends by SIGTERM has failed", async () => {
  const job = start(["--nproc", "2", ...WAITING]);
  await job.said("is up", 2);
  Deno.kill(alive(job.mark).find((pid) => pid !== job.pid)!, "SIGTERM");
  const ended = await job.done;
  assert.match(ended.stderr, /FAILED after/);
  assert.match(causeLine(ended), /ended by SIGTERM/);
  await assertNothingLeft(job);
});

Deno.test("a second Ctrl-C kills ranks that ignore the first one, long before the grace period ends", async () => {
  const job = start(["--nproc", "2", STUBBORN, "ignore"]);
  await job.said("is up", 2);
  job.kill("SIGINT");
  await job.said("rank 1 ignores it");
  // An echo of the first one, as `deno task` makes it, would come at once.
  await new Promise((done) => setTimeout(done, 400));
  const begun = performance.now();
  job.kill("SIGINT");
  const result = await job.done;
  assert.ok(performance.now() - begun < patience(3000));
  assert.equal(result.code, 130);
  assert.ok(report(result).some((line) => /^ {2}killed {2}rank 1 /.test(line)), result.stderr);
  await assertNothingLeft(job);
});

Deno.test("one Ctrl-C that arrives twice, as through `deno task`, still leaves ranks their grace period", async () => {
  const job = start(["--nproc", "2", "--grace", "700ms", STUBBORN, "ignore"]);
  await job.said("is up", 2);
  job.kill("SIGINT");
  await job.said("rank 1 ignores it");
  const begun = performance.now();
  job.kill("SIGINT");
  const result = await job.done;
  assert.ok(performance.now() - begun > 400, "the echo killed the ranks");
  assert.ok(
    report(result).some((line) => /^ {2}killed {2}rank 1 .*did not end within 0\.700 s/.test(line)),
    result.stderr,
  );
  await assertNothingLeft(job);
});

Deno.test("a rank that ignores SIGTERM is killed when --grace is over", async () => {
  const job = start(["--nproc", "2", "--grace", "500ms", STUBBORN, "ignore"]);
  await job.said("is up", 2);
  job.kill("SIGTERM");
  const result = await job.done;
  assert.equal(result.code, 143);
  assert.ok(report(result).some((line) => /^ {2}killed {2}rank 1 .*0\.500 s of SIGTERM/.test(line)), result.stderr);
  await assertNothingLeft(job);
});

Deno.test("a rank that ignores SIGTERM is killed before Slurm's time limit kills the launcher, whatever --grace says", async () => {
  // Slurm kills 30 s after the limit, and 2 s are for the report: 1 s is left.
  const limit = Math.floor(Date.now() / 1000) - 27;
  const job = start(["--nproc", "2", "--grace", "15s", STUBBORN, "ignore"], {
    env: { SLURM_JOB_END_TIME: String(limit) },
  });
  await job.said("is up", 2);
  job.kill("SIGTERM");
  const result = await job.done;
  assert.match(result.stderr, /ranks have [01]\.\d s to end, not 15: Slurm's time limit comes first/);
  assert.match(result.stderr, /killed +rank 1/);
  assert.ok(result.ms < patience(10_000), `${result.ms} ms`);
  await assertNothingLeft(job);
});

Deno.test("ranks that are blocked in native code are killed when --grace is over", async () => {
  const job = start(["--nproc", "2", "--grace", "300ms", STUBBORN, "block"]);
  await job.said("is up", 2);
  job.kill("SIGTERM");
  assert.equal((await job.done).code, 143);
  await assertNothingLeft(job);
});

Deno.test("a stopped rank is ended like any other", async () => {
  const job = start(["--nproc", "2", ...WAITING]);
  await job.said("is up", 2);
  const rank = alive(job.mark).find((pid) => pid !== job.pid)!;
  Deno.kill(rank, "SIGSTOP");
  job.kill("SIGTERM");
  const result = await job.done;
  assert.equal(result.code, 143);
  assert.ok(result.ms < patience(5000));
  await assertNothingLeft(job);
});

Deno.test("ranks that save their state on SIGTERM and end with 75 ask for a requeue", async () => {
  const job = start(["--nproc", "2", STUBBORN, "save"]);
  await job.said("is up", 2);
  job.kill("SIGTERM");
  const result = await job.done;
  assert.equal(result.code, 75, result.stderr);
  assert.match(result.stdout, /rank 0 saved/);
  await assertNothingLeft(job);
});

Deno.test("SIGUSR1 and SIGUSR2 reach the ranks as SIGUSR2 and end nobody", async () => {
  const job = start(["--nproc", "2", STUBBORN, "usr2"]);
  await job.said("is up", 2);
  job.kill("SIGUSR2");
  await job.said("got USR2", 2);
  job.kill("SIGUSR1");
  await job.said("got USR2", 4);
  job.kill("SIGTERM");
  assert.equal((await job.done).code, 143);
  await assertNothingLeft(job);
});

Deno.test("--notify-signals and --stop-signals say which signal does what", async () => {
  const script = 'trap "echo heard TERM" TERM; echo is up; while :; do sleep 0.05; done';
  const flags = ["--notify-signals", "TERM", "--stop-signals", "SIGUSR1,INT", "--grace", "300ms"];
  const job = start(["--nproc", "2", ...flags, "--exec", "sh", "-c", script]);
  await job.said("is up", 2);
  job.kill("SIGTERM");
  await job.said("heard TERM", 2);
  job.kill("SIGUSR1");
  const result = await job.done;
  assert.equal(result.code, 138, result.stderr);
  assert.match(causeLine(result), /received SIGUSR1/);
  await assertNothingLeft(job);
});

Deno.test("SIGUSR2 does not end a rank that has no listener for it", async () => {
  const job = start(["--nproc", "2", ...WAITING]);
  await job.said("is up", 2);
  job.kill("SIGUSR2");
  await new Promise((done) => setTimeout(done, 300));
  job.kill("SIGTERM");
  assert.equal((await job.done).code, 143);
  await assertNothingLeft(job);
});

Deno.test("Ctrl-Z stops the ranks with the launcher, and SIGCONT continues all", async () => {
  const job = start(["--nproc", "2", ...WAITING]);
  await job.said("is up", 2);
  const states = () =>
    alive(job.mark).map((pid) => Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) (.).*$/s, "$1")).sort();
  const until = async (stopped: boolean) => {
    for (let i = 0; i < 100 && states().some((state) => (state === "T") !== stopped); i++) {
      await new Promise((done) => setTimeout(done, 20));
    }
    assert.equal(states().every((state) => (state === "T") === stopped), true, states().join());
  };
  job.kill("SIGTSTP");
  await until(true);
  job.kill("SIGCONT");
  await until(false);
  job.kill("SIGTERM");
  assert.equal((await job.done).code, 143);
  await assertNothingLeft(job);
});

Deno.test("SIGHUP does not end a job without a terminal", async () => {
  const job = start(["--nproc", "2", ...WAITING]);
  await job.said("is up", 2);
  job.kill("SIGHUP");
  await new Promise((done) => setTimeout(done, 300));
  assert.ok(alive(job.mark).length >= 3);
  job.kill("SIGTERM");
  assert.equal((await job.done).code, 143);
  await assertNothingLeft(job);
});

Deno.test("killing `deno task` ends the job that it started", async () => {
  const root = new URL("../..", import.meta.url).pathname;
  const command = [Deno.execPath(), "task", "--quiet", "--config", `${root}deno.json`, "launch"];
  const job = start(["--nproc", "2", ...WAITING], { command });
  await job.said("is up", 2);
  // The launcher asks for this once its ranks run.
  await new Promise((done) => setTimeout(done, 500));
  job.kill("SIGKILL");
  await gone(job.mark, 3000);
  await job.done;
});

Deno.test("Ctrl-C while a failed attempt is being ended keeps the job from being started again", async () => {
  const script =
    'echo is up; [ $RANK = 0 ] || { trap "echo holds on" TERM; while :; do sleep 0.1; done; }; sleep 0.3; exit 4';
  const job = start(["--nproc", "2", "--max-restarts", "3", "--exec", "sh", "-c", script]);
  await job.said("holds on");
  job.kill("SIGINT");
  const result = await job.done;
  assert.equal(result.code, 4, result.stderr);
  assert.doesNotMatch(result.stderr, /restarting/);
  await assertNothingLeft(job);
});

Deno.test("a signal before the ranks are started ends the launcher and starts none", async () => {
  for (const delay of [60, 90, 120, 200]) {
    const job = start(["--nproc", "2", ...WAITING]);
    await new Promise((done) => setTimeout(done, delay));
    job.kill("SIGINT");
    const result = await job.done;
    assert.ok(result.code === 130 || result.signal === "SIGINT", `${result.code} ${result.stderr}`);
    await assertNothingLeft(job);
  }
});

Deno.test("two jobs at once on one host do not meet", async () => {
  const script = program("barrier.ts");
  const [a, b] = await Promise.all([run(["--nproc", "3", script, "a"]), run(["--nproc", "2", script, "b"])]);
  assert.equal(a.code, 0, a.stderr);
  assert.equal(b.code, 0, b.stderr);
  assert.equal(a.stdout.match(/past the barrier of a with 3/g)?.length, 3);
  assert.equal(b.stdout.match(/past the barrier of b with 2/g)?.length, 2);
});
