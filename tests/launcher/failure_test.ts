/** The failure contract: each way in which a rank can end, by a real process, and what the launcher makes of it. */
import assert from "node:assert/strict";
import { causeLine, patience, program, report, run } from "./harness.ts";

const FAULT = program("fault.ts");

const TABLE: [name: string, mode: string, code: number, cause: RegExp][] = [
  ["exits with a code", "exit:3", 3, /rank 1 .*exited with code 3/],
  ["throws", "throw", 1, /rank 1 .*TypeError: x is undefined/],
  ["throws in a timer", "timer", 1, /rank 1 .*TypeError: x is undefined/],
  ["leaves a rejection unhandled", "reject", 1, /rank 1 .*RangeError: nobody catches this/],
  ["fails to import at run time", "import", 1, /rank 1 .*does_not_exist/],
  ["crashes natively", "crash", 139, /rank 1 .*native crash: SIGSEGV/],
  ["is killed by somebody", "signal:SIGKILL", 137, /rank 1 .*killed by (SIGKILL|the kernel)/],
  ["aborts", "signal:SIGABRT", 134, /rank 1 .*native crash: SIGABRT/],
  ["is ended by somebody's SIGTERM", "signal:SIGTERM", 143, /rank 1 .*ended by SIGTERM/],
  ["reports a collective that timed out", "collective", 115, /rank 1 .*rank 2 is missing after 60 s/],
  ["leaves children in and outside of its group", "grandchild", 5, /rank 1 .*exited with code 5/],
  ["throws and hangs in a native library's exit", "hang-in-exit:throw", 1, /rank 1 .*TypeError: x is undefined/],
  ["exits and hangs in a native library's exit", "hang-in-exit:exit", 6, /rank 1 .*exited with code 6/],
  ["leaves shared memory", "leave-shm", 9, /rank 1 .*exited with code 9/],
];

for (const [name, mode, code, cause] of TABLE) {
  Deno.test(`a rank that ${name} ends its job with ${code}, named as the cause, and nothing is left`, async () => {
    const result = await run(["--nproc", "3", FAULT, mode, "1", "50"]);
    assert.equal(result.code, code, result.stderr);
    assert.match(causeLine(result), cause);
    assert.ok(report(result).some((line) => /^ {2}stopped rank 0,2 /.test(line)), result.stderr);
    assert.ok(result.ms < patience(4000), `it took ${result.ms} ms`);
  });
}

Deno.test("the report shows the user's own stack and the last lines of stderr", async () => {
  const result = await run(["--nproc", "2", FAULT, "throw", "0"]);
  const text = report(result).join("\n");
  assert.match(text, /at deep \(.*fault\.ts:\d+:\d+\)/);
  assert.match(text, /rank 0 stderr \(last \d+ lines\):\n.*TypeError: x is undefined/s);
});

Deno.test("a rank that runs out of heap ends the job with a hint on the heap's size", async () => {
  const result = await run(["--nproc", "2", "--deno-args=--v8-flags=--max-old-space-size=40", FAULT, "oom", "1"]);
  assert.equal(result.code, 133, result.stderr);
  assert.match(causeLine(result), /rank 1 .*V8 ran out of memory/);
  assert.match(report(result).at(-1)!, /max-old-space-size/);
});

Deno.test("a broken import is the cause although no code of the rank ever ran", async () => {
  const result = await run(["--nproc", "2", program("broken_import.ts")]);
  assert.equal(result.code, 1);
  assert.match(causeLine(result), /Module not found .*does_not_exist/);
});

Deno.test("an error that the program handles itself does not end its rank a second later", async () => {
  const result = await run(["--nproc", "1", FAULT, "handled", "0"]);
  assert.equal(result.code, 0, result.stderr);
  assert.match(result.stdout, /went on/);
});

Deno.test("ranks that lost a peer are victims, never the cause", async () => {
  const result = await run(["--nproc", "4", FAULT, "victims", "2", "50"]);
  assert.equal(result.code, 139, result.stderr);
  assert.match(causeLine(result), /rank 2 .*native crash: SIGSEGV/);
});

Deno.test("a cause that ends after its victims is still the cause", async () => {
  const result = await run(["--nproc", "3", FAULT, "late-cause", "1", "0"]);
  assert.equal(result.code, 139, result.stderr);
  assert.match(causeLine(result), /rank 1 .*native crash: SIGSEGV/);
  assert.ok(
    report(result).some((line) => /^ {2}victims rank 0,2 .*lost rank 1 in tp#allReduce/.test(line)),
    result.stderr,
  );
});

Deno.test("the same clean error of all ranks is said once, with its hint and without a report", async () => {
  const result = await run(["--nproc", "3", FAULT, "user", "all"]);
  assert.equal(result.code, 3);
  assert.equal(result.stderr, "error: no model called gpt\nhint: give a .onnx file\n");
});

Deno.test("a clean error is not restarted, a crash is, with a new attempt number, once per job", async () => {
  const user = await run(["--nproc", "2", "--max-restarts", "3", FAULT, "user", "all"]);
  assert.equal(user.code, 3);
  assert.doesNotMatch(user.stderr, /restarting/);
  const script = 'echo "attempt $SHARDWISE_ATTEMPT rank $RANK"; [ "$SHARDWISE_ATTEMPT" = 2 ] || exit 4';
  const crash = await run(["--nproc", "2", "--max-restarts", "2", "--exec", "sh", "-c", script]);
  assert.equal(crash.code, 0, crash.stderr);
  assert.match(crash.stdout, /attempt 2 rank 1/);
  assert.equal(crash.stderr.match(/restarting/g)?.length, 2);
  const hopeless = await run(["--nproc", "2", "--max-restarts", "1", "--exec", "sh", "-c", "exit 4"]);
  assert.equal(hopeless.code, 4);
  assert.match(report(hopeless)[0]!, /attempt 2/);
});

Deno.test("--on-failure continue lets the others finish, and still returns the failing rank's code", async () => {
  const result = await run([
    "--nproc",
    "2",
    "--on-failure",
    "continue",
    "--exec",
    "sh",
    "-c",
    "if [ $RANK = 0 ]; then exit 6; fi; sleep 0.3; echo finished",
  ]);
  assert.equal(result.code, 6);
  assert.match(result.stdout, /\[rank 1\] finished/);
});

Deno.test("--linger ends a job whose ranks run on after one ended normally", async () => {
  const result = await run(["--nproc", "2", "--linger", "300ms", FAULT, "done", "0"]);
  assert.equal(result.code, 1, result.stderr);
  assert.match(causeLine(result), /rank 0 ended normally .* rank 1 still run/);
});

Deno.test("--timeout ends the job with 124 and says how far ranks were", async () => {
  const result = await run(["--nproc", "2", "--timeout", "500ms", FAULT, "done", "9"]);
  assert.equal(result.code, 124, result.stderr);
  assert.match(causeLine(result), /longer than --timeout/);
  assert.ok(report(result).some((line) => /stopped rank 0-1/.test(line)));
});

Deno.test("a program that does not exist is one clear error", async () => {
  const missing = await run(["--nproc", "3", "--exec", "/no/such/program"]);
  assert.notEqual(missing.code, 0);
  assert.match(missing.stderr, /\/no\/such\/program/);
  const script = await run(["--nproc", "3", "no_such_script.ts"]);
  assert.equal(script.code, 64);
  assert.match(script.stderr, /^error: Cannot run "no_such_script.ts": there is no such file here\n {2}hint: /);
});
