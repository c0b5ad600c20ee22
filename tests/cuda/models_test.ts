/** Models on GPUs, one a rank: real processes that NCCL joins, against PyTorch. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY, sharedOrSkip } from "../support/shared.ts";
import { cudaTest } from "../support/standin.ts";

const PROGRAM = new URL("./programs/models.ts", import.meta.url);
const folder = (name: string) => join(REPOSITORY, "tests/data/models", name);

/** Lines that say how a case went. */
async function cases(ranks: number, args: readonly string[], env: Record<string, string>): Promise<string[]> {
  // Kernels are compiled for the CPU on the way, by as many compilers as there are ranks.
  const [first] = await runRanks(ranks, PROGRAM, { args, env, timeoutMs: 400_000 });
  return first!.stdout.trim().split("\n");
}

function assertAgree(lines: readonly string[], count: number): void {
  assert.equal(lines.length, count, lines.join("\n"));
  assert.deepEqual(lines.filter((line) => !line.endsWith(" agree")), []);
}

cudaTest("one GPU gives what PyTorch gives, and keeps the cache of a text that it continues", async (env) => {
  assertAgree(await cases(1, ["1e-4", "-", folder("gpt2")], env), 4);
});

cudaTest("two GPUs share a model with grouped heads: the same outputs, the same text", async (env) => {
  assertAgree(await cases(2, ["1e-4", "-", folder("llama")], env), 4);
}, { gpus: 2 });

cudaTest("three GPUs share what three does not divide: heads, vocabulary and hidden sizes", async (env) => {
  assertAgree(await cases(3, ["1e-4", "-", folder("bloom")], env), 4);
}, { gpus: 3 });

cudaTest("ranks that share a GPU exchange through the host", async (env) => {
  const shared = { ...env, CUDA_VISIBLE_DEVICES: "0", SHARDWISE_BACKEND: "shm" };
  assertAgree(await cases(2, ["1e-4", "-", folder("bert")], shared), 2);
});

cudaTest("half precision stays near the model as it was trained", async (env) => {
  for (const dtype of ["fp16", "bf16"]) {
    // 11 and 8 bits of mantissa, through two layers.
    const tolerance = dtype === "fp16" ? "2e-2" : "1.5e-1";
    assertAgree(await cases(1, [tolerance, dtype, folder("llama")], env), 3);
  }
});

/** Of the models outside the repository, a run takes three, others each time; SHARDWISE_TEST_SEED names a run's again. */
const DRAWN = 3;
const SEED = Number(Deno.env.get("SHARDWISE_TEST_SEED") ?? Date.now() % 2 ** 31);
const GROUPS = ["decoders", "dynamo", "encoders", "genai", "moe", "ort-fused", "quantised", "seq2seq"];

const shared = sharedOrSkip("models");
const models = shared === undefined
  ? []
  : GROUPS.flatMap((group) => [...Deno.readDirSync(join(shared, group))].map(({ name }) => join(group, name)).sort());
const isWhole = Deno.env.get("SHARDWISE_TEST_ALL") === "1";
const drawn = isWhole ? models : models.filter((_, i) => (i + SEED) % Math.ceil(models.length / DRAWN) === 0);
for (const model of drawn) {
  const title = `${model} gives PyTorch's outputs on 1, 2 and 4 GPUs`;
  cudaTest(isWhole ? title : `${title} (drawn by seed ${SEED})`, async (env) => {
    const args = ["run", "-A", "cli/main.ts", "verify", join(shared!, model), "--device", "cuda", "--nproc", "1,2,4"];
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, env, cwd: REPOSITORY }).output();
    assert.equal(code, 0, new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
  }, { gpus: 4 });
}
if (!isWhole) {
  const why = shared === undefined ? "no shared folder" : "SHARDWISE_TEST_ALL=1 runs it, in an hour";
  Deno.test({ name: `every small model on 1, 2 and 4 GPUs (skipped: ${why})`, ignore: true, fn: () => {} });
}
