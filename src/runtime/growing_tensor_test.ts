import assert from "node:assert/strict";
import { fromNumbers } from "../core/host_tensor.ts";
import { GrowingTensor } from "./growing_tensor.ts";

Deno.test("a growing tensor keeps what it holds when its memory moves", () => {
  const tensor = new GrowingTensor("f32", [2, 0, 2], 1);
  tensor.assign(fromNumbers("f32", [2, 2, 2], [1, 2, 3, 4, 5, 6, 7, 8]));
  const room = tensor.capacity[1]!;
  tensor.reserve(room);
  const before = tensor.bytes;
  assert.equal(tensor.capacity[1], room);
  tensor.reserve(room + 1);
  assert.notEqual(tensor.bytes, before);
  assert.ok(tensor.capacity[1]! >= 2 * room, "room doubles, so that a long text moves seldom");
  assert.deepEqual(tensor.shape, [2, 2, 2]);
  assert.deepEqual([...tensor.compact().data], [1, 2, 3, 4, 5, 6, 7, 8]);
});

Deno.test("a growing tensor takes over a shorter content than it had", () => {
  const tensor = new GrowingTensor("f32", [1, 0, 1], 1);
  tensor.assign(fromNumbers("f32", [1, 3, 1], [1, 2, 3]));
  tensor.assign(fromNumbers("f32", [1, 1, 1], [9]));
  assert.deepEqual(tensor.shape, [1, 1, 1]);
  assert.deepEqual([...tensor.compact().data], [9]);
});

Deno.test("the sequences of a growing tensor change places, and the room behind them stays", () => {
  const tensor = new GrowingTensor("f32", [3, 2, 0, 1], 2);
  tensor.assign(fromNumbers("f32", [3, 2, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]));
  const { bytes } = tensor;
  tensor.reorder([2, 0, 0]);
  assert.equal(tensor.bytes, bytes);
  assert.deepEqual([...tensor.compact().data], [9, 10, 11, 12, 1, 2, 3, 4, 1, 2, 3, 4]);
});
