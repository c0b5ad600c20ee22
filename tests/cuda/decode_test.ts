/** Decoding on GPUs: steps become one launch, caches grow where they lie, and both give what a CPU gives. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";
import { cudaTest } from "../support/standin.ts";

const PROGRAM = new URL("./programs/decode.ts", import.meta.url);

interface Found {
  readonly issued: readonly number[];
  readonly notRecorded?: string;
  readonly difference: number;
}

async function decode(ranks: number, args: readonly string[], env: Record<string, string>): Promise<Found> {
  const [model, ...rest] = args;
  const [first] = await runRanks(ranks, PROGRAM, {
    args: [join(REPOSITORY, "tests/data/models", model!), ...rest],
    env,
  });
  return JSON.parse(first!.stdout);
}

cudaTest("a decoding step is one launch from its third token on, and gives what a CPU gives", async (env) => {
  const { issued, notRecorded, difference } = await decode(1, ["llama", "3", "8", "32", "-"], env);
  assert.ok(issued.slice(0, 3).every((n) => n > 10), issued.join());
  assert.deepEqual(issued.slice(3), [1, 1, 1, 1, 1, 1]);
  assert.equal(notRecorded, undefined);
  assert.ok(difference < 1e-4, `${difference}`);
});

cudaTest("ranks record their all-reduces with the step", async (env) => {
  const { issued } = await decode(2, ["llama", "3", "6", "32", "-"], env);
  assert.deepEqual(issued.slice(3), [1, 1, 1, 1]);
}, { gpus: 2 });

cudaTest("a cache that is full moves to one of twice the size, and its step is recorded anew", async (env) => {
  const { issued, difference } = await decode(1, ["llama", "3", "17", "8", "-"], env);
  assert.ok(difference < 1e-4, `${difference}`);
  // The prompt, two steps, and the step for which the cache moves.
  assert.deepEqual(issued.flatMap((n, i) => (n === 1 ? [] : [i])), [0, 1, 2, 14]);
});

cudaTest("caches that a model extends by Concat grow where they lie, and move when they are full", async (env) => {
  for (const [model, how] of [["gpt2", ""], ["llama", "plain"]] as const) {
    const { difference } = await decode(1, [model, "3", "9", "8", "4", how], env);
    assert.ok(difference < 1e-4, `${model} ${difference}`);
  }
});

cudaTest("rows of a batch that change places keep their recorded steps", async (env) => {
  const { issued, difference } = await decode(1, ["llama", "3", "9", "32", "4"], env);
  assert.ok(difference < 1e-4, `${difference}`);
  assert.deepEqual(issued.slice(3), [1, 1, 1, 1, 1, 1, 1]);
});

cudaTest("where a step cannot be recorded it runs command by command, and says why", async (env) => {
  const grows = await decode(1, ["gpt2", "3", "6", "32", "-", "plain"], env);
  assert.match(grows.notRecorded!, /the matrix product of ".*MatMul.*" grows with the text/);
  assert.ok(grows.issued.every((n) => n > 10) && grows.difference < 1e-4, `${grows.difference}`);
  const staged = await decode(2, ["llama", "3", "6", "32", "-"], { ...env, SHARDWISE_BACKEND: "shm" });
  assert.equal(staged.notRecorded, "exchanges go through the host");
  const plain = await decode(2, ["llama", "3", "6", "32", "-"], { ...env, SHARDWISE_CUDA_GRAPHS: "0" });
  assert.equal(plain.notRecorded, "SHARDWISE_CUDA_GRAPHS is 0");
  assert.ok(plain.issued.every((n) => n > 10), plain.issued.join());
});
