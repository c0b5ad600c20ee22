/**
 * Short jobs with a random fault at a random time. Each ends within 2 s of its fault, with the right cause in summary.json, and leaves
 * nothing. CHAOS_JOBS sets how many (default 200), CHAOS_SEED replays a run.
 */
import assert from "node:assert/strict";
import type { Summary } from "../../launcher/summary.ts";
import { assertNothingLeft, patience, program, run, start } from "./harness.ts";

/** A fault: what the rank does, and what the summary has to say of it. */
const FAULTS: readonly (readonly [mode: string, code: number, message: RegExp])[] = [
  ["exit:3", 3, /exited with code 3/],
  ["exit:77", 77, /exited with code 77/],
  ["throw", 1, /x is undefined/],
  ["timer", 1, /x is undefined/],
  ["reject", 1, /nobody catches this/],
  ["import", 1, /does_not_exist/],
  ["crash", 139, /SIGSEGV/],
  ["signal:SIGKILL", 137, /SIGKILL|out of memory/],
  ["signal:SIGABRT", 134, /SIGABRT/],
  ["victims", 139, /SIGSEGV/],
  ["late-cause", 139, /SIGSEGV/],
  ["grandchild", 5, /exited with code 5/],
  ["leave-shm", 9, /exited with code 9/],
  ["launcher:SIGKILL", -1, /./],
  ["launcher:SIGTERM", 143, /./],
  ["launcher:SIGINT", 130, /./],
];

/** Numbers in [0, 1) from a seed (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const jobs = Number(Deno.env.get("CHAOS_JOBS") ?? 200);
const seed = Number(Deno.env.get("CHAOS_SEED") ?? 20_261_124);

Deno.test(`${jobs} jobs with a random fault (seed ${seed}) end in time, name their cause and leave nothing`, async () => {
  const next = random(seed), below = (n: number) => Math.floor(next() * n);
  const dir = await Deno.makeTempDir();
  for (let i = 0; i < jobs; i++) {
    // Every fault comes up before any comes up twice.
    const [mode, code, message] = FAULTS[i < FAULTS.length ? i : below(FAULTS.length)]!;
    const nproc = 1 + below(4), rank = below(nproc), delay = below(300);
    const what = `job ${i} of seed ${seed}: ${mode} on rank ${rank} of ${nproc} after ${delay} ms`;
    const logs = `${dir}/${i}`;
    const flags = ["--nproc", String(nproc), "--quiet", "--log-dir", logs, "--grace", "5s"];
    if (mode.startsWith("launcher:")) {
      const job = start([...flags, program("fault.ts"), "leave-shm", "99"]);
      await job.said("logs in");
      await new Promise((done) => setTimeout(done, delay));
      const struck = performance.now();
      job.kill(mode.split(":")[1] as Deno.Signal);
      const { code: found } = await job.done;
      assert.ok(performance.now() - struck < patience(2000), what);
      if (code < 0) await run(["--nproc", "1", "--exec", "true"]);
      else assert.equal(found, code, what);
      await assertNothingLeft(job);
      continue;
    }
    const result = await run([...flags, program("fault.ts"), mode, String(rank), String(delay)]);
    assert.equal(result.code, code, `${what}\n${result.stderr}`);
    const [job] = [...Deno.readDirSync(logs)].map((entry) => entry.name);
    const summary = JSON.parse(Deno.readTextFileSync(`${logs}/${job}/summary.json`)) as Summary;
    assert.equal(summary.exitCode, code, what);
    const end = summary.elapsedMs - summary.cause!.atMs!;
    assert.ok(end < patience(2000), `${what}: it ended ${end} ms after its cause`);
    assert.equal(summary.cause?.rank, rank, what);
    assert.match(summary.cause!.message, message, what);
  }
  await Deno.remove(dir, { recursive: true });
});
