import { deepEqual, equal, ok } from "node:assert/strict";
import { InferenceSession } from "onnxruntime-node";
import { LocalCommunicator } from "../../src/runtime/comm/local.ts";
import { CausalFeeds } from "../../src/generate/feeds.ts";
import { parallelizeModel } from "../../src/session.ts";
import { type Architecture, ARCHITECTURES } from "./architectures.ts";
import { describeDecoder } from "./decoder.ts";
import { ownMemory } from "../../src/runtime/host/process_memory.ts";
import { scaledGraph, writeModel } from "./model_cache.ts";
import { PeerRunner } from "./peer_runner.ts";
import { check, longestSequence, measure, type Runner, type Workload } from "./workload.ts";

const WORKLOAD: Workload = { prefill: [3], decode: [8], repeats: 2, tokens: 6, vocabulary: 50 };

Deno.test("measure() times single tokens around the past length, and whole prompts", async () => {
  const steps: { past: number; length: number }[] = [];
  let past = 0;
  const runner: Runner = {
    reset: () => void (past = 0),
    step(ids) {
      ok(ids.every((id) => id >= 0 && id < WORKLOAD.vocabulary));
      steps.push({ past, length: ids.length });
      past += ids.length;
      ok(past <= longestSequence(WORKLOAD));
      return Promise.resolve(new Float32Array(ids.length * WORKLOAD.vocabulary));
    },
  };
  const { times } = await measure(runner, WORKLOAD, { loadMs: 1, loaded: ownMemory() });
  deepEqual(Object.keys(times), ["decode 8", "prefill 3"]);
  deepEqual(steps.filter((s) => s.length === 1).map((s) => s.past), [5, 6, 7, 8, 9, 10]);
  equal(times["decode 8"]!.length, 4); // the first two warm up
  equal(steps.filter((s) => s.length === 3 && s.past === 0).length, 3); // one warms up
  equal(times["prefill 3"]!.length, 2);
});

for (const architecture of Object.values<Architecture>(ARCHITECTURES)) {
  Deno.test(`a scaled ${architecture.name} gives the same logits in ONNX Runtime and here`, async () => {
    const { from } = architecture;
    const folder = Deno.makeTempDirSync({ prefix: "shardwise-bench-test-" });
    try {
      const path = `${folder}/model.onnx`;
      // Everything changes but the ratio of query heads to kv heads.
      const to = {
        ...from,
        layers: 4,
        hidden: from.heads * 32,
        heads: 2 * from.heads,
        kvHeads: 2 * from.kvHeads,
        vocabulary: 131,
      };
      writeModel(scaledGraph(architecture, to), path);
      const decoder = describeDecoder(path);
      equal(decoder.caches.length, 8);
      const workload = { ...WORKLOAD, vocabulary: decoder.vocabulary };
      const session = await InferenceSession.create(path, { intraOpNumThreads: 1 });
      const capacity = longestSequence(workload);
      const plain = new PeerRunner(session, decoder, { capacity, preallocate: false });
      const given = new PeerRunner(session, decoder, { capacity, preallocate: true });
      const expected = await check(plain, workload);
      ok(expected.some((v) => Math.abs(v) > 0.01));
      deepEqual(await check(given, workload), expected);
      await session.release();

      await using model = await parallelizeModel(path, { comm: new LocalCommunicator(), threads: 1 });
      const state = model.start(1), feeds = new CausalFeeds(decoder.inputs, { capacity });
      let past = 0;
      const got = await check({
        reset: () => void (past = 0),
        async step(ids) {
          const { logits } = await model.step(feeds.at(past, [ids]), state);
          past += ids.length;
          return logits!.data as Float32Array;
        },
      }, workload);
      // Rounding in another order, over four layers.
      const apart = expected.reduce((most, v, i) => Math.max(most, Math.abs(v - got[i]!)), 0);
      ok(apart < 1e-4, `${apart}`);
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  });
}
