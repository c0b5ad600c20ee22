/** States that grow in place, through real ranks: against the model as it was written, whose cache is made anew at every step. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";

const PROGRAM = new URL("./programs/states.ts", import.meta.url);

for (const size of [1, 2]) {
  Deno.test(`a cache that grows in place on ${size} ranks gives what copies give, with batches, chunks and growth`, async () => {
    const model = join(REPOSITORY, "tests/data/models/llama/model.onnx");
    const [first] = await runRanks(size, PROGRAM, { args: [model] });
    const [states, ...lines] = first!.stdout.trim().split("\n");
    assert.equal(states, "4 of 4 states in place");
    assert.equal(lines.length, 24);
    for (const line of lines) assert.ok(Number(line.split(" ")[3]) < 2e-5, `batch, past, tokens, difference: ${line}`);
  });
}
