/** `shardwise calibrate`: real ranks measure, and plans and runs follow rank 0's numbers. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { calibrationPlace, storeMeasurement } from "../../src/runtime/host/calibration.ts";
import { shardwiseIn, testModel } from "../support/cli.ts";

Deno.test("shardwise calibrate measures with real ranks, and plan says that it uses the result", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-test-" }), env = { SHARDWISE_CACHE: folder };
  try {
    const { code, stdout, stderr } = await shardwiseIn(env, "calibrate", "--nproc", "2", "--json");
    assert.equal(code, 0, stderr);
    const [{ ranks, costs }] = JSON.parse(stdout);
    assert.equal(ranks, 2);
    for (const name of ["flopsPerSecond", "bytesPerSecond", "sharedBytesPerSecond", "gatherBytesPerSecond"]) {
      assert.ok(costs[name] > 1e7 && costs[name] < 1e14, `${name} ${costs[name]}`);
    }
    assert.ok(costs.collectiveSeconds > 0 && costs.collectiveSeconds < 10);
    assert.deepEqual(costs.gemmRates.map(([rows]: [number, number]) => rows), [1, 4, 16, 64, 256]);
    const planned = await shardwiseIn(env, "plan", testModel("mlp"), "--tp", "2");
    assert.match(planned.stdout, /^costs: measured on this host with 2 ranks on \d{4}-\d\d-\d\d$/m);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});

Deno.test("runs are planned with what rank 0's host measured, and end with the same error on all ranks where that is broken", async () => {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-test-" }), env = { SHARDWISE_CACHE: folder };
  try {
    const place = calibrationPlace(env);
    const generate = () =>
      shardwiseIn(
        env,
        "generate",
        testModel("llama"),
        "--nproc",
        "2",
        "--prompt-ids",
        "24,79,85",
        "--max-new-tokens",
        "4",
      );
    // Splitting is worth nothing: another plan, the same tokens.
    const costs = { collectiveSeconds: 1, splitCollectives: 0, memoryPrice: 0 };
    const before = await generate();
    storeMeasurement(place, { ranks: 2, threads: 1, measured: "2026-01-01T00:00:00Z", costs });
    const planned = await shardwiseIn(env, "plan", testModel("llama"), "--tp", "2", "--json");
    assert.deepEqual(JSON.parse(planned.stdout).collectives, []);
    const after = await generate();
    assert.deepEqual([after.code, after.stdout], [0, before.stdout], after.stderr);
    Deno.writeTextFileSync(place.path!, "broken");
    const { code, stderr } = await generate();
    assert.equal(code, 2, stderr);
    assert.ok(stderr.includes(`Cannot read the costs in ${join(folder, "costs-")}`), stderr);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
});
