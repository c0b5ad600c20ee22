import assert from "node:assert/strict";
import { fromBinary } from "@bufbuild/protobuf";
import * as ort from "onnxruntime-node";
import { dimAdd, symbol } from "../core/dim.ts";
import { GraphError } from "../core/errors.ts";
import { float, int, ints, string } from "../graph/attributes.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import type { Graph } from "../graph/graph.ts";
import { exportOnnx } from "./export_onnx.ts";
import { AttributeProto_AttributeType, type ModelProto, ModelProtoSchema } from "../../tests/support/onnx_schema.ts";

const OPSETS = new Map([["", 17]]);

/** `y = x · w + b`, with results written under names of their own. */
function linear(names: readonly string[] = ["y"], results: readonly string[] = ["h"]): Graph<"local"> {
  const builder = new GraphBuilder("local", "linear", OPSETS);
  const batch = symbol("batch");
  builder.placeholder({ name: "x", type: { dtype: "f32", shape: [batch, 2] } });
  builder.getAttr("w", inlineData("f32", [2, 3], new Float32Array([1, 2, 3, 4, 5, 6])));
  builder.getAttr("b", inlineData("f32", [3], new Float32Array([10, 20, 30])));
  const type = { dtype: "f32", shape: [batch, 3] } as const;
  const call = { kind: "call_function", domain: "", attributes: {} } as const;
  builder.call({ ...call, op: "MatMul", inputs: ["x", "w"], outputs: ["m"] }, [{ name: "m", type }]);
  builder.call({ ...call, op: "Add", inputs: ["m", "b"], outputs: ["h"], scope: "model.lin" }, [{ name: "h", type }]);
  return builder.finish({ inputs: results, names });
}

function decode(bytes: Uint8Array): ModelProto {
  return fromBinary(ModelProtoSchema, bytes);
}

async function run(model: Uint8Array, feeds: Record<string, ort.Tensor>) {
  const session = await ort.InferenceSession.create(model, { intraOpNumThreads: 1, logSeverityLevel: 3 });
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

Deno.test("exportOnnx() writes a model that ONNX Runtime runs, weights inline", async () => {
  const out = await run(exportOnnx(linear()), { x: new ort.Tensor("float32", new Float32Array([1, 1]), [1, 2]) });
  assert.deepEqual([...out["y"]!.data as Float32Array], [15, 27, 39]);
});

Deno.test("exportOnnx() writes what the schema reads, field by field", () => {
  const bytes = exportOnnx(linear(), { valueInfo: true, metadata: { made: "by a test" } });
  const model = decode(bytes);
  assert.equal(model.irVersion, 10n);
  assert.deepEqual(model.opsetImport.map((o) => [o.domain, o.version]), [["", 17n]]);
  assert.deepEqual(model.metadataProps.map((e) => [e.key, e.value]), [["made", "by a test"]]);
  const graph = model.graph!;
  assert.deepEqual(graph.node.map((n) => [n.opType, n.input, n.output]), [["MatMul", ["x", "w"], ["m"]], [
    "Add",
    ["m", "b"],
    ["y"],
  ]]);
  assert.deepEqual(graph.node[1]!.metadataProps.map((e) => [e.key, e.value]), [["namespace", "model.lin"]]);
  assert.deepEqual(graph.initializer.map((t) => [t.name, t.dims, t.dataType]), [["w", [2n, 3n], 1], ["b", [3n], 1]]);
  assert.deepEqual(graph.valueInfo.map((v) => v.name), ["m"]);
  // Nothing that the schema does not know was written.
  assert.deepEqual([model, graph, ...graph.node, ...graph.initializer].filter((m) => m.$unknown), []);
});

Deno.test("exportOnnx() writes symbolic sizes as named dims", () => {
  const builder = new GraphBuilder("global", "g", OPSETS);
  const type = { dtype: "i64", shape: [3, dimAdd(symbol("past"), symbol("seq"))] } as const;
  builder.placeholder({ name: "x", type });
  const value = decode(exportOnnx(builder.finish({ inputs: ["x"], names: ["y"] }))).graph!.input[0]!.type!.value;
  assert.ok(value.case === "tensorType");
  assert.equal(value.value.elemType, 7);
  assert.deepEqual(value.value.shape!.dim.map((d) => d.value.value), [3n, "past+seq"]);
});

Deno.test("exportOnnx() refers to external data without reading the tensor", () => {
  const builder = new GraphBuilder("local", "g", OPSETS);
  const unread = () => assert.fail("the weight was read");
  builder.getAttr("w", { dtype: "f32", shape: [1024], bytes: unread, slice: unread });
  const model = decode(exportOnnx(builder.finish({ inputs: ["w"], names: ["w"] }), {
    external: (name) => ({ location: `${name}.bin`, offset: 4096, length: 4096 }),
  }));
  const tensor = model.graph!.initializer[0]!;
  assert.equal(tensor.dataLocation, 1);
  assert.deepEqual(tensor.externalData.map((e) => [e.key, e.value]), [["location", "w.bin"], ["offset", "4096"], [
    "length",
    "4096",
  ]]);
});

Deno.test("exportOnnx() gives results their names also where one value is two results or an input is one", async () => {
  const graph = linear(["m", "y", "z", "x2"], ["h", "h", "m", "x"]);
  const out = await run(exportOnnx(graph), { x: new ort.Tensor("float32", new Float32Array([1, 1]), [1, 2]) });
  assert.deepEqual([...out["y"]!.data as Float32Array], [15, 27, 39]);
  assert.deepEqual([...out["z"]!.data as Float32Array], [5, 7, 9]);
  assert.deepEqual([...out["x2"]!.data as Float32Array], [1, 1]);
  assert.deepEqual([...out["m"]!.data as Float32Array], [15, 27, 39]);
});

Deno.test("exportOnnx() types attributes as ONNX does and keeps the end of int64", () => {
  const builder = new GraphBuilder("local", "g", OPSETS);
  builder.call({
    kind: "call_function",
    domain: "com.microsoft",
    op: "Anything",
    inputs: ["", ""],
    outputs: ["y", ""],
    attributes: {
      a: int(-1),
      b: int(9223372036854775807),
      c: float(0.5),
      d: string("é"),
      e: ints([0, 7]),
      f: { kind: "floats", value: [1, 2] },
      g: { kind: "strings", value: ["p", "q"] },
      h: { kind: "tensor", value: inlineData("u8", [2], new Uint8Array([3, 4])) },
    },
  }, [{ name: "y", type: { dtype: undefined, shape: undefined } }]);
  const model = decode(exportOnnx(builder.finish({ inputs: ["y"], names: ["y"] })));
  assert.deepEqual(model.opsetImport.map((o) => o.domain), ["", "com.microsoft"]);
  const { attribute, input, output } = model.graph!.node[0]!;
  assert.deepEqual([input, output], [["", ""], ["y", ""]]);
  const T = AttributeProto_AttributeType;
  assert.deepEqual(attribute.map((a) => a.type), [
    T.INT,
    T.INT,
    T.FLOAT,
    T.STRING,
    T.INTS,
    T.FLOATS,
    T.STRINGS,
    T.TENSOR,
  ]);
  assert.deepEqual([attribute[0]!.i, attribute[1]!.i, attribute[2]!.f], [-1n, 2n ** 63n - 1n, 0.5]);
  assert.equal(new TextDecoder().decode(attribute[3]!.s), "é");
  assert.deepEqual([attribute[4]!.ints, attribute[5]!.floats], [[0n, 7n], [1, 2]]);
  assert.deepEqual(attribute[6]!.strings.map((s) => new TextDecoder().decode(s)), ["p", "q"]);
  assert.deepEqual([...attribute[7]!.t!.rawData], [3, 4]);
});

Deno.test("exportOnnx() writes subgraphs that read renamed values of the enclosing graph", async () => {
  const branch = (name: string, op: string) => {
    const inner = new GraphBuilder("global", name, OPSETS);
    inner.call({ kind: "call_function", domain: "", op, inputs: ["h"], outputs: [`${name}_r`], attributes: {} }, [{
      name: `${name}_r`,
      type: { dtype: "f32", shape: undefined },
    }]);
    return { kind: "graph", value: inner.finish({ inputs: [`${name}_r`], names: [`${name}_r`] }) } as const;
  };
  const builder = new GraphBuilder("global", "g", OPSETS);
  const call = { kind: "call_function", domain: "" } as const;
  const type = { dtype: "f32", shape: [2] } as const;
  builder.placeholder({ name: "x", type });
  builder.placeholder({ name: "c", type: { dtype: "bool", shape: [] } });
  builder.call({ ...call, op: "Abs", inputs: ["x"], outputs: ["h"], attributes: {} }, [{ name: "h", type }]);
  builder.call({
    ...call,
    op: "If",
    inputs: ["c"],
    outputs: ["y"],
    captures: ["h"],
    attributes: { then_branch: branch("t", "Neg"), else_branch: branch("e", "Exp") },
  }, [{ name: "y", type }]);
  const bytes = exportOnnx(builder.finish({ inputs: ["y", "h"], names: ["y", "absolute"] }));
  const out = await run(bytes, {
    x: new ort.Tensor("float32", new Float32Array([-1, 2]), [2]),
    c: new ort.Tensor("bool", [true], []),
  });
  assert.deepEqual([...out["y"]!.data as Float32Array], [-1, -2]);
  assert.deepEqual([...out["absolute"]!.data as Float32Array], [1, 2]);
});

Deno.test("exportOnnx() refuses collectives and layers, naming the node", () => {
  const builder = new GraphBuilder("local", "g", OPSETS);
  const type = { dtype: "f32", shape: [2] } as const;
  builder.placeholder({ name: "x", type });
  builder.collective({ collective: "all_reduce", inputs: ["x"], outputs: ["y"], reduction: "sum" }, {
    name: "y",
    type,
  });
  assert.throws(() => exportOnnx(builder.finish({ inputs: ["y"], names: ["y"] })), (error) => {
    assert.ok(error instanceof GraphError);
    assert.match(error.message, /"all_reduce"/);
    return true;
  });
});
