/**
 * Kill tests: a job that generates text, in which each rank in turn is killed, throws or exits, at the start, in the middle of a
 * collective and at the end; and one whose launcher is killed. The launcher must end in time, name the cause, return its code
 * (docs/exit-codes.md), and leave nothing.
 */
import assert from "node:assert/strict";
import { alive, assertNothingLeft, causeLine, patience, type Run, run, start } from "../launcher/harness.ts";

const PROGRAM = new URL("programs/generate.ts", import.meta.url).pathname;
const RANKS = 3;
/** From the fault to the end of the launcher, on a machine without other work. */
const WITHIN_MS = 2000;

const MODES: readonly (readonly [mode: string, code: number, cause: (rank: number) => RegExp])[] = [
  ["kill", 137, (rank) => new RegExp(`rank ${rank} .*killed by (SIGKILL|the kernel)`)],
  ["throw", 1, (rank) => new RegExp(`rank ${rank} .*TypeError: fault at the`)],
  ["exit", 7, (rank) => new RegExp(`rank ${rank} .*exited with code 7`)],
];

for (const moment of ["start", "middle", "end"]) {
  for (const [mode, code, cause] of MODES) {
    Deno.test(`a job of which any rank meets its end by ${mode} at the ${moment} ends with ${code} and names that rank`, async () => {
      for (let rank = 0; rank < RANKS; rank++) {
        const result = await endedInTime(["--nproc", String(RANKS), PROGRAM, moment, mode, String(rank)]);
        assert.equal(result.code, code, `rank ${rank}: ${result.stderr}`);
        assert.match(causeLine(result), cause(rank));
      }
    });
  }
}

/** Runs a job to its end; from the first death of a rank to the end of the launcher it may take 2 s. */
async function endedInTime(args: readonly string[]): Promise<Run> {
  const job = start(args, { limitMs: 120_000 });
  const seen = new Set<number>();
  let firstDeath: number | undefined, done = false;
  const watching = (async () => {
    while (!done) {
      const ranks = alive(job.mark).filter(isRank);
      if ([...seen].some((pid) => !ranks.includes(pid))) firstDeath ??= performance.now();
      ranks.forEach((pid) => seen.add(pid));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })();
  const result = await job.done;
  const ended = performance.now();
  done = true;
  await watching;
  assert.ok(
    ended - (firstDeath ?? ended) < patience(WITHIN_MS),
    `it took ${ended - firstDeath!} ms from the first death:\n${result.stdout}${result.stderr}`,
  );
  await assertNothingLeft(job);
  return result;
}

/** Whether a process of the job is a rank, and not the launcher or a tool that it starts. */
function isRank(pid: number): boolean {
  try {
    return Deno.readTextFileSync(`/proc/${pid}/environ`).split("\0").some((v) => v.startsWith("RANK="));
  } catch {
    return false;
  }
}

Deno.test("a job whose launcher is killed leaves no process, and the next launcher sweeps its memory away", async () => {
  const job = start(["--nproc", String(RANKS), PROGRAM, "never", "none", "0"], { limitMs: 120_000 });
  await job.said("is up", RANKS);
  const struck = performance.now();
  job.kill("SIGKILL");
  while (alive(job.mark).length > 0) {
    assert.ok(performance.now() - struck < patience(WITHIN_MS), `${alive(job.mark).length} processes are left`);
    await new Promise((done) => setTimeout(done, 10));
  }
  await run(["--nproc", "1", "--exec", "true"]);
  await assertNothingLeft(job);
});
