import assert from "node:assert/strict";
import { dimAdd, dimMul, symbol } from "../core/dim.ts";
import { printType } from "../graph/types.ts";
import { SLICE } from "./slice.ts";

Deno.test("Slice counts a bound from the end when every term of it is negative", () => {
  const seq = symbol("seq"), total = dimAdd(symbol("past"), seq);
  const one = (element: ReturnType<typeof dimMul>) => ({ dims: [1], elements: [element] });
  const index = { dtype: "i64" as const, shape: [1] };
  const [y] = SLICE.infer({
    node: { name: "slice", op: "Slice", domain: "" },
    attributes: {},
    opset: 18,
    inputs: [{ dtype: "f32", shape: [1, 6, total, total] }, index, index, index],
    ints: [undefined, one(dimMul(seq, -1)), one(2 ** 53), one(2)],
    outputCount: 1,
    fresh: () => symbol("#"),
  });
  assert.equal(printType(y!), "f32[1,6,seq,past+seq]");
});
