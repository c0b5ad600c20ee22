/** `shardwise bench` with real ranks: what it measures, and what it says. */
import assert from "node:assert/strict";
import { shardwise, shardwiseIn, testModel } from "../support/cli.ts";
import { cudaTest } from "../support/standin.ts";

interface Told {
  readonly dtype: string;
  readonly device: { readonly kind: string; readonly name?: string };
  readonly weightBytes: number;
  readonly ranks: readonly {
    readonly weightBytes: number;
    readonly memory: { readonly private: number };
    readonly gpu?: { readonly memory: Readonly<Record<string, number>> };
  }[];
  readonly cases: readonly {
    readonly name: string;
    readonly rounds: readonly number[];
    readonly tokensPerSecond?: { readonly median: number; readonly least: number; readonly largest: number };
    readonly runsPerSecond?: { readonly median: number };
    readonly ms: { readonly median: number; readonly least: number; readonly largest: number };
    readonly weightBytes: number;
    readonly stateBytes: number;
    readonly flops: number;
    readonly share?: number;
  }[];
}

const SMALL = ["--prompt-lengths", "5,12", "--past", "8", "--new", "4", "--rounds", "2", "--json"];

Deno.test("shardwise bench measures prompts and single tokens on two ranks, and what they read", async () => {
  const { code, stdout, stderr } = await shardwise("bench", testModel("llama"), "--nproc", "2", ...SMALL);
  assert.equal(code, 0, stderr);
  const told = JSON.parse(stdout) as Told;
  assert.deepEqual(told.cases.map((c) => c.name), ["prefill 5", "prefill 12", "decode 8"]);
  const [short, long, decode] = told.cases;
  for (const c of told.cases) {
    assert.equal(c.rounds.length, 2);
    assert.ok(c.ms.least > 0 && c.ms.least <= c.ms.median && c.ms.median <= c.ms.largest, JSON.stringify(c.ms));
  }
  assert.ok(Math.abs(short!.tokensPerSecond!.largest - 5000 / short!.ms.least) < 1e-6);
  assert.ok(Math.abs(decode!.tokensPerSecond!.largest - 1000 / decode!.ms.least) < 1e-6);
  assert.ok(long!.flops > 2 * short!.flops && short!.flops > decode!.flops);
  // Keys and values of 8 tokens in 2 layers, a head of 8 on each rank, in 4 bytes.
  assert.equal(decode!.stateBytes, 2 * 8 * 2 * 8 * 4);
  // All but the embedding, of which a token reads a row.
  const most = Math.max(...told.ranks.map((r) => r.weightBytes));
  assert.ok(decode!.weightBytes < most && decode!.weightBytes > 0.8 * most, `${decode!.weightBytes} of ${most}`);
  assert.ok(told.ranks.every((r) => r.memory.private > 1e6));
  assert.deepEqual(told.device, { kind: "cpu" });
});

Deno.test("shardwise bench measures runs of a model without a cache, an encoder with its decoder, and prints a table", async () => {
  const bert = await shardwise("bench", testModel("bert"), "--prompt-lengths", "4,9", "--rounds", "1", "--json");
  assert.equal(bert.code, 0, bert.stderr);
  const { cases } = JSON.parse(bert.stdout) as Told;
  assert.deepEqual(cases.map((c) => c.name), ["run 4", "run 9"]);
  assert.ok(cases.every((c) => c.runsPerSecond!.median > 0));

  const t5 = ["--prompt-lengths", "5", "--past", "3", "--new", "2", "--rounds", "1", "--batch", "2"];
  const { code, stdout, stderr } = await shardwise("bench", testModel("t5"), ...t5);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^t5 on 1 rank on CPUs, f32: weights .* loaded in .* 2 sequences$/m);
  assert.match(stdout, /│ prefill 5 +│ [\d.]+ tokens \(/);
  assert.match(stdout, /│ decode 3 +│ .* of cache/);
});

cudaTest(
  "shardwise bench tells on GPUs what they hold, and which part of their memory's speed a token reaches",
  async (env) => {
    const options = ["--device", "cuda", "--dtype", "bf16", ...SMALL];
    const { code, stdout, stderr } = await shardwiseIn(env, "bench", testModel("llama"), ...options);
    assert.equal(code, 0, stderr);
    const told = JSON.parse(stdout) as Told, cpu = 191_000;
    assert.equal(told.device.kind, "cuda");
    assert.equal(told.dtype, "bf16");
    const { memory } = told.ranks[0]!.gpu!;
    assert.ok(memory.weights! > 0 && memory.caches! > 0, JSON.stringify(memory));
    assert.ok(told.weightBytes < 0.6 * cpu, `${told.weightBytes} bytes in bf16`);
    const decode = told.cases.find((c) => c.name === "decode 8")!;
    assert.equal(decode.stateBytes, 2 * 8 * 2 * (2 * 8) * 2); // two heads on one rank, in 2 bytes
    assert.ok(decode.share! > 0);
  },
);
