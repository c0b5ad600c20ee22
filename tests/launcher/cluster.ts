/** What tests of schedulers share: commands, who their ranks believe to be, and the demo. */
import assert from "node:assert/strict";
import type { LaunchEnv } from "../../src/core/launch_env.ts";
import { program } from "./harness.ts";

export const ROOT = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");
const RUN = [Deno.execPath(), "run", "-A"];
/** Ranks that say who they are. */
export const WHO = [...RUN, program("who.ts")];
/** The launcher. */
export const LAUNCH = [...RUN, `${ROOT}/launcher/main.ts`];
/** The demo, and a program that computes with the demo's model until it is ended. */
export const DEMO = `${ROOT}/examples/demo/demo.ts`;
export const ENDLESS = [`${ROOT}/tests/faults/programs/generate.ts`, "never", "none", "0"];
/** The search path for scripts that say `deno`. */
export const PATH = `${Deno.execPath().replace(/\/[^/]*$/, "")}:${Deno.env.get("PATH")}`;

/** Runs a command to its end; `text` is what it wrote to stdout, then to stderr. */
export async function output(
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

/** What ranks of {@linkcode WHO} said, by rank. */
export function everyone(text: string): LaunchEnv[] {
  return text.split("\n").filter((line) => line.includes("WHO ")).map((line) =>
    JSON.parse(line.slice(line.indexOf("{"))) as LaunchEnv
  ).sort((a, b) => a.rank - b.rank);
}

/** Checks that `found` are the ranks of one job of `n` on one host. */
export function assertOneJob(found: readonly LaunchEnv[], n: number, scheme: LaunchEnv["scheme"]): void {
  assertOneMeeting(found, n, scheme);
  for (const e of found) assert.deepEqual([e.localRank, e.localWorldSize, e.nnodes], [e.rank, n, 1]);
}

/** Checks that `found` are the ranks of one job of `n`, which meet in one place. */
export function assertOneMeeting(found: readonly LaunchEnv[], n: number, scheme: LaunchEnv["scheme"]): void {
  assert.deepEqual(found.map((e) => e.rank), Array.from({ length: n }, (_, rank) => rank));
  const place = (e: LaunchEnv) => [e.scheme, e.worldSize, e.runId, e.masterAddr, e.masterPort];
  for (const e of found) assert.deepEqual(place(e), [scheme, n, ...place(found[0]!).slice(2)]);
}

/** Checks that `text` is what the demo prints on 4 ranks: once, and to its last line. */
export function assertDemo(text: string): void {
  assert.equal(text.match(/split over 4 ranks/g)?.length, 1, text);
  assert.equal(text.match(/And David said unto him/g)?.length, 1, text);
  assert.match(text, /\d+ tokens in [\d.]+ s: \d+ tokens\/s/);
}

/** The entries of /dev/shm, before and after a job. */
export function sharedMemory(): string[] {
  return [...Deno.readDirSync("/dev/shm")].map((entry) => entry.name).filter((name) => name.startsWith("shardwise-"));
}

/** Waits until `what` holds; fails after `ms`. */
export async function until(what: () => boolean | Promise<boolean>, ms: number): Promise<void> {
  for (const end = performance.now() + ms; performance.now() < end;) {
    if (await what()) return;
    await new Promise((done) => setTimeout(done, 100));
  }
  assert.fail(`it did not happen within ${ms} ms: ${what}`);
}

/** A test that says what is missing where it cannot run. */
export function testWith(
  name: string,
  missing: string | undefined,
  fn: (t: Deno.TestContext) => Promise<void>,
): void {
  Deno.test({
    name: missing === undefined ? name : `${name} (skipped: ${missing})`,
    ignore: missing !== undefined,
    fn,
  });
}
