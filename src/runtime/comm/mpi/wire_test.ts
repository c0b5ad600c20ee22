/** The wire forms against the plain loops that define every reduction. */
import assert from "node:assert/strict";
import { COMM_DTYPES, REDUCE_OPS } from "../buffers.ts";
import { canReduce, isPairOp } from "../operations.ts";
import { makeJsReducer } from "../reduce_js.ts";
import { type ElementOp, wireOf, type WireOp, type WireType } from "./wire.ts";

const ARRAYS = {
  ...{ i8: Int8Array, u8: Uint8Array, i16: Int16Array, i32: Int32Array, u32: Uint32Array, i64: BigInt64Array },
  ...{ u64: BigUint64Array, f32: Float32Array, f64: Float64Array },
} as const;
const SIZES = {
  ...{ f32: 4, f64: 8, f16: 2, bf16: 2, i8: 1, u8: 1, i32: 4, u32: 4, i64: 8, u64: 8, bool: 1 },
  f8e4m3fn: 1,
  f8e5m2: 1,
} as const;

/** What MPI does with two ranks' elements, with C's meaning of max and min. */
function mpi(type: WireType, op: WireOp, a: Uint8Array, b: Uint8Array): Uint8Array {
  const array = ARRAYS[type] as Int32ArrayConstructor;
  const [x, y] = [a, b].map((v) => new array(v.slice().buffer)) as [Int32Array, Int32Array];
  for (let i = 0; i < x.length; i++) {
    const p = x[i]!, q = y[i]!;
    if (op === "sum") x[i] = p + q;
    else if (op === "prod") x[i] = type === "i32" || type === "u32" ? Math.imul(p, q) : p * q;
    else if (op === "max") x[i] = p > q ? p : q;
    else if (op === "min") x[i] = p < q ? p : q;
    else x[i] = op === "band" ? p & q : op === "bor" ? p | q : p ^ q;
  }
  return new Uint8Array(x.buffer);
}

/** Bytes of every kind: random ones, and for floats zeros, infinities, NaNs and their negatives. */
function elements(itemBytes: number, seed: number): Uint8Array<ArrayBuffer> {
  const count = 512, bytes = new Uint8Array(count * itemBytes);
  let state = seed;
  for (let i = 0; i < bytes.length; i++) bytes[i] = (state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 16;
  const specials = {
    2: [0, 0x8000, 0x7c00, 0xfc00, 0x7e01, 0xfe00, 0x7f80, 0xff80, 0x7fc1, 1],
    4: [0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00001, 0xffc00000, 0x7fffffff, 0xffffffff, 1, 0x3f800000],
    8: [0n, 1n << 63n, 0x7ff0n << 48n, 0xfff0n << 48n, (0x7ff0n << 48n) + 1n, 0xffffffffffffffffn, 1n, 0x7ff8n << 48n],
  }[itemBytes as 2 | 4 | 8] ?? [0, 1];
  const array = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: BigUint64Array }[itemBytes as 1 | 2 | 4 | 8];
  const view = new array(bytes.buffer) as Uint32Array;
  // Every special of one rank meets every special of the other.
  for (let i = 0; i < 100; i++) {
    const at = seed === 1 ? i % 10 : Math.floor(i / 10);
    view[i] = specials[at % specials.length] as number;
  }
  return bytes;
}

for (const dtype of COMM_DTYPES) {
  Deno.test(`${dtype} over MPI's types and operations is what the plain loops give, bit for bit`, () => {
    const ops = REDUCE_OPS.filter((op) => canReduce(dtype, op) && !isPairOp(op)) as ElementOp[];
    for (const op of ops) {
      const inputs = [1, 2].map((seed) => elements(SIZES[dtype], seed));
      if (dtype === "bool") inputs.forEach((x) => x.forEach((v, i) => x[i] = v & 1));
      const expected = new Uint8Array(inputs[0]!.length);
      makeJsReducer(dtype, op)(expected, inputs);
      const wire = wireOf(dtype, op);
      const [a, b] = inputs.map((x) => wire.encode?.(x) ?? x.slice());
      const found = mpi(wire.type, wire.op, a!, b!),
        out = wire.encode === undefined ? found : new Uint8Array(expected.length);
      wire.decode?.(found, out, 2);
      assert.deepEqual(out, expected, `${op} ${dtype}`);
    }
  });
}

Deno.test("what is not defined on a dtype is refused", () => {
  assert.throws(() => wireOf("i32", "avg"), /Cannot reduce i32 by avg/);
  assert.throws(() => wireOf("f16", "bxor"), /Cannot reduce f16 by bxor/);
});
