/** One law for all engines, here over shared memory and alone; other engines run the same program. */
import assert from "node:assert/strict";
import { leftovers, runRanks, startRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./conformance/program.ts", import.meta.url);
/** More ranks cost more to check, and differ in nothing that depends on the operation: every n-th combination is enough. */
const RUNS: readonly { ranks: number; args: string[]; atLeast: number }[] = [
  { ranks: 1, args: ["0,1,3,1023,1048576", "1"], atLeast: 14_000 },
  { ranks: 2, args: ["0,1,3,1023,1048576", "1"], atLeast: 13_000 },
  { ranks: 3, args: ["0,1,3,1023", "9"], atLeast: 9000 },
  { ranks: 4, args: ["0,3,255,70000", "6"], atLeast: 5000 },
  { ranks: 7, args: ["1,129", "6", "f32,bf16,i32,u8,i64"], atLeast: 1000 },
  { ranks: 16, args: ["3,65", "9", "f32,i32"], atLeast: 300 },
];

/** Every size, dtype and operation on every number of ranks: minutes on two cores, so only where all tests are asked for. */
const WHOLE: typeof RUNS = [3, 4, 7, 16].map((ranks) => (
  { ranks, args: ["0,1,3,1023,1048576", "1"], atLeast: 13_000 }
));

interface Printed {
  readonly cases: number;
  readonly hash: string;
}

for (const { ranks, args, atLeast } of [...RUNS, ...WHOLE]) {
  const whole = WHOLE.some((run) => run.args === args);
  Deno.test({
    name: `every verb, dtype, operation and size is right on ${ranks} ranks, with the same bits on all${
      whole ? ", all of them" : ""
    }`,
    ignore: whole && Deno.env.get("SHARDWISE_TEST_ALL") !== "1",
    fn: async () => {
      const options = { args, ...whole ? { timeoutMs: 1_800_000 } : {} };
      const results = (await runRanks(ranks, PROGRAM, options)).map((r) => JSON.parse(r.stdout) as Printed);
      for (const { cases } of results) assert.ok(cases >= atLeast, `${cases} cases`);
      assert.equal(new Set(results.map((r) => r.hash)).size, 1);
    },
  });
}

Deno.test("two runs give the same bits, and leave nothing in /dev/shm", async () => {
  const run = async () => {
    const job = startRanks(3, PROGRAM, { args: ["257", "9"] });
    const hashes = (await job.results).map((r) => JSON.parse(r.stdout).hash as string);
    assert.deepEqual(leftovers(job.runId), []);
    return hashes;
  };
  assert.deepEqual(await run(), await run());
});
