import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { COMM_DTYPES, REDUCE_OPS } from "./buffers.ts";
import { canReduce } from "./operations.ts";
import { makeJsReducer } from "./reduce_js.ts";
import { makeWasmReducer } from "./reduce_wasm.ts";

const PAGE = 65536;

Deno.test("the WebAssembly reductions give the bits of the JavaScript ones on random bytes", () => {
  const memory = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  const bytes = new Uint8Array(memory.buffer);
  crypto.getRandomValues(bytes.subarray(PAGE, 2 * PAGE));
  bytes.copyWithin(2 * PAGE, PAGE + 40, 2 * PAGE);
  bytes.copyWithin(3 * PAGE, PAGE + 2000, 2 * PAGE);
  for (const dtype of COMM_DTYPES) {
    for (const op of REDUCE_OPS.filter((op) => canReduce(dtype, op))) {
      const reduce = { wasm: makeWasmReducer(memory, dtype, op), js: makeJsReducer(dtype, op) };
      for (const length of [0, 16, 64, 4096, 16 * 513]) {
        for (const count of [1, 2, 3]) {
          const sources = Array.from(
            { length: count },
            (_, s) => bytes.subarray((s + 1) * PAGE, (s + 1) * PAGE + length),
          );
          const expected = new Uint8Array(length),
            inside = bytes.subarray(5 * PAGE, 5 * PAGE + length),
            outside = new Uint8Array(length);
          reduce.js(expected, sources);
          bytes.fill(0xaa, 5 * PAGE, 6 * PAGE);
          reduce.wasm(inside, sources);
          reduce.wasm(outside, sources);
          const what = `${op} of ${length} bytes of ${dtype} from ${count}`;
          assert.ok(Buffer.compare(inside, expected) === 0, `${what}: ${first(inside, expected)}`);
          assert.ok(Buffer.compare(outside, expected) === 0, `${what}, outside the memory`);
          assert.equal(bytes[5 * PAGE + length], 0xaa, `${what} wrote past the end`);
        }
      }
    }
  }
});

Deno.test("every f16 survives being widened and rounded, and f32 sums of f16 round to nearest even", () => {
  const memory = new WebAssembly.Memory({ initial: 8, maximum: 8 });
  const all = new Uint16Array(memory.buffer, PAGE, 1 << 16),
    shifted = new Uint16Array(memory.buffer, 3 * PAGE, 1 << 16);
  for (let i = 0; i < 1 << 16; i++) [all[i], shifted[i]] = [i, (i * 40503) & 0xffff];
  const view = (a: Uint16Array) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength);
  const out = new Uint16Array(1 << 16), expected = new Uint16Array(1 << 16);
  for (const sources of [[all], [all, shifted]]) {
    makeWasmReducer(memory, "f16", "sum")(view(out), sources.map(view));
    makeJsReducer("f16", "sum")(view(expected), sources.map(view));
    assert.deepEqual(out, expected);
  }
});

Deno.test("the destination of a reduction may be one of its sources", () => {
  const memory = new WebAssembly.Memory({ initial: 4, maximum: 4 });
  const a = new Float32Array(memory.buffer, PAGE, 1000).fill(1),
    b = new Float32Array(memory.buffer, 2 * PAGE, 1000).fill(2);
  const [x, y] = [a, b].map((v) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength)) as [Uint8Array, Uint8Array];
  makeWasmReducer(memory, "f32", "sum")(y, [x, y]);
  assert.deepEqual([...new Set(b)], [3]);
  assert.deepEqual([...new Set(a)], [1]);
});

function first(a: Uint8Array, b: Uint8Array): string {
  const at = a.findIndex((v, i) => v !== b[i]) & ~7;
  return `from byte ${at}: ${a.subarray(at, at + 8)} instead of ${b.subarray(at, at + 8)}`;
}
