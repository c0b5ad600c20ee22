/**
 * The same cases as parity_test.ts, and greedy generation, as jobs of real processes through `shardwise verify`. tests/cli/verify_test.ts
 * runs the small models at 1 to 4 ranks; here they run at 8, on fewer cores. SHARDWISE_TEST_ALL=1 runs all models of the shared folder, at
 * every world size: minutes.
 */
import assert from "node:assert/strict";
import type { VerifyResult } from "../../cli/job.ts";
import { shardwise } from "../support/cli.ts";
import { sharedOrSkip } from "../support/shared.ts";

/** Its references are of a processor with VNNI; without, ONNX Runtime's sums of u8·s8 saturate, and one session differs as much. */
const OTHER_PROCESSOR = /^llama-int8 (prefill|decode|chunk)/;

async function assertVerified(folder: string, sizes: readonly number[], least: number): Promise<void> {
  const { code, stdout, stderr } = await shardwise("verify", folder, "--nproc", sizes.join(","), "--json");
  const { results } = JSON.parse(stdout) as { results: VerifyResult[] };
  const excused = (r: VerifyResult) => OTHER_PROCESSOR.test(r.name) && /gives the same/.test(r.verdict ?? "");
  const failed = results.filter((r) => !r.pass && !excused(r)).map((r) =>
    `${r.name} at ${r.ranks}: ${r.problem ?? "differs"}; ${r.verdict}`
  );
  assert.deepEqual(failed, [], stderr.slice(-2000));
  assert.equal(code, results.every((r) => r.pass) ? 0 : 1);
  assert.ok(results.length >= least * sizes.length, `only ${results.length} results`);
}

Deno.test("8 processes give PyTorch's outputs and its greedy tokens for every small model", async () => {
  await assertVerified("tests/data/models", [8], 33);
});

// Three ranks are the fewest of which one may hold no head at all.
const quantised = sharedOrSkip("models/quantised");
if (quantised !== undefined) {
  Deno.test("3 processes give the references of all quantised models, one rank having no head", async () => {
    await assertVerified(quantised, [3], 20);
  });
}

if (Deno.env.get("SHARDWISE_TEST_ALL") === "1") {
  const groups = {
    decoders: 88,
    encoders: 18,
    seq2seq: 28,
    dynamo: 35,
    genai: 27,
    moe: 16,
    "ort-fused": 6,
    quantised: 20,
  };
  for (const [group, least] of Object.entries(groups)) {
    const folder = sharedOrSkip(`models/${group}`);
    if (folder === undefined) continue;
    for (const size of [1, 2, 3, 4, 5, 8]) {
      Deno.test(`${size} processes give PyTorch's outputs and its greedy tokens for all ${group}`, async () => {
        await assertVerified(folder, [size], least);
      });
    }
  }
}
