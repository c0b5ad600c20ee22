/** What ranks are told that call the same verb with different details, or something that looks the same. */
import assert from "node:assert/strict";
import { runRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/disagreements.ts", import.meta.url);

/** What every rank is told, by case; undefined: nothing, since they agree. */
const MISMATCHES: Readonly<Record<string, RegExp | undefined>> = {
  gather:
    /rank 0: gather f32\[3\] in blocks of 1, 2 root 0 seq 1; rank 1: gather f32\[3\] in blocks of 2, 1 root 0 seq 1/,
  scatter:
    /rank 0: scatter f32\[3\] in blocks of 1, 2 root 0 seq 1; rank 1: scatter f32\[3\] in blocks of 2, 1 root 0 seq 1/,
  allGather: /rank 0: allGather f32\[3\] in blocks of 1, 2 seq 1; rank 1: allGather f32\[3\] in blocks of 2, 1 seq 1/,
  reduceScatter: /in blocks of 1, 2 seq 1; rank 1: reduceScatter sum f32\[3\] in blocks of 2, 1 seq 1/,
  equalCounts: undefined,
  allToAll: /disagree: in allToAll rank 0 sends 2 elements to rank 1, which expects 1 of it/,
  scan: /rank 0: scan sum f32\[1\] seq 1; rank 1: exclusive scan sum f32\[1\] seq 1/,
  values: /rank 0: objects\.allGather seq 1; rank 1: allGather f32\[2\] seq 1/,
  split: /rank 0: split seq 1; rank 1: objects\.allGather seq 1/,
  splitByHost: /rank 0: split seq 1; rank 1: splitByHost seq 1/,
  mesh: /made different meshes: rank 0: \{ dp: 2, tp: 1 \}; rank 1: \{ dp: 1, tp: 2 \}/,
  axes: /made different meshes: rank 0: \{ dp: 2 \}; rank 1: \{ tp: 2 \}/,
};

Deno.test("ranks that disagree in a detail are all told both sides, and one that gives up says why", async () => {
  const told = (await runRanks(2, PROGRAM)).map((r) => JSON.parse(r.stdout) as Record<string, string[]>);
  for (const [name, expected] of Object.entries(MISMATCHES)) {
    for (const rank of told) {
      const [kind, message] = rank[name]!;
      assert.equal(kind, expected && "CollectiveMismatch", `${name}: ${message}`);
      if (expected !== undefined) assert.match(message!, expected);
    }
  }
  const [first, second] = told as [Record<string, string[]>, Record<string, string[]>];
  assert.deepEqual(first.aborted, []);
  assert.equal(second.aborted![0], "CollectiveAborted");
  assert.match(second.aborted![1]!, /cannot go on: Rank 0 aborted group "[^"]+": the disk is full$/);
  // An aborted signal ends a collective whether or not the others are there already, and is the cause of the error.
  assert.deepEqual([first.cancelled![0], first.cancelled![2]], ["CommunicatorError", "enough"]);
  assert.match(
    second.cancelled![1]!,
    /cannot go on: Rank 0 aborted .* a collective or message was cancelled: Error: enough$/,
  );
  // Also what takes a single barrier, at which the other had arrived before it gave up.
  assert.equal(first.gaveUp![0], "CollectiveTimeout");
  assert.equal(second.gaveUp![0], "CollectiveAborted", second.gaveUp![1]);
});
