// deno-lint-ignore-file no-console -- a rank reports to its test by its output
// Runs a list of collectives on subgroups, given as JSON, and compares each result with plain arithmetic.
import assert from "node:assert/strict";
import type { Communicator } from "../../../src/runtime/comm/communicator.ts";
import { init } from "../../../src/runtime/comm/init.ts";

/** One collective on the members of group `group`, of `n` elements, asked for `ahead` of others or awaited at once. */
interface Step {
  readonly group: number;
  readonly verb: string;
  readonly n: number;
  readonly root: number;
  readonly await: boolean;
}

await using comm = await init({ timeoutMs: 30_000 });
for (const { groups, steps } of JSON.parse(Deno.args[0]!) as { groups: number[][]; steps: Step[] }[]) {
  const members = groups.map((g) => g.map((r) => r % comm.size)).map((g) => [...new Set(g)]);
  const made: (Communicator | undefined)[] = [];
  for (const ranks of members) made.push(ranks.includes(comm.rank) ? await comm.subgroup(ranks) : undefined);
  const pending: Promise<void>[] = [];
  for (const [at, step] of steps.entries()) {
    const group = made[step.group % made.length], ranks = members[step.group % made.length]!;
    if (group === undefined) continue;
    const work = run(group, ranks, step, at);
    if (step.await) await work;
    else pending.push(work);
  }
  await Promise.all(pending);
  for (const group of made) await group?.close();
}
await comm.close();
console.log("done");

/** What rank `r` of the job contributes. */
function value(r: number, at: number, i: number): number {
  return (r + 1) * 31 + at * 17 + i;
}

async function run(group: Communicator, ranks: number[], step: Step, at: number): Promise<void> {
  const { verb, n } = step, p = ranks.length, root = step.root % p;
  const mine = Int32Array.from({ length: n }, (_, i) => value(comm.rank, at, i));
  const all = (f: (i: number) => number) => [...Int32Array.from({ length: n }, (_, i) => f(i))];
  const total = (i: number) => ranks.reduce((sum, r) => sum + value(r, at, i), 0);
  switch (verb) {
    case "allReduce":
      await group.allReduce(mine);
      return assert.deepEqual([...mine], all(total));
    case "broadcast":
      await group.broadcast(mine, root);
      return assert.deepEqual([...mine], all((i) => value(ranks[root]!, at, i)));
    case "reduce":
      await group.reduce(mine, root);
      return assert.deepEqual([...mine], all((i) => group.rank === root ? total(i) : value(comm.rank, at, i)));
    case "allGather": {
      const out = new Int32Array(n * p);
      await group.allGather(mine, out);
      return assert.deepEqual([...out], ranks.flatMap((r) => all((i) => value(r, at, i))));
    }
    case "scan":
      await group.scan(mine);
      return assert.deepEqual(
        [...mine],
        all((i) => ranks.slice(0, group.rank + 1).reduce((sum, r) => sum + value(r, at, i), 0)),
      );
    case "barrier":
      return void await group.barrier();
    default:
      throw new Error(`Unknown verb ${verb}`);
  }
}
