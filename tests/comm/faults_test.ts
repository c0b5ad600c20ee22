/** What the ranks of a group see when one of them dies, leaves, comes late, or means something else. */
import assert from "node:assert/strict";
import { leftovers, startRanks } from "../support/ranks.ts";

const PROGRAM = new URL("./programs/faults.ts", import.meta.url);
const VERBS = [
  ...["barrier", "barrierSync", "broadcast", "allReduce", "reduce", "allGather", "reduceScatter", "gather", "scatter"],
  ...["allToAll", "scan", "objects", "split"],
];

interface Seen {
  readonly name: string;
  readonly message: string;
  readonly ms: number;
  readonly rank?: number;
  readonly missing?: number[];
}

for (const verb of VERBS) {
  Deno.test(`a rank killed while others wait in ${verb} is named to them within a second`, async () => {
    for (const { seen, code } of await survivors("killed", verb)) {
      assert.equal(seen.name, "PeerLost", seen.message);
      assert.equal(seen.rank, 1);
      assert.ok(seen.ms < 1000, `${seen.ms} ms`);
      assert.match(seen.message, /rank 1 of group "world" ended \(process \d+\) after barrier seq 1/);
      assert.equal(code, 114);
    }
  });
  Deno.test(`a rank that calls another collective than ${verb} fails all ranks, each printing both sides`, async () => {
    const all = await run(2, "mismatch", verb);
    assert.equal(all.length, 2);
    for (const { seen, code } of all) {
      assert.equal(seen.name, "CollectiveMismatch", seen.message);
      assert.match(seen.message, /rank 0: \w+.*seq 2; rank 1: allReduce max i32\[7\] seq 2/);
      assert.equal(code, 115);
    }
  });
}

Deno.test("a rank killed inside a collective or message is named to those that wait for it", async () => {
  const verbs = [...VERBS, "allReduceSymmetric", "exclusiveScan", "mesh", "group", "sendRecv", "objectMessages"];
  // Some at a time, since each is two processes.
  for (let i = 0; i < verbs.length; i += 4) {
    await Promise.all(
      verbs.slice(i, i + 4).map(async (verb) => {
        for (const { seen, code } of await survivors("inside", verb)) {
          assert.ok(seen.name === "PeerLost" || seen.name === "RendezvousError", `${verb}: ${seen.message}`);
          if (seen.name === "PeerLost") assert.equal(seen.rank, 1, verb);
          assert.ok(seen.ms < 2000, `${verb}: ${seen.ms} ms`); // four jobs at a time on few cores
          assert.ok(code === 114 || code === 116, `${verb}: ${code}`);
        }
      }),
    );
  }
});

Deno.test("a rank that ends normally while others wait is named as lost", async () => {
  for (const { seen } of await survivors("exits", "allReduce", 3)) {
    assert.equal(seen.name, "PeerLost");
    assert.equal(seen.rank, 2);
  }
});

Deno.test("a rank that leaves the group while others wait is named as having left", async () => {
  for (const { seen } of await survivors("leaves", "allReduce", 3)) {
    assert.equal(seen.name, "PeerLost");
    assert.match(
      seen.message,
      /rank 2 of group "world" left the group normally after barrier seq 1; rank \d in allReduce sum f32\[100000\] seq 2 waits/,
    );
  }
});

Deno.test("a rank that comes too late is named by a timeout with the last thing that it did", async () => {
  const all = await run(3, "late", "allReduce");
  const early = all.filter(({ rank }) => rank < 2).map(({ seen }) => seen);
  assert.ok(early.some((s) => s.name === "CollectiveTimeout"));
  for (const seen of early.filter((s) => s.name === "CollectiveTimeout")) {
    assert.deepEqual(seen.missing, [2]);
    assert.match(seen.message, /waited 0\.4 s for rank 2: rank 2 last did barrier seq 1/);
  }
  const late = all.find(({ rank }) => rank === 2)!;
  assert.equal(late.seen.name, "CollectiveAborted");
  assert.match(late.seen.message, /gave up waiting in allReduce/);
  assert.equal(late.code, 114);
});

Deno.test("abort() wakes the ranks that wait, at once", async () => {
  for (const { seen } of await survivors("aborts", "allReduce", 3)) {
    assert.equal(seen.name, "CollectiveAborted");
    assert.equal(seen.rank, 2);
    assert.ok(seen.ms < 500, `${seen.ms} ms`);
  }
});

async function survivors(fault: string, verb: string, size = 2) {
  const all = await run(size, fault, verb);
  assert.equal(all.length, size - 1);
  return all;
}

/** What the ranks that printed something saw. */
async function run(size: number, fault: string, verb: string): Promise<{ rank: number; code: number; seen: Seen }[]> {
  const job = startRanks(size, PROGRAM, { args: [fault, verb], timeoutMs: 30_000 });
  const results = await job.results;
  assert.deepEqual(leftovers(job.runId), []);
  return results.filter((r) => r.stdout !== "").map((r) => {
    assert.ok(r.stdout.startsWith("{"), `rank ${r.rank} printed ${r.stdout}${r.stderr}`);
    return { rank: r.rank, code: r.code, seen: JSON.parse(r.stdout) as Seen };
  });
}
