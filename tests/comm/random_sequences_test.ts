/** Random sequences of collectives on random, overlapping subgroups. */
import fc from "fast-check";
import { runRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/random_sequences.ts", import.meta.url);

const STEP = fc.record({
  group: fc.nat({ max: 3 }),
  verb: fc.constantFrom("allReduce", "broadcast", "reduce", "allGather", "scan", "barrier"),
  n: fc.oneof(fc.nat({ max: 5 }), fc.nat({ max: 200_000 })),
  root: fc.nat({ max: 6 }),
  await: fc.boolean(),
});
const SCENARIO = fc.record({
  groups: fc.array(fc.array(fc.nat({ max: 6 }), { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 4 }),
  steps: fc.array(STEP, { maxLength: 12 }),
});

Deno.test("random sequences of collectives on random subgroups give what plain arithmetic gives", async () => {
  // Many scenarios in one start of processes; fast-check shrinks over the whole list.
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 2, max: 5 }),
      fc.array(SCENARIO, { minLength: 8, maxLength: 8 }),
      async (size, scenarios) => {
        await runRanks(size, PROGRAM, { args: [JSON.stringify(scenarios)], timeoutMs: 40_000 });
      },
    ),
    { numRuns: 5, endOnFailure: true },
  );
});
