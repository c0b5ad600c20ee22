/** Tokens that are picked on a GPU: the same as the host picks from whole rows, for one small copy a token. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fromNumbers } from "../../src/core/host_tensor.ts";
import { CudaLibraries } from "../../src/ffi/cuda_libraries.ts";
import { RandomStream } from "../../src/generate/random.ts";
import { Sampler, type SamplingOptions } from "../../src/generate/sampler.ts";
import { parseGraph } from "../../src/graph/text_parser.ts";
import { GpuDevice } from "../../src/runtime/cuda/device.ts";
import { GpuExecutor } from "../../src/runtime/cuda/executor.ts";
import { runRanks } from "../support/ranks.ts";
import { REPOSITORY } from "../support/shared.ts";
import { cudaTest } from "../support/standin.ts";

const PROGRAM = new URL("./programs/sample.ts", import.meta.url), TOKENS = 6;

const OPTIONS: readonly SamplingOptions[] = [
  { temperature: 0.8, seed: 3 },
  { temperature: 1.5, seed: 2 ** 40 + 1 },
  { temperature: 1, minP: 0.05, seed: 7 },
  { temperature: 0.7, topP: 0.9, seed: 5 },
  { temperature: 1.2, topP: 0.5, minP: 0.1, seed: 9 },
  { temperature: 1, topK: 8, seed: 4 },
  { temperature: 0, repetitionPenalty: 1.3 },
  { temperature: 0.9, repetitionPenalty: 1.2, seed: 6 },
  { temperature: 0.9, topP: 0.8, repetitionPenalty: 0.8, seed: 8 },
  { temperature: 1, topK: 5, repetitionPenalty: 1.1, seed: 1 },
];

const ALL = Deno.env.get("SHARDWISE_TEST_ALL") === "1";

for (const ranks of ALL ? [1, 2, 4] : [1, 2]) {
  cudaTest(
    `${ranks} GPUs pick the tokens that the host picks from all logits, and tell no row of them`,
    async (env) => {
      const args = [
        join(REPOSITORY, "tests/data/models/llama"),
        String(TOKENS),
        ...OPTIONS.map((o) => JSON.stringify(o)),
      ];
      const [first] = await runRanks(ranks, PROGRAM, { args, env, timeoutMs: 400_000 });
      const lines = first!.stdout.trim().split("\n").map((line) => JSON.parse(line));
      assert.equal(lines.length, OPTIONS.length);
      for (const { options, drawn, host, bytes } of lines) {
        assert.equal(drawn.length, TOKENS);
        assert.deepEqual(drawn, host, JSON.stringify(options));
        const { topK = 0, topP = 1, temperature } = options as SamplingOptions;
        // Values and ids, 4 bytes each; the vocabulary is of 97.
        const count = temperature === 0 ? 1 : topK > 0 ? topK : topP < 1 ? 97 : 1;
        assert.deepEqual(bytes, Array(TOKENS).fill(8 * count + (topP < 1 ? 8 : 0)), JSON.stringify(options));
      }
      assert.ok(new Set(lines.map((l) => l.drawn.join())).size > OPTIONS.length / 2, "texts differ");
    },
    { gpus: ranks },
  );
}

cudaTest("rows of many blocks are drawn from as the host does it, each with its own number and tokens", async (env) => {
  using device = new GpuDevice({ gpu: 0, libraries: new CudaLibraries({ env }) });
  const columns = 5003, random = new RandomStream(1);
  const rows = [0, 1].map(() => Float32Array.from({ length: columns }, () => 8 * random.next() - 4));
  const data = rows.flatMap((row) => [...new Array<number>(columns).fill(50), ...row]); // a position before the last
  const text = `graph g : local {opset=17}
%x = placeholder : f32[2,2,${columns}]
%y = Identity(%x) : f32[2,2,${columns}]
output %y as "logits"
`;
  using executor = new GpuExecutor(parseGraph(text, { stage: "local" }), { device, rank: 0, ranks: 1 });
  using state = executor.start(2);
  const inputs = { x: fromNumbers("f32", [2, 2, columns], data) }, seen = [[3, 4, 4999], [70]];
  const all: readonly SamplingOptions[] = [
    { temperature: 1.3 },
    { temperature: 2, minP: 0.3 },
    { temperature: 1, repetitionPenalty: 1.5 },
    { temperature: 0, repetitionPenalty: 0.5 },
    { temperature: 0.1, topP: 0.4 },
    { temperature: 3, topP: 0.9 },
  ];
  for (const options of all) {
    for (let seed = 0; seed < 3; seed++) {
      const samplers = [seed, seed + 100].map((s) => new Sampler({ ...options, seed: s }));
      const host = [seed, seed + 100].map((s, r) => new Sampler({ ...options, seed: s }).pick(rows[r]!, seen[r]));
      const { draws, penalty, ...wants } = samplers[0]!.wants!;
      const top = {
        ...wants,
        output: "logits",
        ...(draws ? { draws: samplers.map((s) => s.nextNumber) } : {}),
        ...(penalty ? { penalty: { factor: penalty, seen } } : {}),
      };
      const found = await executor.step(inputs, state, { top });
      const [values, ids, sums] = ["values", "ids", "sums"].map((what) => found.get(`logits.${what}`)?.data);
      const picked = samplers.map((sampler, r) => {
        const own = (list: ArrayLike<unknown>) =>
          Array.from(list).slice(r * wants.count, (r + 1) * wants.count) as number[];
        const logits = { values: own(values!), ids: own(ids!), ...(sums ? { sum: Number(sums[r]) } : {}) };
        if (sampler.suffices(logits, seen[r])) return sampler.pick(logits, seen[r]);
        assert.equal(options.temperature, 3, "only what is flat needs the whole row");
        const whole = executor.whole("logits")!.data.subarray((2 * r + 1) * columns, (2 * r + 2) * columns);
        return sampler.pick(whole as Float32Array, seen[r]);
      });
      assert.deepEqual(picked, host, `${JSON.stringify(options)}, seed ${seed}`);
    }
  }
});
