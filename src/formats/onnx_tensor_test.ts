import assert from "node:assert/strict";
import { dtypeFromOnnx } from "../core/dtype.ts";
import { FormatError } from "../core/errors.ts";
import { toNumbers } from "../core/host_tensor.ts";
import { external, tensor } from "../../tests/support/onnx_models.ts";
import { memorySource } from "./mapped_file.ts";
import { onnxTensor, type TensorContext } from "./onnx_tensor.ts";
import type { TensorProto } from "./onnx_messages.ts";
import { readTensor } from "./tensor_source.ts";

const DATA = Uint8Array.from({ length: 64 }, (_, i) => i);
const CONTEXT: TensorContext = {
  path: "m.onnx",
  file: new Uint8Array(8),
  external: (location) => memorySource(location, DATA),
};

function read(proto: TensorProto) {
  return onnxTensor(proto, () => 'initializer "w"', CONTEXT);
}

Deno.test("every typed field is read in every dtype that it serves", () => {
  const ints = [1, 2, 3], dims = [3n];
  for (const code of [2, 3, 4, 5, 6, 9]) {
    assert.deepEqual(
      Array.from(toNumbers(readTensor(read(tensor("w", { dataType: code, dims, int32Data: ints }))))),
      ints,
      dtypeFromOnnx(code),
    );
  }
  const values: [number, Parameters<typeof tensor>[1]][] = [
    [1, { floatData: ints }],
    [11, { doubleData: ints }],
    [7, { int64Data: [1n, 2n, 3n] }],
    [13, { uint64Data: [1n, 2n, 3n] }],
    [12, { uint64Data: [1n, 2n, 3n] }],
    [10, { int32Data: [0x3c00, 0x4000, 0x4200] }],
    [16, { int32Data: [0x3f80, 0x4000, 0x4040] }],
    [21, { int32Data: [0x21, 0x03] }], // two 4-bit elements an entry
    [25, { int32Data: [0b111001] }],
  ];
  for (const [dataType, init] of values) {
    assert.deepEqual(
      Array.from(toNumbers(readTensor(read(tensor("w", { dims, ...init, dataType }))))),
      ints,
      dtypeFromOnnx(dataType),
    );
  }
  assert.deepEqual([...read(tensor("w", { dataType: 14, dims: [1n], floatData: [1, 2] })).bytes()].length, 8);
  assert.deepEqual(read(tensor("w", { dataType: 8, dims: [1n], stringData: [new Uint8Array([65])] })).strings, [
    new Uint8Array([65]),
  ]);
});

Deno.test("negative numbers in int32_data keep their sign", () => {
  assert.deepEqual([...readTensor(read(tensor("w", { dataType: 3, dims: [2n], int32Data: [-1, -128] }))).data], [
    -1,
    -128,
  ]);
});

Deno.test("external data is found by offset, with and without a length", () => {
  for (const more of [{}, { length: 8 }]) {
    const t = read(tensor("w", { dims: [2n], ...external({ location: "d.bin", offset: 4, ...more }) }));
    assert.deepEqual(t.location, { kind: "file", path: "d.bin", offset: 4, length: 8 });
    assert.deepEqual([...t.bytes()], [4, 5, 6, 7, 8, 9, 10, 11]);
  }
});

Deno.test("raw data that lies in the model's file says where; other raw data does not", () => {
  const t = onnxTensor(tensor("w", { dims: [1n], rawData: CONTEXT.file.subarray(4, 8) }), () => "w", CONTEXT);
  assert.deepEqual(t.location, { kind: "file", path: "m.onnx", offset: 4, length: 4 });
  assert.equal(read(tensor("w", { dims: [1n], rawData: new Uint8Array(4) })).location.kind, "inline");
});

Deno.test("what does not fit is refused, naming tensor and numbers, before memory is taken", () => {
  const huge = [2n ** 40n, 2n ** 40n];
  const cases: [Parameters<typeof tensor>[1], RegExp][] = [
    [{ dataType: 99, dims: [1n] }, /data type 99 is unknown/],
    [{ dataType: 0, dims: [1n] }, /data type 0 is unknown/],
    [{ dims: [-1n], rawData: DATA }, /dim 0 of \[-1\] is negative/],
    [{ dims: [2n ** 62n], rawData: DATA }, /larger than any file/],
    [{ dims: huge, rawData: DATA }, /needs 4835703278458516698824704 bytes, but raw_data has 64/],
    [{ dims: huge, floatData: [1] }, /needs 1208925819614629174706176 values, but float_data has 1/],
    [{ dims: huge }, /it holds no data/],
    [{ dataType: 21, dims: [3n], int32Data: [1] }, /needs 2 packed bytes/],
    [{ dataType: 8, dims: [2n], stringData: [] }, /needs 2 strings/],
    [{ dims: [2n], segment: { begin: 0n, end: 1n } }, /segments/],
    [{ dims: [2n], dataLocation: 7 as number as 1 }, /data location 7/],
    [{ dims: [2n], dataLocation: 1 }, /no location/],
    [{ dims: [17n], ...external({ location: "d.bin" }) }, /needs bytes 0 to 68 of d.bin, which has 64/],
    [{ dims: huge, ...external({ location: "d.bin" }) }, /which has 64/],
    [{ dims: [1n], ...external({ location: "d.bin", offset: -4 }) }, /offset .*"-4"/],
    [{ dims: [1n], ...external({ location: "d.bin", offset: "1e99" }) }, /offset .*"1e99"/],
    [{ dims: [1n], ...external({ location: "d.bin", length: 5 }) }, /has length 5/],
  ];
  for (const [init, says] of cases) {
    assert.throws(
      () => read(tensor("w", init)),
      (e) => e instanceof FormatError && says.test(e.message) && e.message.includes('initializer "w" of m.onnx'),
      String(says),
    );
  }
});

Deno.test("a tensor without elements needs no data", () => {
  assert.equal(read(tensor("w", { dims: [0n, 5n] })).bytes().length, 0);
});
