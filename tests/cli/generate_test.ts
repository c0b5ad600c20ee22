/** `shardwise generate` on models that lie in the repository. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY } from "../support/shared.ts";

const { samples } = JSON.parse(Deno.readTextFileSync(join(REPOSITORY, "examples/demo/samples.json")));

Deno.test("shardwise generate continues a text greedily as the demo model's samples do, at 1 and 3 ranks", async () => {
  const { prompt, text } = samples[0];
  for (const nproc of ["1", "3"]) {
    const { code, stdout, stderr } = await shardwise(
      "generate",
      "examples/demo",
      "-n",
      nproc,
      "--prompt",
      prompt,
      "--max-new-tokens",
      "60",
      "--echo",
    ); // deno-fmt-ignore
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `${text.slice(0, prompt.length + 60)}\n`);
    assert.match(
      stderr,
      /^60 tokens, [\d.]+ tokens\/s; first token after \d+ ms \(\d+ tokens of prompt\); loaded in [\d.]+ s$/m,
    );
  }
});

Deno.test("shardwise generate gives the reference's ids for a prompt of ids, more ranks than kv heads", async () => {
  const { prompt, greedy } = JSON.parse(Deno.readTextFileSync(join(REPOSITORY, testModel("llama", "generate.json"))));
  const { code, stdout, stderr } = await shardwise(
    "generate",
    testModel("llama", "model.onnx"),
    "-n",
    "4",
    "--prompt-ids",
    prompt.join(),
    "-m",
    String(greedy.length),
  ); // deno-fmt-ignore
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${greedy.join(" ")}\n`);
});

Deno.test("shardwise generate samples the same text for the same seed at any number of ranks", async () => {
  const call = async (nproc: string, seed: string) =>
    (await shardwise(
      "generate",
      "examples/demo",
      "-n",
      nproc,
      "--prompt",
      "And the ",
      "-m",
      "40",
      "--temperature",
      "0.9",
      "--top-p",
      "0.9",
      "--top-k",
      "20",
      "--seed",
      seed,
    )).stdout; // deno-fmt-ignore
  const first = await call("1", "5");
  assert.equal(first.length, 41);
  assert.equal(await call("2", "5"), first);
  assert.notEqual(await call("1", "6"), first);
});

Deno.test("shardwise generate ends before a stop text, on all ranks", async () => {
  const { prompt, text } = samples[0];
  const { code, stdout, stderr } = await shardwise(
    "generate",
    "examples/demo",
    "-n",
    "2",
    "--prompt",
    prompt,
    "--stop",
    "LORD",
    "--stop",
    "never",
  ); // deno-fmt-ignore
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${text.slice(prompt.length, text.indexOf("LORD"))}\n`);
});

Deno.test("shardwise generate ends soon when nobody reads it any more, with 141, and leaves nothing behind", async () => {
  // A million tokens: it does not end by itself.
  const args = ["generate", testModel("llama"), "-n", "2", "--prompt-ids", "24,79,85", "-m", "1000000"];
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", "cli/main.ts", ...args],
    cwd: REPOSITORY,
    env: { NO_COLOR: "1", SHARDWISE_CACHE: join(REPOSITORY, "tests", "no-cache") },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stuck = setTimeout(() => child.kill("SIGTERM"), 120_000);
  const reader = child.stdout.getReader();
  assert.match(new TextDecoder().decode((await reader.read()).value), /^\d+ ?/);
  await reader.cancel();
  const [{ code }, stderr] = await Promise.all([child.status, new Response(child.stderr).text()]);
  clearTimeout(stuck);
  assert.deepEqual([code, stderr], [141, ""]);
  // Everything of a job is called after its launcher's process.
  for (const folder of ["/dev/shm", Deno.env.get("TMPDIR") ?? "/tmp"]) {
    const left = [...Deno.readDirSync(folder)].filter(({ name }) => name.startsWith(`shardwise-${child.pid}-`));
    assert.deepEqual(left, []);
  }
  const isOfJob = ({ name }: Deno.DirEntry) => {
    try {
      return Deno.readTextFileSync(`/proc/${name}/environ`).includes(`SHARDWISE_RUN_ID=${child.pid}-`);
    } catch {
      return false; // no process, or one that has ended meanwhile
    }
  };
  assert.deepEqual([...Deno.readDirSync("/proc")].filter(isOfJob), []);
});
