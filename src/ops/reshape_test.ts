import assert from "node:assert/strict";
import { type Dim, dimKey, dimMul, symbol } from "../core/dim.ts";
import { commonBlocks } from "./reshape.ts";

const b = symbol("b"), s = symbol("s");

function blocks(from: readonly Dim[], to: readonly Dim[]): string[] {
  return commonBlocks(from, to).map((x) =>
    `${x.from.dim}/${dimKey(x.from.inner)}:${dimKey(x.from.size)}:${x.to.dim}/${dimKey(x.to.inner)}`
  ).toSorted();
}

Deno.test("commonBlocks() splits a fused dim into heads and their elements", () => {
  assert.deepEqual(blocks([b, s, 96], [b, s, 6, 16]), ["0/1:b:0/1", "1/1:s:1/1", "2/16:6:2/1", "2/1:16:3/1"]);
});

Deno.test("commonBlocks() merges a symbolic batch with heads", () => {
  assert.deepEqual(blocks([b, 6, s, 16], [dimMul(b, 6), s, 16]), ["0/1:b:0/6", "1/1:6:0/1", "2/1:s:1/1", "3/1:16:2/1"]);
});

Deno.test("commonBlocks() finds the common divisor of dims that are cut differently", () => {
  // Index i of 24 is (i / 6, i % 6) and (i / 8, i % 8): only i % 2 is part of both.
  assert.deepEqual(blocks([4, 6], [3, 8]), ["1/1:2:1/1"]);
});

Deno.test("commonBlocks() skips dims of size 1", () => {
  assert.deepEqual(blocks([2, 1, 12], [2, 3, 1, 4]), ["0/1:2:0/1", "2/1:4:3/1", "2/4:3:1/1"]);
});

Deno.test("commonBlocks() resumes left of dims without common structure", () => {
  assert.deepEqual(blocks([5, 2, 3], [5, 3, 2]), ["0/1:5:0/1"]);
});
