import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UsageError } from "../src/core/errors.ts";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { bench, benchJob } from "./bench.ts";
import { parseCommand } from "./command.ts";
import type { BenchJob } from "./job.ts";

const MODELS = fileURLToPath(new URL("../tests/data/models", import.meta.url));

async function job(model: string, ...args: string[]): Promise<BenchJob> {
  const path = join(MODELS, model);
  return await benchJob(parseCommand(bench, [path, ...args]), ModelFolder.open(path));
}

Deno.test("benchJob() measures by default the lengths that the model takes", async () => {
  const llama = await job("llama"); // of 128 positions
  assert.deepEqual([llama.prompts, llama.pasts, llama.newTokens, llama.rounds], [[16, 128], [64], 32, 5]);
  const bert = await job("bert"); // of 64, without a cache
  assert.deepEqual([bert.generates, bert.prompts, bert.pasts], [false, [16], []]);
  assert.equal(bert.model, join(MODELS, "bert", "model.onnx"));
  assert.deepEqual((await job("llama", "--new", "127")).pasts, [1]);
  assert.deepEqual((await job("llama", "--prompt-lengths", "9,9,4")).prompts, [9, 4]);
});

Deno.test("benchJob() refuses what a model does not take", async () => {
  const wrong: readonly (readonly [string, readonly string[], RegExp])[] = [
    ["bert", ["--past", "4"], /--past is for models that generate token by token.*carries no cache/],
    ["llama", ["--past", "100", "--new", "40"], /a past of 100 and 40 new tokens are more than the 128 tokens/],
    ["llama", ["--prompt-lengths", "200"], /a length of 200 is more than the 128 tokens/],
    ["llama", ["--prompt-lengths", "4,x"], /--prompt-lengths "4,x" is no list of whole numbers.*found "x"/],
    ["llama", ["--rounds", "0"], /--rounds "0" is not a whole number from 1/],
    ["llama", ["--inputs", "a.npz"], /--inputs is for models that only run, and for encoders/],
    ["bert", ["--inputs", "a.npz", "--prompt-lengths", "4"], /--inputs and --prompt-lengths exclude each other/],
    ["llama", ["--dtype", "bf16"], /--dtype is for GPUs/],
  ];
  for (const [model, args, message] of wrong) {
    await assert.rejects(job(model, ...args), (e) => e instanceof UsageError && message.test(e.message));
  }
});
