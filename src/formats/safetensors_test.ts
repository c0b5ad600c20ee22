import assert from "node:assert/strict";
import fc from "fast-check";
import { dtypeInfo, DTYPES } from "../core/dtype.ts";
import { FormatError } from "../core/errors.ts";
import { fromNumbers, type HostTensor, hostTensorFromBytes, toNumbers } from "../core/host_tensor.ts";
import { openSafetensors, writeSafetensors } from "./safetensors.ts";
import { readTensor } from "./tensor_source.ts";
import { sharedOrSkip } from "../../tests/support/shared.ts";

function writeRaw(path: string, header: string, data = new Uint8Array(), length = header.length): void {
  const bytes = new Uint8Array(8 + header.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(new TextEncoder().encode(header), 8);
  bytes.set(data, 8 + header.length);
  Deno.writeFileSync(path, bytes);
}

Deno.test("tensors of every dtype with a safetensors name come back as they were, aligned", async () => {
  const path = Deno.makeTempFileSync({ suffix: ".safetensors" });
  const tensors = new Map<string, HostTensor>([["7", fromNumbers("i64", [], [7])], [
    "__proto__",
    fromNumbers("f16", [0, 3], []),
  ]]);
  for (const dtype of DTYPES) {
    const { safetensors, array, bits } = dtypeInfo(dtype);
    if (!safetensors || !array) continue;
    tensors.set(dtype, hostTensorFromBytes(dtype, [3], Uint8Array.from({ length: 3 * bits / 8 }, (_, i) => i % 2)));
  }
  await writeSafetensors(path, tensors, new Map([["format", "pt"]]));
  using file = openSafetensors(path);
  assert.deepEqual(new Set(file.tensors.keys()), new Set(tensors.keys()));
  assert.equal(file.metadata.get("format"), "pt");
  for (const [name, source] of file.tensors) {
    assert.deepEqual(readTensor(source), tensors.get(name));
    assert.ok(source.location.kind === "file" && source.location.offset % (dtypeInfo(source.dtype).bits / 8) === 0);
  }
  Deno.removeSync(path);
});

Deno.test("a slice reads the same as slicing in memory", async () => {
  const path = Deno.makeTempFileSync({ suffix: ".safetensors" });
  const t = fromNumbers("f32", [4, 5, 3], Array.from({ length: 60 }, (_, i) => i));
  await writeSafetensors(path, new Map([["t", t]]));
  using file = openSafetensors(path);
  const bytes = file.tensors.get("t")!.slice(1, [[1, 2], [3, 5]]);
  const got = toNumbers(hostTensorFromBytes("f32", [4, 3, 3], bytes));
  const want = [];
  for (let a = 0; a < 4; a++) for (const b of [1, 3, 4]) for (let c = 0; c < 3; c++) want.push(a * 15 + b * 3 + c);
  assert.deepEqual(Array.from(got), want);
  Deno.removeSync(path);
});

Deno.test("a damaged header is an error that names the file and the tensor", () => {
  const path = Deno.makeTempFileSync({ suffix: ".safetensors" });
  const entry = (e: unknown) => JSON.stringify({ w: e });
  const cases: [header: string, says: RegExp, length?: number][] = [
    ["{", /no JSON/],
    ["[]", /no JSON object/],
    ["{}", /should have 1000000 bytes/, 1000000],
    [entry(null), /"w".*header entry/],
    [entry({ dtype: "F99", shape: [1], data_offsets: [0, 4] }), /"w".*F99/],
    [entry({ dtype: "F32", shape: [-1], data_offsets: [0, 4] }), /"w".*header entry/],
    [entry({ dtype: "F32", shape: [2], data_offsets: [0, 4] }), /"w".*needs 8 bytes/],
    [entry({ dtype: "F32", shape: [2 ** 40, 2 ** 40], data_offsets: [0, 4] }), /"w".*needs \d{25} bytes/],
    [entry({ dtype: "F32", shape: [4], data_offsets: [0, 16] }), /"w".*file has/],
    [
      JSON.stringify({
        a: { dtype: "U8", shape: [4], data_offsets: [0, 4] },
        b: { dtype: "U8", shape: [4], data_offsets: [2, 6] },
      }),
      /"b" overlaps "a"/,
    ],
    [JSON.stringify({ __metadata__: { a: 1 } }), /__metadata__/],
  ];
  for (const [header, says, length] of cases) {
    writeRaw(path, header, new Uint8Array(8), length);
    assert.throws(
      () => openSafetensors(path),
      (e) => e instanceof FormatError && says.test(e.message) && e.message.includes(path),
      header,
    );
  }
  Deno.writeFileSync(path, new Uint8Array(3));
  assert.throws(() => openSafetensors(path), FormatError);
  Deno.removeSync(path);
});

Deno.test("any bytes at all are read or refused with a FormatError", () => {
  const path = Deno.makeTempFileSync({ suffix: ".safetensors" });
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
    Deno.writeFileSync(path, bytes);
    try {
      openSafetensors(path)[Symbol.dispose]();
    } catch (error) {
      assert.ok(error instanceof FormatError, String(error));
    }
  }));
  Deno.removeSync(path);
});

Deno.test("a dtype that the format cannot name is refused before anything is written", async () => {
  const t = hostTensorFromBytes("i4", [2], new Uint8Array(1));
  await assert.rejects(writeSafetensors("/nowhere/x.safetensors", new Map([["w", t]])), /no dtype i4/);
});

Deno.test("the inputs of a real model are read", () => {
  const path = sharedOrSkip("models/decoders/llama/decode.inputs.safetensors");
  if (!path) return;
  using file = openSafetensors(path);
  const ids = readTensor(file.tensors.get("input_ids")!);
  assert.deepEqual([ids.dtype, ids.shape], ["i64", [2, 1]]);
});
