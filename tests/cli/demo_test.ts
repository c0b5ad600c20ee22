/** The demo, as the README's first line starts it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { REPOSITORY } from "../support/shared.ts";

Deno.test("the demo says in at most 15 lines what became of its model, and tells what its samples tell", async () => {
  const { tasks } = JSON.parse(Deno.readTextFileSync(join(REPOSITORY, "deno.json")));
  const [deno, ...args] = tasks.demo.split(" ");
  assert.equal(deno, "deno");
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: REPOSITORY,
    env: { NO_COLOR: "1" },
  }).output();
  const said = new TextDecoder().decode(stdout);
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  const { samples } = JSON.parse(Deno.readTextFileSync(join(REPOSITORY, "examples/demo/samples.json")));
  const sample = samples.find((s: { prompt: string }) => s.prompt.trim() === "And David said unto").text;
  const at = said.indexOf(sample);
  assert.ok(at > 0, said);
  const before = said.slice(0, at).trimEnd().split("\n");
  assert.ok(before.length <= 15, `${before.length} lines`);
  for (const part of ["column-parallel", "row-parallel", "vocab-parallel", "collectives", "weights"]) {
    assert.ok(before.some((line) => line.includes(part)), part);
  }
  assert.match(said, /\d+ tokens in [\d.]+ s: \d+ tokens\/s\n$/);
});
