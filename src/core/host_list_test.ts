import assert from "node:assert/strict";
import { expandHostList, tasksOnNode } from "./host_list.ts";

Deno.test("expandHostList() expands ranges, keeps leading zeros and order", () => {
  assert.deepEqual(expandHostList("node[001-003,007],gpu5"), ["node001", "node002", "node003", "node007", "gpu5"]);
  assert.deepEqual(expandHostList("r[1-2]n[0-1].x"), ["r1n0.x", "r1n1.x", "r2n0.x", "r2n1.x"]);
  assert.deepEqual(expandHostList("localhost"), ["localhost"]);
  assert.deepEqual(expandHostList("n[09-10]"), ["n09", "n10"]);
});

Deno.test("expandHostList() refuses what is malformed or names too many hosts", () => {
  for (const text of ["n[1-", "n]1[", "n[a-b]", "n[3-1]", "n[1-9999999]", "n[[1]]"]) {
    assert.throws(() => expandHostList(text), /Cannot expand the node list/, text);
  }
});

Deno.test("tasksOnNode() reads Slurm's repeated counts", () => {
  assert.deepEqual([0, 1, 2, 3, 4].map((n) => tasksOnNode("2(x3),1", n)), [2, 2, 2, 1, undefined]);
  assert.equal(tasksOnNode("many", 0), undefined);
});
