/** What ranks are told of errors that others meet, in real processes. */
import assert from "node:assert/strict";
import { startRanks } from "../../tests/support/ranks.ts";

const PROGRAM = new URL("../../tests/cli/programs/outcomes.ts", import.meta.url);

async function told(how: string): Promise<{ readonly said: string[]; readonly code: number }[]> {
  const results = await startRanks(3, PROGRAM, { args: [how] }).results;
  return results.map(({ stdout, stderr, code }) => {
    assert.match(stdout, /^\[/, stderr);
    return { said: JSON.parse(stdout), code };
  });
}

Deno.test("an error that all ranks meet is each one's own, and they go on", async () => {
  for (const { said, code } of await told("alike")) {
    assert.deepEqual(said, ["first: TypeError: everywhere", "second: fine"]);
    assert.equal(code, 0);
  }
});

Deno.test("an error that one rank meets at the end is told to the others, and all go on", async () => {
  const [first, failed, last] = await told("after");
  assert.deepEqual(failed!.said, ["first: TypeError: here", "second: fine"]);
  for (const { said } of [first!, last!]) {
    assert.match(said[0]!, /^first: ShardwiseError: rank 1, and not all others: .*here/);
    assert.equal(said[1], "second: fine");
  }
});

Deno.test("a rank that fails while the others wait for it ends, and they learn that it did", async () => {
  const [first, failed, last] = await told("within");
  assert.match(failed!.said[0]!, /^first: CommunicatorError: This rank failed, and others did not: .*here/);
  assert.equal(failed!.code, 115);
  for (const { said, code } of [first!, last!]) {
    assert.match(said[0]!, /^first: PeerLost: .*rank 1/);
    assert.equal(code, 114);
  }
});
