import assert from "node:assert/strict";
import { ControlBlock, controlBlockBytes, countList, describeRecord, encodeOperation } from "./control_block.ts";

Deno.test("records tell lists of counts apart that are longer than they have room for", () => {
  const block = new ControlBlock(new ArrayBuffer(controlBlockBytes(2)), 0, 2);
  const counts = Array.from({ length: 20 }, (_, i) => i), other = counts.with(18, 19).with(19, 18);
  const texts = [counts, other].map((list, rank) => {
    const op = { verb: "gather", dtype: "f32", reduceOp: undefined, root: 0, count: 190 } as const;
    block.record(rank, 1, encodeOperation({ ...op, counts: countList(list) }));
    return describeRecord(block.lastRecord(rank));
  });
  for (const text of texts) {
    assert.match(text, /^gather f32\[190\] in blocks of 0, 1, 2, 3, 4, 5, 6, … \(20 counts, hash /);
  }
  assert.notEqual(texts[0], texts[1]);
  assert.equal(countList([3, 3, 3]), undefined); // the number of elements says it
});

Deno.test("why a rank stopped the group is kept as far as there is room", () => {
  const block = new ControlBlock(new ArrayBuffer(controlBlockBytes(2)), 0, 2);
  assert.equal(block.reason(1), "");
  block.abort("user", 1, { rank: 1, text: "é".repeat(200) });
  assert.equal(block.reason(1), "é".repeat(127));
  block.abort("user", 0, { rank: 0, text: "later" });
  assert.deepEqual([block.aborted, block.reason(0)], [{ kind: "user", culprit: 1 }, ""]);
});
