/** What users see when a GPU cannot be had, or a peer is lost while GPUs work. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { runRanks, startRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";
import { cudaTest, standinTest } from "../support/standin.ts";

const PROGRAM = new URL("./programs/step.ts", import.meta.url);
const MODEL = join(REPOSITORY, "tests/data/models/bert");
const args = (runs: number, death = "-") => [
  join(MODEL, "model.onnx"),
  join(MODEL, "single.inputs.safetensors"),
  `${runs}`,
  death,
];

async function said(ranks: number, env: Record<string, string>): Promise<string[]> {
  return (await runRanks(ranks, PROGRAM, { args: args(1), env })).map((r) => r.stdout);
}

standinTest("a missing library is told with what was tried and what has it", async (env) => {
  const [text] = await said(1, { ...env, SHARDWISE_CUDA_LIBS: "/nowhere" });
  assert.match(text!, /UnavailableError: Cannot open libcuda: none of these loads[^]*\/nowhere/);
  assert.match(text!, /install NVIDIA's driver/);
});

standinTest("more ranks than GPUs are told before NCCL waits for them", async (env) => {
  // Without a launcher the others wait until their patience ends.
  const texts = await said(3, { ...env, SHARDWISE_STANDIN_GPUS: "2", JOIN_MS: "3000" });
  assert.match(texts[2]!, /Cannot give rank 2 of 3 on this host a GPU: 2 are visible/);
  assert.match(texts[2]!, /start at most 2 ranks a host; with SHARDWISE_BACKEND=shm ranks share GPUs/);
});

standinTest("two ranks of one GPU are named", async (env) => {
  for (const text of await said(2, { ...env, CUDA_VISIBLE_DEVICES: "0" })) {
    assert.match(text, /UnavailableError: Cannot join rank 0 and rank 1 by NCCL: both are on GPU/);
  }
});

standinTest("weights that do not fit say how large they are and what is free", async (env) => {
  const [text] = await said(1, { ...env, SHARDWISE_STANDIN_MEMORY: `${32 * 2 ** 20 + 2 ** 16}` });
  assert.match(text!, /UnavailableError: Cannot hold this rank's weights of [\d.]+ MiB on GPU 0 \(.*\): [\d.]+ MiB of/);
  assert.match(text!, /use more ranks, --dtype bf16/);
});

cudaTest("a rank that is killed between steps is named by those that wait for it", async (env) => {
  const job = startRanks(2, PROGRAM, { args: args(50, "3:1"), env });
  const [first, second] = await job.results;
  assert.equal(second!.code, 137);
  assert.match(first!.stdout, /PeerLost: .*rank 1/, first!.stderr);
}, { gpus: 2 });

standinTest("caches and values that do not fit say what has the memory and what would fit", async (env) => {
  const program = new URL("./programs/decode.ts", import.meta.url), llama = join(REPOSITORY, "tests/data/models/llama");
  const told = async (capacity: string, mib: number) => {
    const own = { ...env, SHARDWISE_STANDIN_MEMORY: `${mib * 2 ** 20}` };
    const job = startRanks(1, program, { args: [llama, "4", "2", capacity, "-"], env: own });
    return (await job.results)[0]!.stderr;
  };
  assert.match(
    await told("30000", 36),
    /UnavailableError: Cannot hold this rank's caches of [\d.]+ MiB on GPU 0 .*; work space 32.0 MiB, weights .*; 32768 tokens were to have room, \d{4,5} would fit/,
  );
});

standinTest("one rank without a GPU puts all of them on CPUs, and all say which one and why", async (env) => {
  const program = new URL("./programs/auto.ts", import.meta.url), path = join(MODEL, "model.onnx");
  for (const { stdout } of await runRanks(2, program, { args: [path, "1"], env })) {
    assert.match(stdout, /^shm: no GPU \(rank 1 of 2 cannot: .*CUDA_ERROR_NO_DEVICE.*\): using the CPU/);
  }
  for (const { stdout } of await runRanks(2, program, { args: [path, "-"], env })) {
    assert.equal(stdout, "nccl: no notice\n");
  }
});

cudaTest("SHARDWISE_DEVICE stands for --device, also where --dtype asks for a GPU", async (env) => {
  const args = ["run", "-A", "cli/main.ts", "generate", join(REPOSITORY, "tests/data/models/llama"), "--dtype", "bf16"];
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args, "--prompt-ids", "1,2,3", "--max-new-tokens", "2"],
    env: { ...env, SHARDWISE_DEVICE: "cuda" },
    cwd: REPOSITORY,
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  assert.match(new TextDecoder().decode(stdout), /^\d+ \d+\n$/);
});

standinTest("auto takes the CPU where one of the libraries that products may need is missing", async (env) => {
  const program = new URL("./programs/auto.ts", import.meta.url), path = join(MODEL, "model.onnx");
  for (const name of ["LIBCUBLAS", "LIBCUBLASLT", "LIBNVRTC"]) {
    const own = { ...env, [`SHARDWISE_${name}`]: "/no/such/library.so" };
    const [rank] = await runRanks(1, program, { args: [path, "-"], env: own });
    assert.match(rank!.stdout, /no GPU \(Cannot open lib.*\): using the CPU/i);
  }
});
