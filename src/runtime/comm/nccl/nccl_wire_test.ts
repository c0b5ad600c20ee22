import assert from "node:assert/strict";
import { UnavailableError } from "../../../core/errors.ts";
import { NCCL_ENUM as N } from "../../../ffi/nccl.ts";
import { COMM_DTYPES, REDUCE_OPS } from "../buffers.ts";
import { canReduce } from "../operations.ts";
import { deviceOp, deviceType, ncclWireOf, reducesOnDevice } from "./nccl_wire.ts";

const bytes = (array: Uint8Array | Float32Array) => new Uint8Array(array.buffer);

Deno.test("every operation that is defined travels by NCCL's types and operations, or is gathered", () => {
  const gathered: string[] = [];
  for (const dtype of COMM_DTYPES) {
    for (const op of REDUCE_OPS) {
      if (!canReduce(dtype, op)) continue;
      const wire = ncclWireOf(dtype, op);
      if (wire === undefined) gathered.push(`${dtype} ${op}`);
      else {
        assert.ok([N.ncclSum, N.ncclProd, N.ncclMax, N.ncclMin].some((o) => o === wire.op), `${dtype} ${op}`);
        assert.ok(wire.type >= N.ncclInt8 && wire.type <= N.ncclFloat64, `${dtype} ${op}`);
      }
    }
  }
  const moved = gathered.filter((g) => !/loc$/.test(g));
  assert.deepEqual(moved.filter((g) => /^(f|b)/.test(g)), ["f16 max", "f16 min", "bf16 max", "bf16 min"]);
  assert.deepEqual(moved.filter((g) => /^i32/.test(g)), ["i32 band", "i32 bor", "i32 bxor"]);
});

Deno.test("an exclusive or of truths is whether their sum is odd", () => {
  const wire = ncclWireOf("f32", "lxor")!;
  assert.equal(wire.op, N.ncclSum);
  const sums = Uint8Array.of(0, 1, 2, 3, 4, 255), out = new Float32Array(6);
  wire.decode!(sums, bytes(out), 300);
  assert.deepEqual([...out], [0, 1, 0, 1, 0, 1]);
});

Deno.test("maxima of floats travel as integers in their order, so that a NaN wins", () => {
  const wire = ncclWireOf("f32", "max")!;
  assert.deepEqual([wire.type, wire.op], [N.ncclInt32, N.ncclMax]);
  const keys = new Int32Array(wire.encode!(bytes(Float32Array.of(-1, -0, 0, 2, Infinity, NaN))).buffer);
  assert.deepEqual([...keys], [...keys].sort((a, b) => a - b));
  assert.equal(new Set(keys).size, 6);
});

Deno.test("what NCCL cannot reduce on the GPU is refused with what to do instead", () => {
  assert.equal(deviceType("bf16"), N.ncclBfloat16);
  assert.equal(deviceOp("avg"), N.ncclAvg);
  assert.throws(() => deviceType("bool"), (e) => e instanceof UnavailableError && /host arrays/.test(e.hint!));
  assert.throws(() => deviceOp("bxor"), /Cannot reduce by bxor on the GPU/);
  assert.equal(reducesOnDevice("f16", "sum"), true);
  assert.equal(reducesOnDevice("i32", "avg"), false);
  assert.equal(reducesOnDevice("f8e5m2", "sum"), false);
});
