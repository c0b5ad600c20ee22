/** `shardwise verify` on models that lie in the repository: that it passes what is right, and nothing else. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fromNumbers, toNumbers } from "../../src/core/host_tensor.ts";
import { readTensors, writeTensors } from "../../src/formats/tensor_file.ts";
import type { VerifyResult } from "../../cli/job.ts";
import { shardwise, testModel } from "../support/cli.ts";
import { REPOSITORY } from "../support/shared.ts";

Deno.test("shardwise verify passes every small model at 1, 2, 3 and 4 ranks", async () => {
  const { code, stdout, stderr } = await shardwise("verify", "tests/data/models", "--nproc", "1,2,3,4", "--json");
  const { results, skipped } = JSON.parse(stdout);
  const failed = results.filter((r: VerifyResult) => !r.pass).map((r: VerifyResult) =>
    `${r.name} at ${r.ranks}: ${r.problem ?? "differs"}`
  );
  assert.deepEqual(failed, [], stderr.slice(-2000));
  assert.equal(code, 0);
  assert.ok(results.length >= 4 * 26, `${results.length} results`);
  assert.deepEqual(skipped, []);
});

Deno.test("shardwise verify fails, with code 1, when one element or one token is wrong", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-verify-" });
  for (const entry of Deno.readDirSync(join(REPOSITORY, testModel("llama")))) {
    Deno.copyFileSync(join(REPOSITORY, testModel("llama", entry.name)), join(folder, entry.name));
  }
  const file = join(folder, "chunk.expected.safetensors");
  const tensors = await readTensors(file);
  const logits = tensors.get("logits")!;
  const values = Array.from(toNumbers(logits));
  values[100]! += 0.001;
  await writeTensors(file, new Map([...tensors, ["logits", fromNumbers("f32", logits.shape, values)]]));
  const generate = JSON.parse(Deno.readTextFileSync(join(folder, "generate.json")));
  generate.greedy[7]++;
  Deno.writeTextFileSync(join(folder, "generate.json"), JSON.stringify(generate));

  const { code, stdout } = await shardwise("verify", folder, "--nproc", "2");
  assert.equal(code, 1);
  assert.match(stdout, / chunk +│ 2 +│ logits +│ 1\.0e-3 .* FAIL /);
  assert.match(stdout, / prefill +│ 2 .* pass /);
  assert.match(stdout, /token 8 of 24 is \d+, expected \d+/);
  assert.match(stdout, /^2 passed, 2 failed$/m);
  // Whoever reads this learns at once that it is not the split.
  assert.equal(
    stdout.match(/ (one ONNX Runtime session here|one rank without fused ops) gives the same: the reference/g)?.length,
    2,
  );

  const unsharded = await shardwise("verify", folder, "--nproc", "2", "--against", "unsharded");
  assert.equal(unsharded.code, 0, unsharded.stdout + unsharded.stderr);
  assert.match(unsharded.stdout, /^4 passed, 0 failed$/m);
  Deno.removeSync(folder, { recursive: true });
});

Deno.test("shardwise verify selects cases by pattern", async () => {
  const { code, stdout, stderr } = await shardwise(
    "verify",
    "tests/data/models",
    "--nproc",
    "1",
    "--cases",
    "bert*single",
  );
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^1 passed, 0 failed$/m);
});

Deno.test("shardwise verify takes a model without cases, and compares it split with one session on inputs that it draws", async () => {
  const models = [testModel("llama", "model.onnx"), testModel("encoder-layer-unoptimised", "model.onnx")];
  const { code, stdout, stderr } = await shardwise(
    "verify",
    ...models,
    "--against",
    "unsharded",
    "--nproc",
    "3",
    "--json",
  );
  assert.equal(code, 0, stdout + stderr);
  const { results } = JSON.parse(stdout) as { results: VerifyResult[] };
  assert.deepEqual(results.map((r) => r.name), ["llama drawn", "encoder-layer-unoptimised drawn"]);
  assert.ok(results.every(({ outputs }) => outputs.length > 0));

  const wanting = await shardwise("verify", ...models);
  assert.equal(wanting.code, 2);
  assert.match(wanting.stderr, /--against unsharded needs none/);
});
