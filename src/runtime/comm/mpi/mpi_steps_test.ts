import assert from "node:assert/strict";
import { pieces, pinned } from "./mpi_steps.ts";

Deno.test("what MPI's ints cannot count travels in pieces of whole elements, and nothing in one empty piece", () => {
  const bytes = Uint8Array.from({ length: 20 }, (_, i) => i);
  const lengths = (n: number, itemBytes: number, most: number) =>
    [...pieces(bytes.subarray(0, n), itemBytes, most)].map((p) => p.length);
  assert.deepEqual(lengths(20, 4, 2), [8, 8, 4]);
  assert.deepEqual(lengths(16, 4, 2), [8, 8]);
  assert.deepEqual(lengths(8, 4, 2), [8]);
  assert.deepEqual(lengths(0, 4, 2), [0]);
  assert.deepEqual([...pieces(bytes, 1, 7)].flatMap((p) => [...p]), [...bytes]);
});

Deno.test("empty arrays get memory of their own, so that MPI sees no two at one address", () => {
  const [a, b] = [pinned(new Uint8Array(0)), pinned(new Uint8Array(0))];
  assert.equal(a.length, 0);
  assert.ok(a.buffer.byteLength > 0);
  assert.notEqual(a.buffer, b.buffer);
  const own = Uint8Array.of(1, 2, 3);
  assert.equal(pinned(own), own);
});
