import assert from "node:assert/strict";
import fc from "fast-check";
import { dtypeInfo, DTYPES } from "../core/dtype.ts";
import { FormatError } from "../core/errors.ts";
import { fromNumbers, hostTensorFromBytes, toNumbers } from "../core/host_tensor.ts";
import { readNpy, writeNpy } from "./npy.ts";

function npy(version: number, dict: string, data: Uint8Array): Uint8Array {
  const header = new TextEncoder().encode(dict + "\n");
  const wide = version > 1;
  const size = wide ? [header.length & 255, header.length >> 8, 0, 0] : [header.length & 255, header.length >> 8];
  return new Uint8Array([0x93, ...new TextEncoder().encode("NUMPY"), version, 0, ...size, ...header, ...data]);
}

const FLOATS = new Uint8Array(Float32Array.of(0, 1, 2, 3, 4, 5).buffer);

function withFile<T>(bytes: Uint8Array, use: (path: string) => T): T {
  const path = Deno.makeTempFileSync({ suffix: ".npy" });
  try {
    Deno.writeFileSync(path, bytes);
    return use(path);
  } finally {
    Deno.removeSync(path);
  }
}

Deno.test("arrays of every dtype that NumPy names come back as they were", async () => {
  const path = Deno.makeTempFileSync({ suffix: ".npy" });
  for (const dtype of DTYPES) {
    const info = dtypeInfo(dtype);
    if (!info.npy || !info.array) continue;
    for (const shape of [[], [3], [2, 0, 4], [2, 3]]) {
      const count = shape.reduce((n, d) => n * d, 1);
      const t = hostTensorFromBytes(dtype, shape, Uint8Array.from({ length: count * info.bits / 8 }, (_, i) => i % 2));
      await writeNpy(path, t);
      assert.equal(Deno.readFileSync(path).length % 64, count * info.bits / 8 % 64, "the data is aligned");
      assert.deepEqual(readNpy(path), t);
    }
  }
  await assert.rejects(writeNpy(path, fromNumbers("bf16", [1], [1])), /no type for bf16/);
  Deno.removeSync(path);
});

Deno.test("versions 1, 2 and 3 are read", () => {
  for (const version of [1, 2, 3]) {
    const bytes = npy(version, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", FLOATS);
    assert.deepEqual(Array.from(toNumbers(withFile(bytes, (p) => readNpy(p)))), [0, 1, 2, 3, 4, 5]);
  }
});

Deno.test("Fortran order is transposed to row-major", () => {
  const bytes = npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", FLOATS);
  const t = withFile(bytes, (p) => readNpy(p));
  assert.deepEqual([t.shape, Array.from(toNumbers(t))], [[2, 3], [0, 2, 4, 1, 3, 5]]);
});

Deno.test("what cannot be read is refused, saying why", () => {
  const cases: [string, RegExp][] = [
    ["{'descr': '>f4', 'fortran_order': False, 'shape': (6,), }", /big-endian/],
    ["{'descr': '|O', 'fortran_order': False, 'shape': (6,), }", /\|O.*unknown/],
    ["{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", /complex/],
    ["{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }", /plain array/],
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (7,), }", /needs 28 bytes, but 24 follow/],
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }", /needs \d{23} bytes/],
  ];
  for (const [dict, says] of cases) {
    withFile(
      npy(1, dict, FLOATS),
      (p) => assert.throws(() => readNpy(p), (e) => e instanceof FormatError && says.test(e.message), dict),
    );
  }
  withFile(npy(4, "{}", FLOATS), (p) => assert.throws(() => readNpy(p), /version 4/));
});

Deno.test("a cut or altered file is read or refused with a FormatError", () => {
  const good = npy(2, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", FLOATS);
  fc.assert(fc.property(fc.nat(good.length), fc.nat(good.length - 1), fc.nat(255), (end, at, value) => {
    const bytes = good.slice();
    bytes[at] = value;
    withFile(bytes.subarray(0, end), (p) => {
      try {
        readNpy(p);
      } catch (error) {
        assert.ok(error instanceof FormatError, String(error));
      }
    });
  }));
});
