/** All-reduces over peer memory: the same bits on every rank, at any size and number of ranks, recorded or not; and what ends them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import type { DType } from "../../src/core/dtype.ts";
import { PRELUDE } from "../../src/runtime/cuda/prelude.ts";
import { peerText } from "../../src/runtime/cuda/peer_text.ts";
import { limitsOf } from "../../src/runtime/cuda/reduce_choice.ts";
import { runRanks, startRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";
import { cudaTest, standinTest } from "../support/standin.ts";
import { ARCHITECTURES, nvccMissing, requireNvcc } from "./kernel_gate.ts";

const PROGRAM = new URL("./programs/peer.ts", import.meta.url);
const ALL = Deno.env.get("SHARDWISE_TEST_ALL") === "1";
const DTYPES = "f32,f16,bf16,f64,i64,u64,i32,u32,i16,u16,i8,u8";

/** Ranks, dtypes, reductions, 1 of how many sizes, and up to how many bytes. */
const RUNS: readonly (readonly [number, string, string, string, string])[] = ALL
  ? [2, 3, 4, 7].flatMap((n) => [[n, DTYPES, "sum,max,min", "1", "Infinity"] as const])
  : [
    [2, "f32,f64,i64,u8", "sum", "4", "20000"],
    [2, "bf16", "sum", "1", "Infinity"],
    [3, "f16", "max", "4", "20000"],
    [4, "bf16", "sum", "4", "20000"],
    [7, "f16", "sum", "6", "9000"],
  ];

for (const [ranks, ...args] of RUNS) {
  cudaTest(`${ranks} ranks reduce ${args.join(" ")} over peer memory to the same bits`, async (env) => {
    const results = await runRanks(ranks, PROGRAM, { args: ["right", ...args], env, timeoutMs: ALL ? 7e6 : 400_000 });
    for (const { stdout } of results) assert.ok(JSON.parse(stdout).cases >= 6, stdout);
  }, { gpus: ranks });
}

for (const ranks of ALL ? [2, 3, 4, 7] : [3]) {
  cudaTest(
    `a graph of reductions over peer memory and by NCCL is launched 100 times by ${ranks} ranks`,
    async (env) => {
      const results = await runRanks(ranks, PROGRAM, { args: ["replay"], env, timeoutMs: 400_000 });
      assert.deepEqual(results.map((r) => r.stdout.trim()), Array(ranks).fill("right"));
    },
    { gpus: ranks },
  );
}

interface Seen {
  readonly name: string;
  readonly message: string;
  readonly ms: number;
  /** Whether the GPU's kernels have ended. */
  readonly ended: boolean;
  readonly rank?: number;
  readonly missing?: readonly number[];
}

async function survivors(ranks: number, what: string, env: Record<string, string>): Promise<Seen[]> {
  const results = await startRanks(ranks, PROGRAM, { args: [what], env }).results;
  return results.filter((r) => r.code !== 137).map((r) => {
    assert.notEqual(r.stdout, "", r.stderr);
    return JSON.parse(r.stdout);
  });
}

cudaTest("a rank that is killed while kernels wait for it is named, and the kernels end", async (env) => {
  const seen = await survivors(3, "killed", env);
  assert.equal(seen.length, 2);
  for (const { name, message, rank, ms, ended } of seen) {
    assert.deepEqual([name, rank, ended], ["PeerLost", 2, true], message);
    assert.ok(ms < 10_000, `${ms} ms`);
  }
}, { gpus: 3 });

cudaTest("a rank that does not come ends the waiting of kernels at the time limit", async (env) => {
  const [first] = await survivors(2, "late", env);
  assert.equal(first!.name, "CollectiveTimeout", first!.message);
  assert.deepEqual([first!.missing, first!.ended], [[1], true]);
}, { gpus: 2 });

standinTest("where the host does not look, a kernel ends by itself, and says for whom it waited", async (env) => {
  const [first] = await survivors(2, "unwatched", env);
  assert.match(
    first!.message,
    /GPU of rank 0 of group "world" waited 1\.2 s in an all-reduce over peer memory for rank 1/,
  );
  assert.deepEqual([first!.name, first!.missing, first!.ended], ["CollectiveTimeout", [1], true]);
});

standinTest("GPUs that do not reach each other's memory refuse it with the reason, on all ranks alike", async (env) => {
  const results = await runRanks(2, PROGRAM, { args: ["refused"], env: { ...env, SHARDWISE_STANDIN_PEER: "0" } });
  for (const { stdout } of results) {
    assert.match(
      stdout,
      /^rank 0 cannot share its GPU's memory: cuIpcOpenMemHandle_v2 failed: CUDA_ERROR_PEER_ACCESS_UNSUPPORTED/,
    );
  }
});

standinTest("GPUs that lose what others write are found out, and NCCL is used", async (env) => {
  const results = await runRanks(2, PROGRAM, { args: ["refused"], env: { ...env, SHARDWISE_STANDIN_PEER: "lossy" } });
  for (const { stdout } of results) {
    assert.equal(stdout, "what one GPU writes into another's memory does not arrive there as it was\n");
  }
});

const decode = async (ranks: number, env: Record<string, string>) => {
  const args = [join(REPOSITORY, "tests/data/models/llama"), "3", "6", "32", "-"];
  const program = new URL("./programs/decode.ts", import.meta.url);
  const results = await startRanks(ranks, program, { args, env, timeoutMs: 400_000 }).results;
  return { results, first: results[0]!.stdout === "" ? undefined : JSON.parse(results[0]!.stdout) };
};

cudaTest("a model decodes over peer memory, recorded, and gives what NCCL gives", async (env) => {
  const by = (how: string) => decode(2, { ...env, SHARDWISE_CUDA_ALL_REDUCE: how });
  const nccl = (await by("nccl")).first, one = (await by("one-shot")).first, two = (await by("two-shot")).first;
  assert.match(nccl.reduces, /^NCCL: SHARDWISE_CUDA_ALL_REDUCE says so/);
  assert.match(one.reduces, /^one-shot up to 512 KiB, then NCCL/);
  assert.match(two.reduces, /^two-shot up to 512 KiB, then NCCL/);
  for (const { issued, rows } of [one, two]) {
    assert.deepEqual(issued.slice(3), [1, 1, 1, 1]);
    rows.forEach((v: number, i: number) => assert.ok(Math.abs(v - nccl.rows[i]) < 1e-4, `${i}: ${v}, ${nccl.rows[i]}`));
  }
}, { gpus: 2 });

cudaTest("what is faster is measured once a host, kept, and said", async (env) => {
  const folder = await Deno.makeTempDir();
  try {
    const auto = { ...env, SHARDWISE_CUDA_ALL_REDUCE: "auto", SHARDWISE_CACHE: folder };
    const said = (await decode(2, auto)).first.reduces;
    const [file] = [...Deno.readDirSync(folder)].filter((e) => e.name.startsWith("all-reduce-"));
    const { measured } = JSON.parse(await Deno.readTextFile(join(folder, file!.name)));
    const [[key, times]] = Object.entries(measured) as [[string, Parameters<typeof limitsOf>[0]]];
    assert.match(key, /^2 x .*, driver \d+, NCCL \d+$/);
    assert.ok(times.every((t) => t.nccl > 0), JSON.stringify(times));
    assert.match(said, /NCCL/);
    // The next job believes the file: here, that peer memory is the faster at all sizes.
    const better = times.map((t) => ({ ...t, nccl: 1e9, "two-shot": 1e8, "one-shot": t["one-shot"] && 1 }));
    await Deno.writeTextFile(join(folder, file!.name), JSON.stringify({ version: 1, measured: { [key]: better } }));
    assert.match((await decode(2, auto)).first.reduces, /^one-shot up to 256 KiB, two-shot up to 512 KiB, then NCCL$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}, { gpus: 2 });

standinTest("who insists on peer memory where there is none is told why", async (env) => {
  const forced = { ...env, SHARDWISE_CUDA_ALL_REDUCE: "one-shot", SHARDWISE_STANDIN_PEER: "0" };
  for (const { stderr } of (await decode(2, forced)).results) {
    assert.match(
      stderr,
      /Cannot all-reduce over peer memory: rank 0 cannot share its GPU's memory: .*PEER_ACCESS_UNSUPPORTED/,
    );
  }
  const wrong = { ...env, SHARDWISE_CUDA_ALL_REDUCE: "oneshot" };
  for (const { stderr } of (await decode(2, wrong)).results) {
    assert.match(stderr, /Cannot all-reduce by "oneshot": did you mean "one-shot"\?/);
  }
});

standinTest("doctor says by what means GPUs all-reduce, and why", async (env) => {
  const said = async (more: Record<string, string>) => {
    const own = { ...env, NO_COLOR: "1", SHARDWISE_CACHE: "/nowhere", SHARDWISE_CUDA_ALL_REDUCE: "auto", ...more };
    const command = { args: ["run", "-A", "cli/main.ts", "doctor", "--json"], env: own, cwd: REPOSITORY };
    const { stdout } = await new Deno.Command(Deno.execPath(), command).output();
    return JSON.parse(new TextDecoder().decode(stdout)).allReduces;
  };
  assert.match(await said({}), /^over peer memory or by NCCL: the first job of several ranks measures/);
  assert.equal(await said({ SHARDWISE_STANDIN_PEER: "0" }), "NCCL: GPU 0 does not reach the memory of GPU 1");
  assert.equal(await said({ SHARDWISE_CUDA_ALL_REDUCE: "nccl" }), "NCCL: SHARDWISE_CUDA_ALL_REDUCE says so");
  assert.equal(await said({ SHARDWISE_STANDIN_GPUS: "1" }), undefined);
});

Deno.test("limits are as far as one means is the fastest from the smallest message on", () => {
  const of = (list: readonly (readonly [number, number, number, number?])[]) =>
    limitsOf(list.map(([bytes, nccl, one, two]) => ({ bytes, nccl, "one-shot": one, "two-shot": two })));
  assert.deepEqual(of([[1, 9, 1, 2], [2, 9, 3, 3], [4, 9, 8, 5], [8, 9, 20, 12]]), { "one-shot": 2, "two-shot": 4 });
  assert.deepEqual(of([[1, 1, 2, 3], [2, 9, 3, 4]]), { "one-shot": 0, "two-shot": 0 });
  assert.deepEqual(of([[1, 9, 5, 3], [2, 9, 3, 4]]), { "one-shot": 0, "two-shot": 1 });
  assert.deepEqual(of([[1, 9, 5], [2, 9, 3, 2]]), { "one-shot": 1, "two-shot": 2 });
});

const noNvcc = await nvccMissing();
Deno.test({
  name: `nvcc compiles the kernels over peer memory for every architecture${noNvcc ? ` (skipped: ${noNvcc})` : ""}`,
  ignore: noNvcc !== undefined,
  fn: async () => {
    const kernels = ALL
      ? DTYPES.split(",").flatMap((dtype) =>
        (["sum", "max", "min"] as const).flatMap((reduction) =>
          [2, 7].flatMap((ranks) =>
            (["one-shot", "two-shot"] as const).map((shots) => ({ shots, ranks, dtype: dtype as DType, reduction }))
          )
        )
      )
      : [
        { shots: "one-shot", ranks: 2, dtype: "bf16", reduction: "sum" } as const,
        { shots: "two-shot", ranks: 7, dtype: "f16", reduction: "max" } as const,
      ];
    const source = PRELUDE + kernels.map((k) => peerText(k).text).join("\n");
    await requireNvcc([{ name: "the kernels over peer memory", source }], ARCHITECTURES);
  },
});
