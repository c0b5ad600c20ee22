import assert from "node:assert/strict";
import type { Access, MapStep } from "../../ops/kernels/kernel.ts";
import { fuseMaps } from "./fuse_maps.ts";

const SHAPE = [2, 3], STRIDES = [3, 1];
const x = (index: number, strides = STRIDES): Access => {
  return { operand: { of: "input", index, dtype: "f32" }, offset: 0, strides };
};
const made = (index: number, strides = STRIDES): Access => {
  return { operand: { of: "scratch", index, dtype: "f32" }, offset: 0, strides };
};
const y: Access = { operand: { of: "output", index: 0, dtype: "f32" }, offset: 0, strides: STRIDES };
const map = (reads: readonly Access[], write: Access, expression: string, params = {}): MapStep => {
  return { kind: "map", shape: SHAPE, reads, write, expression, params };
};

Deno.test("fuseMaps() keeps what only the next map reads in a name, and its reads and numbers apart", () => {
  const fused = fuseMaps([
    map([x(0)], made(0), "x0 * alpha", { alpha: 2 }),
    map([x(1, [0, 1])], made(1), "f_exp(x0)"),
    map([made(1), x(2), made(0)], y, "x0 + x1 * x2 * alpha", { alpha: { float: 3 } }),
  ])!;
  assert.deepEqual(fused.lets, [
    { name: "t0", expression: "(float)(x0 * alpha_0)" },
    { name: "t1", expression: "(float)(f_exp(x1))" },
  ]);
  assert.equal(fused.expression, "t1 + x2 * t0 * alpha_2");
  assert.deepEqual(fused.reads, [x(0), x(1, [0, 1]), x(2)]);
  assert.deepEqual(fused.params, { alpha_0: 2, alpha_2: { float: 3 } });
});

Deno.test("fuseMaps() leaves maps apart where one is read other than element by element", () => {
  const first = map([x(0)], made(0), "-x0");
  assert.equal(fuseMaps([first, map([made(0, [0, 1])], y, "x0")]), undefined);
  assert.equal(fuseMaps([first, map([made(0)], y, "ld(p0[o0 + 1])")]), undefined);
  assert.equal(fuseMaps([{ ...first, target: "o + 1" }, map([made(0)], y, "x0")]), undefined);
  assert.equal(fuseMaps([{ ...first, shape: [6] }, map([made(0)], y, "x0")]), undefined);
});
