/** What `shardwise flight` makes of the dumps of ranks that were really killed, hung or disagreed. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { startRanks } from "../support/ranks.ts";

const FAULTS = new URL("./programs/faults.ts", import.meta.url), CLI = new URL("../../cli/main.ts", import.meta.url);
const LAUNCHER = new URL("../../launcher/main.ts", import.meta.url);

Deno.test("the dumps of the survivors name a killed rank, and what it did last", async () => {
  const text = await flightOf("killed", "reduce");
  assert.match(text, /2 of 3 ranks left a dump/);
  assert.match(
    text,
    /rank 2 is missing at collective 2, reduce sum f32\[100000\] root 0, where ranks 0, 1 wait; its last was 1, barrier, as the others saw/,
  );
  assert.match(text, /rank 2 left no dump/);
});

Deno.test("the dumps of ranks that called different collectives tell the sides apart", async () => {
  const text = await flightOf("mismatch", "allGather");
  assert.match(text, /3 of 3 ranks left a dump/);
  assert.match(
    text,
    /world: ranks disagree at collective 2: ranks 0, 1 allGather f32\[300000\]; rank 2 allReduce max i32\[7\]/,
  );
});

Deno.test("a rank that hangs outside of collectives is missing in the dumps of the others", async () => {
  const text = await flightOf("hangs", "barrier");
  assert.match(text, /CollectiveTimeout/);
  assert.match(
    text,
    /rank 2 is missing at collective 2, barrier, where ranks 0, 1 wait; its last was 1, barrier, as the others saw/,
  );
});

Deno.test("under the launcher, dumps lie in the ranks' log folders, and a signal to it makes them", async () => {
  const logs = await Deno.makeTempDir();
  try {
    const child = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        LAUNCHER.pathname,
        "--nproc",
        "2",
        "--log-dir",
        logs,
        new URL("./programs/waits.ts", import.meta.url).pathname,
      ],
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      env: { NO_COLOR: "1" },
    }).spawn();
    const output = child.output();
    await watch(logs, "waiting"); // rank 1 waits for rank 0
    child.kill("SIGUSR2");
    const { code, stderr } = await output;
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    const text = await flight(logs);
    assert.match(text, /2 of 2 ranks left a dump/);
    assert.match(text, /SIGUSR2/);
    assert.match(
      text,
      /rank 0 is missing at collective 2, barrier, where rank 1 waits; its last was 1, allReduce sum f32\[3\], done/,
    );
  } finally {
    await Deno.remove(logs, { recursive: true });
  }
});

Deno.test("under the launcher, the others notice a killed rank and leave their dumps before they are ended", async () => {
  const logs = await Deno.makeTempDir();
  try {
    const { code } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", LAUNCHER.pathname, "--nproc", "3", "--log-dir", logs, FAULTS.pathname, "killed", "allReduce"],
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).output();
    assert.equal(code, 137);
    assert.match(await flight(logs), /2 of 3 ranks left a dump[^]*rank 2 is missing at collective 2, allReduce/);
  } finally {
    await Deno.remove(logs, { recursive: true });
  }
});

/** What the command prints after three ranks of faults.ts ended. */
async function flightOf(fault: string, verb: string): Promise<string> {
  const directory = await Deno.makeTempDir();
  try {
    await startRanks(3, FAULTS, { args: [fault, verb], env: { SHARDWISE_FLIGHT_DIR: directory }, timeoutMs: 60_000 })
      .results;
    return await flight(directory);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

async function flight(directory: string): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", CLI.pathname, "flight", directory],
    env: { NO_COLOR: "1" },
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}

/** Waits for a file of that name below `directory`. */
async function watch(directory: string, name: string): Promise<void> {
  for (let i = 0; i < 600; i++) {
    for (const job of Deno.readDirSync(directory)) {
      try {
        if (Deno.statSync(join(directory, job.name, "attempt_0", "0", name)).isFile) return;
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`Cannot find ${name} below ${directory} after a minute`);
}
