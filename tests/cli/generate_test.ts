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
