import assert from "node:assert/strict";
import { dimAdd, dimKey, symbol } from "../core/dim.ts";
import { INT_FUNCTIONS, INT_UNARY, knownScalar, knownVector, mapKnown } from "./known_ints.ts";

const b = symbol("b"), s = symbol("s"), data = symbol("nonzero#0");

Deno.test("Equal() tells that a size is not -1, but not so for a size that data decides", () => {
  assert.equal(INT_FUNCTIONS.Equal!(b, -1), 0);
  assert.equal(INT_FUNCTIONS.Equal!(data, -1), undefined);
});

Deno.test("Equal() tells equal and shifted sizes apart, and leaves different symbols open", () => {
  assert.equal(INT_FUNCTIONS.Equal!(dimAdd(b, s), dimAdd(s, b)), 1);
  assert.equal(INT_FUNCTIONS.Equal!(dimAdd(b, 1), b), 0);
  assert.equal(INT_FUNCTIONS.Equal!(b, s), undefined);
});

Deno.test("Div() truncates numbers and keeps exact division of sizes", () => {
  assert.equal(INT_FUNCTIONS.Div!(-7, 2), -3);
  assert.equal(dimKey(INT_FUNCTIONS.Div!(INT_FUNCTIONS.Mul!(b, 96)!, 16)!), "6*b");
  assert.equal(INT_FUNCTIONS.Div!(b, 0), undefined);
});

Deno.test("Less() follows from a constant difference only", () => {
  assert.equal(INT_FUNCTIONS.Less!(b, dimAdd(b, 1)), 1);
  assert.equal(INT_FUNCTIONS.Less!(b, s), undefined);
});

Deno.test("Abs() keeps a size and drops one that may be negative", () => {
  assert.equal(INT_UNARY.Abs!(b), b);
  assert.equal(INT_UNARY.Abs!(dimAdd(b, -3)), undefined);
});

Deno.test("mapKnown() broadcasts a scalar and a column", () => {
  const sum = mapKnown([knownVector([b, 2]), knownScalar(1)], dimAdd);
  assert.deepEqual(sum!.elements.map(dimKey), [dimKey(dimAdd(b, 1)), "3"]);
  const grid = mapKnown([{ dims: [2, 1], elements: [1, 2] }, { dims: [3], elements: [10, 20, 30] }], dimAdd);
  assert.deepEqual(grid, { dims: [2, 3], elements: [11, 21, 31, 12, 22, 32] });
});

Deno.test("mapKnown() gives up where one element is not known", () => {
  assert.equal(mapKnown([knownVector([b, 2]), knownVector([s, 2])], INT_FUNCTIONS.Equal!), undefined);
});
