import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type DescField, fromBinary, ScalarType, toBinary } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import fc from "fast-check";
import { graph, model, node, tensor } from "../../tests/support/onnx_models.ts";
import { file_onnx_schema, ModelProtoSchema } from "../../tests/support/onnx_schema.ts";
import { REPOSITORY } from "../../tests/support/shared.ts";
import { encodeModel } from "./onnx_encode.ts";
import { MESSAGES } from "./onnx_messages.ts";
import { decodeModel } from "./onnx_wire.ts";

/** A message without what only the library has of it. */
function plain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  const fields = Object.entries(value).filter(([key, v]) => !key.startsWith("$") && v !== undefined);
  return Object.fromEntries(fields.map(([key, v]) => [key, plain(v)]));
}

Deno.test("the table has the fields of onnx.proto, each of its kind", () => {
  const kindOf = (f: DescField) => {
    if (f.message) return f.message.name;
    return f.enum || f.scalar === undefined ? "int32" : ScalarType[f.scalar]!.toLowerCase();
  };
  const types = [...file_onnx_schema.messages.flatMap((m) => [m, ...m.nestedMessages])];
  assert.deepEqual([...MESSAGES.keys()].sort(), types.map((t) => t.name).sort());
  for (const type of types) {
    assert.deepEqual(
      MESSAGES.get(type.name)!.fields.map((
        f,
      ) => [f.number, f.name, f.key, f.message?.name ?? f.kind, f.isList, f.oneof]),
      type.fields.map((f) => [f.number, f.name, f.localName, kindOf(f), f.fieldKind === "list", f.oneof?.localName]),
      type.name,
    );
  }
});

Deno.test("models are decoded as the library of the schema does, and encoded again", () => {
  let count = 0;
  const folder = join(REPOSITORY, "tests/data/models");
  for (const { name } of Deno.readDirSync(folder)) {
    const path = join(folder, name, "model.onnx");
    if (!existsSync(path)) continue;
    const bytes = Deno.readFileSync(path), ours = decodeModel(bytes, path);
    assert.deepEqual(plain(ours), plain(fromBinary(ModelProtoSchema, bytes)), path);
    assert.deepEqual(plain(decodeModel(encodeModel(ours), path)), plain(ours), path);
    count++;
  }
  assert.ok(count > 5, `only ${count} models`);
});

Deno.test("numbers of any size are read packed and one by one", () => {
  const int = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
  const lists = fc.record({
    dims: fc.array(int, { maxLength: 4 }),
    int64Data: fc.array(int, { maxLength: 4 }),
    uint64Data: fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), { maxLength: 4 }),
    int32Data: fc.array(fc.integer(), { maxLength: 4 }),
    floatData: fc.array(fc.float(), { maxLength: 4 }),
    doubleData: fc.array(fc.double(), { maxLength: 4 }),
    name: fc.string({ unit: "binary" }),
  });
  fc.assert(fc.property(lists, (init) => {
    const given = model(graph([], { initializers: [tensor(init.name, init)] }));
    const bytes = toBinary(ModelProtoSchema, given);
    assert.deepEqual(plain(decodeModel(bytes, "m.onnx")), plain(given));
    // Ours are written one record each.
    const written = encodeModel(decodeModel(bytes, "m.onnx"));
    assert.deepEqual(plain(fromBinary(ModelProtoSchema, written)), plain(given));
    assert.deepEqual(plain(decodeModel(written, "m.onnx")), plain(given));
  }));
});

Deno.test("fields that nobody knows are kept, and messages in pieces are put together", () => {
  const writer = new BinaryWriter();
  writer.raw(toBinary(ModelProtoSchema, model(graph([node("Relu", ["x"], ["y"])]))));
  writer.uint32((99 << 3) | 2).string("of a later version");
  writer.uint32((7 << 3) | 2).fork().uint32((2 << 3) | 2).string("renamed").join(); // graph.name
  const bytes = writer.finish(), read = decodeModel(bytes, "m.onnx");
  assert.equal(read.graph!.name, "renamed");
  assert.equal(read.graph!.node.length, 1);
  assert.deepEqual(plain(read.graph), plain(fromBinary(ModelProtoSchema, bytes).graph));
  assert.match(new TextDecoder().decode(encodeModel(read)), /of a later version/);
});

Deno.test("a name that occurs often is one string, whatever its length and script", () => {
  const names = ["x", "ξ", "a".repeat(600), "b".repeat(511), "\u0080"];
  const nodes = names.flatMap((name) => [node("Relu", [name], [`${name}1`]), node("Relu", [name], [`${name}2`])]);
  const read = decodeModel(toBinary(ModelProtoSchema, model(graph(nodes))), "m.onnx");
  assert.deepEqual(read.graph!.node.map((n) => n.input), names.flatMap((name) => [[name], [name]]));
  const many = Array.from({ length: 20_000 }, (_, i) => node("Relu", [`v${i}`], [`v${i + 1}`]));
  const chain = decodeModel(toBinary(ModelProtoSchema, model(graph(many))), "m.onnx").graph!.node;
  assert.ok(chain.every((n, i) => n.input[0] === `v${i}` && n.output[0] === `v${i + 1}`));
});
