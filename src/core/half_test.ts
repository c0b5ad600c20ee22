import assert from "node:assert/strict";
import {
  bf16ArrayToF32,
  bf16ToF32,
  f16ArrayToF32,
  f16ToF32,
  f32ArrayToBf16,
  f32ArrayToF16,
  f32ToBf16,
  f32ToF16,
} from "./half.ts";

const ALL = Uint16Array.from({ length: 65536 }, (_, i) => i);

function isNan16(bits: number, infinity: number): boolean {
  return (bits & 0x7fff) > infinity;
}

Deno.test("every binary16 equals what DataView reads, and goes back to its own bits", () => {
  const view = new DataView(new ArrayBuffer(2));
  for (const bits of ALL) {
    view.setUint16(0, bits);
    assert.ok(Object.is(f16ToF32(bits), view.getFloat16(0)), `0x${bits.toString(16)}`);
    const back = f32ToF16(f16ToF32(bits));
    if (isNan16(bits, 0x7c00)) assert.ok(isNan16(back, 0x7c00));
    else assert.equal(back, bits);
  }
});

Deno.test("every bfloat16 is the upper half of a float32, and goes back to its own bits", () => {
  const view = new DataView(new ArrayBuffer(4));
  for (const bits of ALL) {
    view.setUint32(0, bits * 65536);
    assert.ok(Object.is(bf16ToF32(bits), view.getFloat32(0)));
    const back = f32ToBf16(bf16ToF32(bits));
    if (isNan16(bits, 0x7f80)) assert.ok(isNan16(back, 0x7f80));
    else assert.equal(back, bits);
  }
});

Deno.test("f32ToF16() rounds between any two neighbours to nearest, ties to even", () => {
  for (let bits = 0; bits < 0x7bff; bits++) {
    const low = f16ToF32(bits), high = f16ToF32(bits + 1);
    const middle = (low + high) / 2; // exact in float32
    assert.equal(f32ToF16(middle), bits + (bits & 1), `tie above 0x${bits.toString(16)}`);
    assert.equal(f32ToF16(-middle), 0x8000 | (bits + (bits & 1)));
    assert.equal(f32ToF16(Math.fround(low + (high - low) * 0.4375)), bits);
    assert.equal(f32ToF16(Math.fround(low + (high - low) * 0.5625)), bits + 1);
  }
});

Deno.test("f32ToBf16() rounds between any two neighbours to nearest, ties to even", () => {
  for (let bits = 0; bits < 0x7f7f; bits++) {
    const low = bf16ToF32(bits), high = bf16ToF32(bits + 1);
    assert.equal(f32ToBf16(low + (high - low) / 2), bits + (bits & 1));
    assert.equal(f32ToBf16(low + (high - low) * 0.4375), bits);
    assert.equal(f32ToBf16(low + (high - low) * 0.5625), bits + 1);
  }
});

Deno.test("what is too large becomes infinity, and what is too small a signed zero", () => {
  assert.equal(f32ToF16(65519.99609375), 0x7bff);
  assert.equal(f32ToF16(65520), 0x7c00);
  assert.equal(f32ToF16(-1e30), 0xfc00);
  assert.equal(f32ToF16(2 ** -25), 0);
  assert.equal(f32ToF16(-(2 ** -26)), 0x8000);
  assert.equal(f32ToF16(1e-40), 0);
  assert.equal(f32ToBf16(3.4e38), 0x7f80);
});

Deno.test("the array forms agree with the single ones, in place of an offset view too", () => {
  const halves = new Float32Array(70000).subarray(3, 3 + 65536);
  f16ArrayToF32(ALL, halves);
  for (let i = 0; i < 65536; i++) assert.ok(Object.is(halves[i], f16ToF32(i)));
  const back = f32ArrayToF16(halves), bfloats = bf16ArrayToF32(ALL);
  for (let i = 0; i < 65536; i++) if (!isNan16(i, 0x7c00)) assert.equal(back[i], i);
  const backB = f32ArrayToBf16(bfloats);
  for (let i = 0; i < 65536; i++) if (!isNan16(i, 0x7f80)) assert.equal(backB[i], i);
});
