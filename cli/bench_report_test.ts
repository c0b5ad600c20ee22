import assert from "node:assert/strict";
import { benchJson, type BenchRun, benchScreen } from "./bench_report.ts";
import type { BenchJob, BenchReport } from "./job.ts";

const JOB: BenchJob = {
  kind: "bench",
  on: {},
  model: "models/llama/model.onnx",
  generates: true,
  prompts: [100],
  pasts: [50],
  newTokens: 32,
  batch: 2,
  rounds: 3,
  seed: 0,
  sizes: {},
  plan: {},
};
const MEMORY = { proportional: 3e6, anonymous: 1e6, private: 2e6, shared: 1e6, peak: 4e6 };
const REPORT: BenchReport = {
  loadMs: 1500,
  weightBytes: 15e6,
  ranks: [{ weightBytes: 8e6, memory: MEMORY }, { weightBytes: 7e6, memory: MEMORY }],
  dtype: "f32",
  cases: [
    {
      kind: "prefill",
      tokens: 100,
      ms: [20, 10, 40],
      waitingMs: [1, 2, 3],
      flops: 4e9,
      weightBytes: 8e6,
      stateBytes: 0,
    },
    { kind: "decode", tokens: 50, ms: [2, 1, 4], waitingMs: [0, 0, 0], flops: 4e6, weightBytes: 8e6, stateBytes: 2e6 },
  ],
};
const CALIBRATED: BenchRun["calibrated"] = {
  ranks: 2,
  threads: 1,
  measured: "2026-11-29",
  costs: { flopsPerSecond: 500e9, gemmRates: [[1, 10e9], [200, 200e9], [1000, 500e9]], bytesPerSecond: 20e9 },
};

type Told = {
  cases: { name: string; tokensPerSecond: { median: number; least: number; largest: number }; share?: number }[];
};

Deno.test("benchJson() gives rates, and shares of what was calibrated at as many rows", () => {
  const { cases: [prefill, decode] } = benchJson({ job: JOB, report: REPORT, calibrated: CALIBRATED }) as Told;
  assert.equal(prefill!.name, "prefill 100");
  assert.deepEqual(prefill!.tokensPerSecond, { median: 10_000, least: 5000, largest: 20_000 });
  // 4 GFLOP on two ranks in 20 ms, at 200 rows.
  assert.equal(prefill!.share, 0.5);
  assert.deepEqual(decode!.tokensPerSecond, { median: 1000, least: 500, largest: 2000 });
  // 10 MB in 2 ms.
  assert.equal(decode!.share, 0.25);
});

Deno.test("benchJson() takes a GPU's peaks from the GPU, in the dtype that it multiplies in", () => {
  const gpu = {
    name: "H100",
    architecture: 90,
    totalBytes: 80e9,
    memory: { weights: 8e6 },
    peaks: { bytesPerSecond: 10e9, flopsPerSecond: { f32: 1e12, bf16: 200e9 } },
  };
  const report = { ...REPORT, dtype: "bf16", ranks: REPORT.ranks.map((r) => ({ ...r, gpu })) } as const;
  const { cases } = benchJson({ job: JOB, report, calibrated: CALIBRATED }) as Told;
  assert.deepEqual(cases.map((c) => c.share), [0.5, 0.5]);
  const silent = { ...gpu, peaks: { flopsPerSecond: {} } };
  const run = {
    job: JOB,
    report: { ...report, ranks: [{ ...REPORT.ranks[0]!, gpu: silent }] },
    calibrated: CALIBRATED,
  };
  assert.deepEqual((benchJson(run) as Told).cases.map((c) => c.share), [undefined, undefined]);
  assert.match(benchScreen(run), /its driver does not tell its clocks/);
});

Deno.test("benchScreen() shows a line a case, and says where shares come from", () => {
  const text = benchScreen({ job: JOB, report: REPORT, calibrated: CALIBRATED });
  assert.match(
    text,
    /^llama on 2 ranks on CPUs, f32: weights 8\.00 MB a rank of 15\.0 MB; loaded in 1\.5 s, 2 sequences/,
  );
  assert.match(
    text,
    /prefill 100 +│ 10000 tokens \(5000–20000\) +│ 20\.0 \(10\.0–40\.0\) +│ 2\.00 +│ 2\.00 GFLOP +│ 100 GFLOP +│ 50 %/,
  );
  assert.match(text, /decode 50 +│ 1000 tokens .* reads 8\.00 MB \+ 2\.00 MB of cache +│ 5\.00 GB +│ 25 % of memory/);
  assert.match(
    benchScreen({ job: JOB, report: REPORT, calibrated: undefined }),
    /\? +│\n.*`shardwise calibrate` measures/s,
  );
});
