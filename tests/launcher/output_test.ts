/** What becomes of the ranks' output. */
import assert from "node:assert/strict";
import { assertNothingLeft, program, report, run, start } from "./harness.ts";

const SH = ["--exec", "sh", "-c"];

Deno.test("long lines of several ranks never mix, and each has its rank before it", async () => {
  const result = await run(["--nproc", "4", program("chatter.ts"), "200", "9000"]);
  assert.equal(result.code, 0, result.stderr);
  const lines = result.stdout.trimEnd().split("\n");
  assert.equal(lines.length, 800);
  for (const line of lines) {
    const m = /^\[rank (\d)\] (\d)+$/.exec(line);
    assert.ok(m !== null && line === `[rank ${m[1]}] ${m[1]!.repeat(9000)}`, line.slice(0, 60));
  }
});

Deno.test("a last line without a newline is shown with a mark and does not glue to another rank's", async () => {
  const result = await run(["--nproc", "2", ...SH, "printf 'part of %s' $RANK"]);
  assert.deepEqual(result.stdout.trimEnd().split("\n").sort(), [
    "[rank 0] part of 0 [no newline]",
    "[rank 1] part of 1 [no newline]",
  ]);
});

Deno.test("bytes that are no text pass unchanged", async () => {
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",

      new URL("../../launcher/main.ts", import.meta.url).pathname,
      "--nproc",
      "1",
      ...SH,
      "printf '\\377\\000\\200x\\n'",
    ],
    stdout: "piped",
  });
  const { stdout } = await child.output();
  assert.deepEqual([...stdout], [...new TextEncoder().encode("[rank 0] "), 0xff, 0, 0x80, 0x78, 0x0a]);
});

Deno.test("a reader that goes away does not end the job", async () => {
  const main = new URL("../../launcher/main.ts", import.meta.url).pathname;
  const marker = await Deno.makeTempFile();
  const script =
    `'${Deno.execPath()}' run -A '${main}' --nproc 2 --exec sh -c 'i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo done >> ${marker}' | head -1`;
  const { code } = await new Deno.Command("sh", { args: ["-c", script], stdout: "null" }).output();
  assert.equal(code, 0);
  for (let i = 0; i < 100 && Deno.readTextFileSync(marker) !== "done\ndone\n"; i++) {
    await new Promise((done) => setTimeout(done, 50));
  }
  assert.equal(Deno.readTextFileSync(marker), "done\ndone\n");
  await Deno.remove(marker);
});

Deno.test("--fold shows what ranks have in common once", async () => {
  const script = "echo a warning; [ $RANK = 2 ] && echo only mine; sleep 0.2; printf 'the end'";
  const result = await run(["--nproc", "4", "--fold", ...SH, script]);
  assert.equal(result.code, 0, result.stderr);
  const lines = result.stdout.trimEnd().split("\n");
  assert.equal(lines.filter((line) => line.includes("a warning")).length, 1, result.stdout);
  assert.equal(lines.filter((line) => line.includes("the end [no newline]")).length, 1, result.stdout);
  assert.ok(lines.includes("[rank 2] only mine"), result.stdout);
  assert.ok(lines.some((line) => /^\[rank [0-3,-]+\] same (line|2 lines) as rank \d$/.test(line)), result.stdout);
});

Deno.test("what a slow reader has not read yet is not lost when the ranks have ended", async () => {
  const main = new URL("../../launcher/main.ts", import.meta.url).pathname;
  // More than the launcher queues, and the rest is in the pipe of a rank that has ended.
  const script =
    `'${Deno.execPath()}' run -A '${main}' --exec sh -c 'yes 0123456789 | head -n 54500' | (sleep 2; wc -l)`;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", script] }).output();
  assert.equal(new TextDecoder().decode(stdout).trim(), "54500");
});

for (
  const [what, script, code] of [
    ["a signal ends a job", "yes", 143],
    ["a signal ends a launcher", "yes | head -n 40000", 0],
    ["a failure ends a job", "yes | head -n 2000000 & sleep 1; exit 3", 3],
  ] as const
) {
  Deno.test(`${what} whose output nobody reads`, async () => {
    const mark = crypto.randomUUID(), main = new URL("../../launcher/main.ts", import.meta.url).pathname;
    const launcher = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", main, "--nproc", "2", ...SH, script],
      env: { TEST_MARK: mark },
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    await new Promise((done) => setTimeout(done, 1500));
    launcher.kill("SIGTERM");
    assert.equal((await launcher.status).code, code);
    await launcher.stdout.cancel();
    await assertNothingLeft({ pid: launcher.pid, mark });
  });
}

Deno.test("--rank0 passes the bytes of rank 0 on at once, without a prefix or a newline", async () => {
  const job = start([
    "--nproc",
    "2",
    "--rank0",
    ...SH,
    "if [ $RANK = 0 ]; then printf token; sleep 0.5; echo; else echo hidden; fi",
  ]);
  await job.said("token");
  const early = performance.now();
  const result = await job.done;
  assert.ok(performance.now() - early > 200, "the token came with the end of the line only");
  assert.equal(result.stdout, "token\n");
});

Deno.test("--rank0 and --quiet hide other ranks, but a failing one's last lines are in the report", async () => {
  for (const flag of ["--rank0", "--quiet"]) {
    const result = await run([
      "--nproc",
      "2",
      flag,
      ...SH,
      'if [ $RANK = 1 ]; then echo "the reason" >&2; exit 3; fi; sleep 20',
    ]);
    assert.equal(result.code, 3);
    assert.equal(result.stdout, "");
    assert.match(report(result).join("\n"), /rank 1 stderr \(last 1 lines\):\n {4}the reason/);
  }
});

Deno.test("--show-ranks, --prefix and --timestamps say which lines are shown and how", async () => {
  const result = await run([
    "--nproc",
    "4",
    "--show-ranks",
    "0,2-3",
    "--prefix",
    "<{rank}/{local}@{stream}> ",
    "--timestamps",
    ...SH,
    "echo out; echo err >&2",
  ]);
  assert.deepEqual(
    result.stdout.trimEnd().split("\n").map((line) => line.replace(/^\d\d:\d\d:\d\d\.\d{3} /, "")).sort(),
    [0, 2, 3].map((r) => `<${r}/${r}@stdout> out`),
  );
  assert.match(result.stderr, /^\d\d:\d\d:\d\d\.\d{3} <0\/0@stderr> err$/m);
});

Deno.test("--log-dir keeps each rank's streams and a summary that names the cause", async () => {
  const dir = await Deno.makeTempDir();
  const result = await run(["--nproc", "2", "--quiet", "--log-dir", dir, program("fault.ts"), "throw", "1"]);
  const [job] = [...Deno.readDirSync(dir)].map((entry) => entry.name);
  const read = (path: string) => Deno.readTextFileSync(`${dir}/${job}/${path}`);
  assert.match(read("attempt_0/0/stdout.log"), /^rank 0 is up\n$/);
  assert.match(read("attempt_0/1/stderr.log"), /TypeError: x is undefined/);
  assert.equal(JSON.parse(read("attempt_0/1/error.json")).kind, "exception");
  const summary = JSON.parse(read("summary.json"));
  assert.equal(summary.exitCode, 1);
  assert.equal(summary.state, "failed");
  assert.equal(summary.cause.rank, 1);
  assert.equal(summary.cause.message, "TypeError: x is undefined");
  assert.deepEqual(summary.ranks.map((r: { kind: string }) => r.kind), ["stopped", "failed"]);
  assert.match(report(result)[0]!, new RegExp(`logs: ${dir}/`));
  await Deno.remove(dir, { recursive: true });
});

Deno.test("--tee stdout logs that stream only", async () => {
  const dir = await Deno.makeTempDir();
  await run(["--nproc", "1", "--log-dir", dir, "--tee", "stdout", ...SH, "echo out; echo err >&2"]);
  const [job] = [...Deno.readDirSync(dir)].map((entry) => entry.name);
  assert.deepEqual([...Deno.readDirSync(`${dir}/${job}/attempt_0/0`)].map((entry) => entry.name), ["stdout.log"]);
  await Deno.remove(dir, { recursive: true });
});

Deno.test("a full disk ends the logging, not the job", async (t) => {
  const dir = await Deno.makeTempDir();
  const mount = await new Deno.Command("mount", {
    args: ["-t", "tmpfs", "-o", "size=64k", "tmpfs", dir],
    stderr: "piped",
  }).output().catch(() => undefined);
  if (mount?.code !== 0) {
    await t.step({ name: "skipped: a small tmpfs cannot be mounted here", ignore: true, fn: () => {} });
    await Deno.remove(dir);
    return;
  }
  try {
    const result = await run(["--nproc", "2", "--quiet", "--log-dir", dir, program("chatter.ts"), "200", "1000"]);
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stderr, /logging stops, the job goes on: cannot write .*No space left/);
  } finally {
    await new Deno.Command("umount", { args: [dir] }).output();
    await Deno.remove(dir);
  }
});

Deno.test("standard input goes to the only rank, or to the one that --stdin names", async () => {
  assert.equal((await run(["--nproc", "1", ...SH, "cat"], { stdin: "hello\n" })).stdout, "[rank 0] hello\n");
  assert.equal(
    (await run(["--nproc", "2", "--stdin", "1", ...SH, "cat"], { stdin: "hello\n" })).stdout,
    "[rank 1] hello\n",
  );
  assert.equal((await run(["--nproc", "2", ...SH, "cat"], { stdin: "hello\n" })).stdout, "");
});
