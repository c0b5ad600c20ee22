import assert from "node:assert/strict";
import { f16ArrayToF32, f32ArrayToF16 } from "./half.ts";
import { convertFloats, saturated } from "./narrow_floats.ts";

const LOWEST = -3.4028234663852886e38;

Deno.test("convertFloats() keeps finite numbers finite, infinities infinite and NaN NaN", () => {
  const given = Float32Array.of(LOWEST, -LOWEST, -Infinity, NaN, 1, 65519, -65520);
  const back = (to: "f16" | "bf16") => [...convertFloats(convertFloats(given, "f32", to), to, "f32")];
  assert.deepEqual(back("f16"), [-65504, 65504, -Infinity, NaN, 1, 65504, -65504]);
  assert.deepEqual(back("bf16").slice(0, 5), [-3.3895313892515355e38, 3.3895313892515355e38, -Infinity, NaN, 1]);
});

Deno.test("convertFloats() goes from one dtype of 16 bits to the other, and leaves a dtype as it is", () => {
  const halves = f32ArrayToF16(Float32Array.of(1.5, -0.25, 65504));
  assert.deepEqual([...convertFloats(convertFloats(halves, "f16", "bf16"), "bf16", "f32")], [1.5, -0.25, 65536]);
  assert.deepEqual([...f16ArrayToF32(convertFloats(halves, "f16", "f16") as Uint16Array)], [1.5, -0.25, 65504]);
  assert.equal(saturated(Infinity, "f16"), Infinity);
});
