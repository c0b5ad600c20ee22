import assert from "node:assert/strict";
import { evenlyShared, isEvenlyShared, isPartition, layout, localSize, unscaleCovering } from "./layout.ts";

const sizes = (size: number, by: number, ranks: number) => {
  const l = evenlyShared(size, by, ranks);
  return l.parts.map((_, r) => localSize(l, r)).join();
};

Deno.test("evenlyShared() is the balanced cut of what shares nothing", () => {
  assert.equal(sizes(7, 1, 3), "3,2,2");
});

Deno.test("evenlyShared() gives whole groups to ranks where these are enough, and parts of groups where they are not", () => {
  assert.equal(sizes(32, 4, 8), "4,4,4,4,4,4,4,4");
  assert.equal(sizes(9, 3, 2), "6,3");
  assert.equal(sizes(16, 8, 8), "2,2,2,2,2,2,2,2");
  // Two of 6 on each of 3 ranks; the middle one has one of each group.
  assert.equal(evenlyShared(6, 3, 3).key, "6:0-2|2-4|4-6");
  assert.equal(sizes(6, 6, 8), "1,1,1,1,1,1,0,0");
});

Deno.test("no rank of evenlyShared() has more of one group than of another, and no such cut has a smaller largest part", () => {
  for (let groups = 1; groups <= 4; groups++) {
    for (let by = 2; by <= 4; by++) {
      for (let ranks = 1; ranks <= 6; ranks++) {
        const l = evenlyShared(groups * by, by, ranks);
        assert.ok(isPartition(l) && isEvenlyShared(l, by), l.key);
        assert.equal(Math.max(...l.parts.map((_, r) => localSize(l, r))), least(groups * by, by, ranks), l.key);
      }
    }
  }

  /** By trying all. */
  function least(size: number, by: number, ranks: number, from = 0): number {
    if (ranks === 0) return from === size ? 0 : Infinity;
    let best = Infinity;
    for (let to = from; to <= size; to++) {
      const counts = new Map<number, number>();
      for (let i = from; i < to; i++) counts.set(Math.floor(i / by), (counts.get(Math.floor(i / by)) ?? 0) + 1);
      if (new Set(counts.values()).size > 1) continue;
      best = Math.min(best, Math.max(to - from, least(size, by, ranks - 1, to)));
    }
    return best;
  }
});

Deno.test("a unit of which a rank has several parts is covered once", () => {
  const l = layout(8, [[[0, 1], [2, 3]], [[1, 2], [3, 8]]]);
  assert.equal(unscaleCovering(l, 4)!.key, "2:0-1|0-2");
});
