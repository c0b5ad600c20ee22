/** The NCCL engine: the law of all engines, tensors on the GPU, and what ranks see when one of them fails. */
import assert from "node:assert/strict";
import { StoreServer } from "../../launcher/store_server.ts";
import { leftovers, type RankResult, runRanks, startRanks } from "../support/ranks.ts";
import { cudaTest, standinTest } from "../support/standin.ts";

const CONFORMANCE = new URL("./conformance/program.ts", import.meta.url);
const FAULTS = new URL("./programs/faults.ts", import.meta.url),
  DEVICE = new URL("./programs/nccl_device.ts", import.meta.url);

/** A collective over the stand-in takes ten times one over shared memory, so there are fewer cases for more ranks. */
const RUNS: readonly { ranks: number; args: string[]; atLeast: number }[] = [
  { ranks: 1, args: ["0,3,257", "6"], atLeast: 3000 },
  { ranks: 2, args: ["3,70000", "7", "f32,bf16,u8"], atLeast: 400 },
  { ranks: 3, args: ["1,17", "9", "f32,f16,i64"], atLeast: 500 },
  { ranks: 4, args: ["5", "11", "f64,u32"], atLeast: 100 },
  { ranks: 7, args: ["3", "99", "f32"], atLeast: 150 },
];
/** Every size, dtype and operation on every number of ranks. */
const WHOLE: typeof RUNS = [1, 2, 3, 4, 7, 16].map((ranks) => (
  { ranks, args: ["0,1,3,1023,1048576", "1"], atLeast: 13_000 }
));
const ALL = Deno.env.get("SHARDWISE_TEST_ALL") === "1";

for (const { ranks, args, atLeast } of [...RUNS, ...WHOLE]) {
  const [sizes, sparse] = args;
  const test = ALL || sparse !== "1" ? cudaTest : (name: string) => Deno.test({ name, ignore: true, fn: () => {} });
  test(`NCCL on ${ranks} ranks keeps the law of all engines, ${sizes} elements, 1 of ${sparse}`, async (env) => {
    const results = await runRanks(ranks, CONFORMANCE, {
      args,
      env: { ...env, SHARDWISE_STANDIN_GPUS: "16", SHARDWISE_COMM_BACKEND: "nccl" },
      timeoutMs: ALL ? 3_600_000 : 400_000,
    });
    for (const { stdout } of results) {
      const { cases, backend } = JSON.parse(stdout);
      assert.equal(backend, "nccl");
      assert.ok(cases >= atLeast, `${cases} cases`);
    }
  }, { gpus: ranks });
}

cudaTest("ranks meet at the launcher's store, and hosts that see each other only there are joined too", async (env) => {
  using server = new StoreServer({ hostname: "127.0.0.1", port: 0, events: {} });
  server.allow("token");
  const store = { MASTER_ADDR: "127.0.0.1", MASTER_PORT: `${server.port}`, SHARDWISE_STORE_TOKEN: "token" };
  for (const hosts of ["a,a", "a,b"]) {
    const job = { ...env, ...store, SHARDWISE_PRETEND_HOSTS: hosts, SHARDWISE_ATTEMPT: hosts === "a,a" ? "0" : "1" };
    const results = await runRanks(2, DEVICE, { args: ["right"], env: job });
    assert.deepEqual(results.map((r) => r.stdout.trim()), ["right", "right"]);
  }
  const apart = { ...env, ...store, SHARDWISE_PRETEND_HOSTS: "a,b,a", SHARDWISE_ATTEMPT: "2" };
  const results = await runRanks(3, CONFORMANCE, {
    args: ["3", "99", "f32,i64"],
    env: { ...apart, SHARDWISE_COMM_BACKEND: "nccl" },
  });
  for (const { stdout } of results) {
    const { cases, unsupported } = JSON.parse(stdout);
    assert.ok(cases > 200, `${cases} cases`);
    assert.equal(unsupported.send, 1); // host arrays between hosts
  }
}, { gpus: 2 });

for (const ranks of [1, 3]) {
  cudaTest(`tensors on the GPU are reduced, gathered and sent by ${ranks} ranks, eager and captured`, async (env) => {
    const results = await runRanks(ranks, DEVICE, { args: ["right"], env });
    for (const { stdout } of results) assert.equal(stdout.trim(), "right");
  }, { gpus: ranks });
}

cudaTest("a rank killed while others wait for the GPU is named to them at once", async (env) => {
  for (const { seen, code } of await survivors(2, DEVICE, ["killed"], env)) {
    assert.equal(seen.name, "PeerLost", seen.message);
    assert.equal(seen.rank, 1);
    assert.ok(seen.ms < 10_000, `${seen.ms} ms, as long as the time limit`);
    assert.equal(code, 114);
  }
}, { gpus: 2 });

cudaTest("a rank that leaves when it is done does not take the last result from a slower one", async (env) => {
  for (const { stdout } of await runRanks(2, DEVICE, { args: ["ahead"], env })) assert.equal(stdout.trim(), "right");
}, { gpus: 2 });

cudaTest(
  "a rank that does not come while others wait for the GPU ends their waiting at the time limit",
  async (env) => {
    const [first] = await survivors(2, DEVICE, ["late"], env);
    assert.equal(first!.seen.name, "CollectiveTimeout", first!.seen.message);
    assert.deepEqual(first!.seen.missing, [1]);
  },
);

for (const verb of ["allReduce", "allToAll", "objects"]) {
  cudaTest(`a rank killed while others wait in ${verb} over NCCL is named to them at once`, async (env) => {
    for (const { seen, code } of await survivors(2, FAULTS, ["killed", verb], { ...env, SHARDWISE_BACKEND: "nccl" })) {
      assert.equal(seen.name, "PeerLost", seen.message);
      assert.match(seen.message, /rank 1 of group "world" ended \(process \d+\) after barrier seq 1/);
      assert.ok(seen.ms < 10_000, `${seen.ms} ms, as long as the time limit`);
      assert.equal(code, 114);
    }
  }, { gpus: 2 });
}

for (const mode of ["report", "hang"]) {
  standinTest(
    `ranks that call different collectives all learn both sides, also where NCCL would ${mode}`,
    async (env) => {
      const modes = { SHARDWISE_BACKEND: "nccl", SHARDWISE_STANDIN_MISMATCH: mode };
      const all = await outcomes(2, FAULTS, ["mismatch", "allGather"], { ...env, ...modes });
      assert.equal(all.length, 2);
      for (const { seen, code } of all) {
        assert.equal(seen.name, "CollectiveMismatch", seen.message);
        assert.match(seen.message, /rank 0: allGather f32\[200000\] seq 2; rank 1: allReduce max i32\[7\] seq 2/);
        assert.equal(code, 115);
      }
    },
  );
}

standinTest("ranks whose blocks do not fit together are told, where NCCL would wait for ever", async (env) => {
  const program = new URL("./programs/disagreements.ts", import.meta.url);
  const job = { ...env, SHARDWISE_BACKEND: "nccl" };
  for (const { stdout } of await runRanks(2, program, { args: ["allGather", "allToAll"], env: job })) {
    const { allGather, allToAll } = JSON.parse(stdout);
    assert.deepEqual([allGather[0], allToAll[0]], ["CollectiveMismatch", "CollectiveMismatch"]);
    assert.match(allGather[1], /in blocks of 1, 2 seq 1; rank 1: allGather f32\[3\] in blocks of 2, 1 seq 1/);
    assert.match(allToAll[1], /in allToAll rank 0 sends 2 elements to rank 1, which expects 1 of it/);
  }
});

cudaTest("a rank that comes too late is named by a timeout with the last thing that it did", async (env) => {
  const all = await outcomes(2, FAULTS, ["late", "allReduce"], { ...env, SHARDWISE_BACKEND: "nccl" });
  const early = all.find(({ rank }) => rank === 0)!.seen;
  assert.equal(early.name, "CollectiveTimeout");
  assert.deepEqual(early.missing, [1]);
  assert.match(early.message, /waited 0\.4 s for rank 1: rank 1 last did barrier seq 1/);
}, { gpus: 2 });

cudaTest("two ranks on one GPU are told before NCCL refuses them", async (env) => {
  const results = await failing(2, DEVICE, ["right"], { ...env, CUDA_VISIBLE_DEVICES: "0" });
  for (const { stderr } of results) {
    assert.match(stderr, /Cannot join rank 0 and rank 1 by NCCL: both are on GPU [0-9a-f]{32} of /);
  }
});

standinTest("more ranks than GPUs are told, with how many would do", async (env) => {
  const results = await failing(3, DEVICE, ["right"], { ...env, CUDA_VISIBLE_DEVICES: "0,1" });
  assert.match(results[2]!.stderr, /Cannot give rank 2 of 3 on this host a GPU: 2 are visible/);
});

Deno.test("without a driver the error lists what was tried", async () => {
  const [rank] = await failing(1, DEVICE, ["right"], { SHARDWISE_LIBCUDA: "/no/such/libcuda.so.1" });
  assert.match(rank!.stderr, /Cannot open libcuda: none of these loads\n +no such file: .no.such.libcuda\.so\.1/);
});

interface Seen {
  readonly name: string;
  readonly message: string;
  readonly ms: number;
  readonly rank?: number;
  readonly missing?: number[];
}
type Env = Record<string, string>;

async function survivors(size: number, program: URL, args: string[], env: Env) {
  const all = (await outcomes(size, program, args, env)).filter(({ rank }) => rank < size - 1);
  assert.equal(all.length, size - 1);
  return all;
}

/** What the ranks that printed something saw. */
async function outcomes(size: number, program: URL, args: string[], env: Env) {
  const job = startRanks(size, program, { args, env });
  const results = await job.results;
  assert.deepEqual(leftovers(job.runId), []);
  return results.filter((r) => r.stdout !== "").map((r) => {
    assert.ok(r.stdout.startsWith("{"), `rank ${r.rank} printed ${r.stdout}${r.stderr}`);
    return { rank: r.rank, code: r.code, seen: JSON.parse(r.stdout) as Seen };
  });
}

async function failing(size: number, program: URL, args: string[], env: Env): Promise<RankResult[]> {
  const results = await startRanks(size, program, { args, env }).results;
  for (const { rank, code } of results) assert.notEqual(code, 0, `rank ${rank}`);
  return results;
}
