/** A real chat model whose heads neither 2 nor 4 ranks divide; too large for the repository, see CONTRIBUTING.md. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { realModelOrSkip, shardwise } from "../support/cli.ts";

Deno.test("shardwise generate answers as PyTorch does, token by token, at 1, 2, 3 and 4 ranks", async () => {
  const folder = realModelOrSkip();
  if (folder === undefined) return;
  const [{ question, greedy }] = JSON.parse(Deno.readTextFileSync(join(folder, "reference.json")));
  for (const nproc of ["1", "2", "3", "4"]) {
    const { code, stdout, stderr } = await shardwise("generate", folder, "--chat", question, "-n", nproc, "--ids");
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `${greedy.join(" ")}\n`, `${nproc} ranks`);
  }
});

Deno.test("shardwise generate --chat prints the answer and nothing of the template", async () => {
  const folder = realModelOrSkip();
  if (folder === undefined) return;
  const { stdout, stderr } = await shardwise("generate", folder, "--chat", "What is the capital of France?", "-n", "2");
  assert.equal(stdout, "The capital of France is Paris.\n", stderr);
});
