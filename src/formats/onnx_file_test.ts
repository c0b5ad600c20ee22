import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { FormatError } from "../core/errors.ts";
import {
  attribute,
  external,
  graph,
  model,
  node,
  saveModel,
  tempFolder,
  tensor,
} from "../../tests/support/onnx_models.ts";
import { sharedOrSkip } from "../../tests/support/shared.ts";
import { memorySource } from "./mapped_file.ts";
import { readOnnx } from "./onnx_file.ts";
import { ModelProtoSchema } from "../../tests/support/onnx_schema.ts";
import { decodeModel } from "./onnx_wire.ts";

const RAW = Uint8Array.from({ length: 16 }, (_, i) => i);
const ADD = () => node("Add", ["x", "w"], ["y"]);

function fails(path: string, says: RegExp): void {
  assert.throws(
    () => readOnnx(path),
    (e) => e instanceof FormatError && says.test(e.message) && e.message.includes(path),
    String(says),
  );
}

Deno.test("initializers and constants are found where they lie in the file", () => {
  const constant = node("Constant", [], ["c"], {
    attribute: [attribute("value", { t: tensor("", { dims: [4n], rawData: RAW }) })],
  });
  const path = saveModel(model(graph([constant, node("Add", ["x", "c"], ["t"]), node("Add", ["t", "w"], ["y"])], {
    initializers: [tensor("w", { dims: [2n, 2n], rawData: RAW })],
  })));
  using file = readOnnx(path);
  const bytes = Deno.readFileSync(path);
  for (const source of [file.initializers.get("w")!, file.tensor(file.graph.node[0]!.attribute[0]!.t!)]) {
    assert.ok(source.location.kind === "file" && source.location.path === path);
    assert.deepEqual(bytes.slice(source.location.offset, source.location.offset + 16), RAW);
    assert.deepEqual(source.bytes(), RAW);
  }
  assert.equal(file.opsets.get(""), 18);
});

Deno.test("a mapped file is never copied: raw data are views of it", () => {
  const path = saveModel(model(graph([ADD()], { initializers: [tensor("w", { dims: [4n], rawData: RAW })] })));
  const mapping = Deno.readFileSync(path);
  using file = readOnnx(path, { open: (p) => memorySource(p, mapping) });
  assert.equal(file.initializers.get("w")!.bytes().buffer, mapping.buffer);
});

Deno.test("external data is read from the model's folder", () => {
  const weights = (location: string) =>
    model(graph([ADD()], { initializers: [tensor("w", { dims: [2n], ...external({ location, offset: 8 }) })] }));
  const path = saveModel(weights("w.bin"), { "w.bin": RAW });
  {
    using file = readOnnx(path);
    assert.deepEqual(file.initializers.get("w")!.location, {
      kind: "file",
      path: join(dirname(path), "w.bin"),
      offset: 8,
      length: 8,
    });
    assert.deepEqual([...file.initializers.get("w")!.slice(0, [[1, 2]])], [12, 13, 14, 15]);
  }
  const outside = join(tempFolder(), "secret");
  Deno.writeFileSync(outside, RAW);
  const folder = dirname(path);
  Deno.symlinkSync(outside, join(folder, "link.bin"));
  Deno.writeFileSync(join(folder, "short.bin"), RAW.subarray(0, 12));
  const cases: [string, RegExp][] = [
    ["../w.bin", /"\.\.\/w\.bin" leaves the model's folder/],
    ["a/../../w.bin", /leaves the model's folder/],
    [outside, /absolute path/],
    ["C:\\w.bin", /absolute path/],
    ["link.bin", /is a link out of the model's folder/],
    ["short.bin", /needs bytes 8 to 16 of .*short\.bin, which has 12/],
    ["w.bim", /"w\.bim" cannot be opened/],
    [".", /cannot be opened|link out/],
  ];
  for (const [location, says] of cases) {
    Deno.writeFileSync(path, toBinary(ModelProtoSchema, weights(location)));
    fails(path, says);
  }
});

Deno.test("a model and its data that are links into one folder are read, as download caches keep them", () => {
  const blobs = dirname(
    saveModel(
      model(graph([ADD()], { initializers: [tensor("w", { dims: [4n], ...external({ location: "w.bin" }) })] })),
      { blob: RAW },
    ),
  );
  const folder = tempFolder();
  Deno.symlinkSync(join(blobs, "model.onnx"), join(folder, "model.onnx"));
  Deno.symlinkSync(join(blobs, "blob"), join(folder, "w.bin"));
  using file = readOnnx(join(folder, "model.onnx"));
  assert.deepEqual(file.initializers.get("w")!.bytes(), RAW);
});

Deno.test("files that are no model are told apart", () => {
  const path = join(tempFolder(), "model.onnx");
  const cases: [Uint8Array | string, RegExp][] = [
    ["", /the file is empty/],
    ["version https://git-lfs.github.com/spec/v1\noid sha256:1", /Git LFS pointer/],
    ['{"a": 1}', /JSON/],
    ["<!DOCTYPE html><html>", /web page/],
    ["PK\x03\x04....", /zip/],
    ["hello world, this is text", /is damaged/],
    [new Uint8Array(100), /is damaged/],
    [
      toBinary(ModelProtoSchema, create(ModelProtoSchema, { irVersion: 8n, opsetImport: [{ version: 18n }] })),
      /holds no graph/,
    ],
  ];
  for (const [content, says] of cases) {
    Deno.writeFileSync(path, typeof content === "string" ? new TextEncoder().encode(content) : content);
    fails(path, says);
  }
});

Deno.test("damage is located in the structure of the model", () => {
  const bytes = toBinary(
    ModelProtoSchema,
    model(graph([node("Relu", ["x"], ["t"]), node("Relu", ["t"], ["y"], { name: "victim" })])),
  );
  const at = new TextDecoder("latin1").decode(bytes).indexOf("victim");
  const broken = bytes.slice();
  broken[at] = 0xff;
  assert.throws(() => decodeModel(broken, "m.onnx"), /graph\.node\[1\]\.name is damaged/);
  broken[at] = bytes[at]!;
  broken[at - 1] = 120; // the name now runs past its node
  assert.throws(() => decodeModel(broken, "m.onnx"), /graph\.node\[1\]\.name is damaged \(it needs 120 bytes/);
  assert.throws(() => decodeModel(bytes.subarray(0, at), "m.onnx"), /graph.* is damaged/);
  assert.equal(decodeModel(bytes, "m.onnx").graph!.node[1]!.name, "victim");
});

Deno.test("sparse tensors are refused by name", () => {
  const g = graph([ADD()]);
  g.sparseInitializer.push({ $typeName: "onnx.SparseTensorProto", dims: [1n], values: tensor("w") });
  fails(saveModel(model(g)), /initializer "w" is sparse/);
});

Deno.test("every model of the shared folder opens, and all its weights can be read", () => {
  const root = sharedOrSkip("models");
  if (!root) return;
  let count = 0;
  for (const kind of Deno.readDirSync(root)) {
    if (!kind.isDirectory) continue;
    for (const folder of Deno.readDirSync(join(root, kind.name))) {
      if (!folder.isDirectory) continue;
      for (const entry of Deno.readDirSync(join(root, kind.name, folder.name))) {
        if (!entry.name.endsWith(".onnx")) continue;
        using file = readOnnx(join(root, kind.name, folder.name, entry.name));
        for (const source of file.initializers.values()) {
          if (source.location.kind === "file") assert.equal(source.bytes().length, source.location.length);
        }
        assert.equal(file.model.functions.length, 0);
        count++;
      }
    }
  }
  assert.ok(count > 50, `only ${count} models`);
});
