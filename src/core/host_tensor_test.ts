import assert from "node:assert/strict";
import { dtypeInfo, DTYPES } from "./dtype.ts";
import { fromNumbers, hostTensor, hostTensorBytes, hostTensorFromBytes, numel, toNumbers } from "./host_tensor.ts";
import { FormatError, ShapeError } from "./errors.ts";

Deno.test("numbers go through every dtype that can hold them", () => {
  for (const dtype of DTYPES) {
    const { bits, float, array } = dtypeInfo(dtype);
    if (!array) continue;
    if (float && bits < 16) {
      assert.throws(() => fromNumbers(dtype, [1], [1]), FormatError, dtype);
      continue;
    }
    const values = dtype === "i2" ? [0, 1, -2, -1, 1] : dtype === "i4" ? [-8, 7, 0, -1, 3] : [0, 1, 1, 0, 1];
    const t = fromNumbers(dtype, [5], values);
    assert.deepEqual([...Array.from(toNumbers(t))], values, dtype);
    assert.equal(hostTensorBytes(t).length, Math.ceil(5 * bits / 8), dtype);
    assert.deepEqual(hostTensorFromBytes(dtype, [5], hostTensorBytes(t)), t);
  }
});

Deno.test("fromNumbers() rounds halves and keeps 64-bit integers whole", () => {
  assert.deepEqual([...fromNumbers("f16", [2], [1, 65504]).data], [0x3c00, 0x7bff]);
  assert.deepEqual([...fromNumbers("i64", [1], [2n ** 62n + 1n]).data], [2n ** 62n + 1n]);
  assert.deepEqual([...fromNumbers("bool", [3], [0, 5, -1]).data], [0, 1, 1]);
});

Deno.test("hostTensorFromBytes() copies only what is not aligned", () => {
  const bytes = new Uint8Array(32);
  assert.equal(hostTensorFromBytes("f32", [2], bytes.subarray(4, 12)).data.buffer, bytes.buffer);
  assert.notEqual(hostTensorFromBytes("f32", [2], bytes.subarray(5, 13)).data.buffer, bytes.buffer);
});

Deno.test("data that does not fit dtype and shape is refused", () => {
  assert.throws(() => hostTensor("f32", [2, 3], new Float32Array(5)), ShapeError);
  assert.throws(() => hostTensor("f32", [2], new Int32Array(2)), ShapeError);
  assert.throws(() => hostTensorFromBytes("i64", [2], new Uint8Array(15)), ShapeError);
  assert.throws(() => fromNumbers("u8", [2], [1]), ShapeError);
  assert.throws(() => fromNumbers("string", [1], [1]), FormatError);
  assert.equal(numel([]), 1);
});
