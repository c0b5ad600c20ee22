import assert from "node:assert/strict";
import { create, type DescMessage, type Message, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { join } from "node:path";
import { FormatError } from "../core/errors.ts";
import type { Call, GetAttr, Graph } from "../graph/graph.ts";
import { printType } from "../graph/types.ts";
import { carriedByName } from "./carried_names.ts";
import { importOnnx } from "./import_onnx.ts";
import { readOnnx } from "./onnx_file.ts";
import {
  AttributeProto_AttributeType as Kind,
  type GraphProtoSchema,
  ModelProtoSchema,
  NodeProtoSchema,
  type TypeProtoSchema,
} from "../../tests/support/onnx_schema.ts";
import { scopeOf } from "./onnx_scope.ts";

type Init<T extends DescMessage> = Exclude<MessageInitShape<T>, Message>;
type NodeInit = Init<typeof NodeProtoSchema>;

function type(elemType: number, dims: readonly (number | string | null)[]): Init<typeof TypeProtoSchema> {
  const dim = dims.map((d) => ({
    value: d === null
      ? { case: undefined }
      : typeof d === "number"
      ? { case: "dimValue", value: BigInt(d) } as const
      : { case: "dimParam", value: d } as const,
  }));
  return { value: { case: "tensorType", value: { elemType, shape: { dim } } } };
}

/** Runs `check` on the import of a model of one graph. */
function imported(graph: Init<typeof GraphProtoSchema>, check: (graph: Graph<"global">) => void): void {
  const folder = Deno.makeTempDirSync();
  try {
    const path = join(folder, "model.onnx");
    const model = create(ModelProtoSchema, {
      irVersion: 8n,
      opsetImport: [{ domain: "ai.onnx", version: 17n }],
      graph: { name: "g", ...graph },
    });
    Deno.writeFileSync(path, toBinary(ModelProtoSchema, model));
    using file = readOnnx(path);
    check(importOnnx(file));
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

const X = { name: "x", type: type(1, ["batch", 2]) };
const relu = (input: string, output: string): NodeInit => ({ opType: "Relu", input: [input], output: [output] });
const call = (graph: Graph, name: string) => graph.nodes.find((n) => n.name === name) as Call;

Deno.test("importOnnx() reads sizes as expressions and names the ones that are left open", () => {
  const inputs = [
    { name: "mask", type: type(7, ["batch", "past + seq"]) },
    { name: "x", type: type(1, [null, "", "1", -1, 3]) },
  ];
  imported({ input: inputs, node: [relu("x", "y")], output: [{ name: "y" }] }, (graph) => {
    assert.equal(printType(graph.values.get("mask")!.type), "i64[batch,past+seq]");
    assert.equal(printType(graph.values.get("x")!.type), "f32[x.0,x.1,1,x.3,3]");
  });
});

Deno.test("importOnnx() takes initializers that are inputs too as constants, and leaves out unused ones", () => {
  const weight = (name: string) => ({ name, dims: [2n], dataType: 1, rawData: new Uint8Array(8).fill(1) });
  imported({
    input: [X, { name: "w", type: type(1, [2]) }],
    initializer: [weight("w"), weight("unused")],
    node: [relu("x", "a"), { opType: "Add", input: ["a", "w"], output: ["y"] }],
    output: [{ name: "y" }],
  }, (graph) => {
    assert.deepEqual(graph.nodes.map((n) => `${n.kind} ${n.name}`), [
      "placeholder x",
      "call_function Relu",
      "get_attr w",
      "call_function Add",
      "output output",
    ]);
    const { data } = graph.nodes[2] as GetAttr;
    assert.deepEqual([...data.slice(0, [[1, 2]])], [1, 1, 1, 1]);
    assert.equal(data.location!.length, 8);
  });
});

Deno.test("importOnnx() turns Constant nodes of every numeric form into get_attr", () => {
  const constant = (name: string, a: NonNullable<NodeInit["attribute"]>[number]): NodeInit => ({
    opType: "Constant",
    output: [name],
    attribute: [a],
  });
  imported({
    input: [X],
    node: [
      constant("t", { name: "value", type: Kind.TENSOR, t: { dims: [1n], dataType: 7, int64Data: [5n] } }),
      constant("i", { name: "value_int", type: Kind.INT, i: -3n }),
      constant("is", { name: "value_ints", type: Kind.INTS, ints: [1n, 2n] }),
      constant("f", { name: "value_float", type: Kind.FLOAT, f: 0.5 }),
      constant("fs", { name: "value_floats", type: Kind.FLOATS, floats: [1, 2] }),
      relu("x", "y"),
    ],
    output: [{ name: "y" }],
  }, (graph) => {
    const types = ["t", "i", "is", "f", "fs"].map((name) => printType(graph.values.get(name)!.type));
    assert.deepEqual(types, ["i64[1]", "i64[]", "i64[2]", "f32[]", "f32[2]"]);
    const bytes = (graph.nodes.find((n) => n.name === "i") as GetAttr).data.bytes();
    assert.equal(new DataView(bytes.buffer, bytes.byteOffset).getBigInt64(0, true), -3n);
  });
});

Deno.test("importOnnx() keeps empty names, makes node names unique, and takes declared types as hints", () => {
  imported({
    input: [X],
    node: [
      { ...relu("x", "a"), name: "n", domain: "ai.onnx" },
      { opType: "Clip", name: "n", input: ["a", "", "a"], output: ["output"] },
      { opType: "Dropout", name: "output", input: ["output"], output: ["y", ""] },
    ],
    valueInfo: [{ name: "a", type: type(1, ["batch", 2]) }, { name: "output", type: type(1, [null, 2]) }],
    output: [{ name: "y" }],
  }, (graph) => {
    assert.deepEqual(graph.nodes.map((n) => n.name), ["x", "n", "n_2", "output_2", "output"]);
    assert.deepEqual([call(graph, "n").domain, call(graph, "n_2").inputs], ["", ["a", "", "a"]]);
    assert.deepEqual(call(graph, "output_2").outputs, ["y", ""]);
    assert.equal(printType(graph.values.get("a")!.type), "f32[batch,2]");
    assert.equal(printType(graph.values.get("output")!.type), "f32[?]");
  });
});

Deno.test("importOnnx() nests subgraphs and lists what they read from outside, through two levels", () => {
  const branch = (name: string, node: NodeInit[]) => ({
    name,
    type: Kind.GRAPH,
    g: { name, node, output: [{ name: `${name}_y` }] },
  });
  const inner: NodeInit = {
    opType: "If",
    input: ["c"],
    output: ["then_branch_y"],
    attribute: [branch("then_branch2", [relu("w", "then_branch2_y")]), branch("else2", [relu("x", "else2_y")])],
  };
  imported({
    input: [X, { name: "c", type: type(9, []) }],
    initializer: [{ name: "w", dims: [1n], dataType: 1, floatData: [2] }],
    node: [{
      opType: "If",
      input: ["c"],
      output: ["y"],
      attribute: [
        branch("then_branch", [inner]),
        branch("else_branch", [relu("x", "a"), relu("a", "else_branch_y")]),
      ],
    }],
    output: [{ name: "y" }],
  }, (graph) => {
    assert.deepEqual(graph.nodes.map((n) => n.name), ["x", "c", "w", "If", "output"]);
    assert.deepEqual(call(graph, "If").captures, ["c", "w", "x"]);
    const then = call(graph, "If").attributes["then_branch"];
    assert.ok(then?.kind === "graph");
    assert.deepEqual(call(then.value, "If").captures, ["w", "x"]);
  });
});

Deno.test("importOnnx() names the node and the attribute that it cannot hold", () => {
  const node = { ...relu("x", "y"), name: "odd", attribute: [{ name: "t", type: Kind.TYPE_PROTO, tp: type(1, []) }] };
  assert.throws(() => imported({ input: [X], node: [node], output: [{ name: "y" }] }, () => {}), (error) => {
    assert.ok(error instanceof FormatError);
    assert.match(error.message, /"t".*odd.*TYPE_PROTO/);
    return true;
  });
});

Deno.test("scopeOf() reads the module path from what each exporter leaves", () => {
  const scope = (name: string, key = "", value = "") =>
    scopeOf(create(NodeProtoSchema, { name, metadataProps: key ? [{ key, value }] : [] }));
  assert.equal(scope("/model/layers.0/mlp/up_proj/MatMul"), "model.layers.0.mlp.up_proj");
  assert.equal(scope("MatMul_3"), undefined);
  assert.equal(scope("n", "pkg.torch.onnx.name_scopes", "['', 'model', 'model.lin', 'linear_1']"), "model.lin");
  assert.equal(scope("n", "namespace", ": Model/lin: torch.nn.Linear/linear: aten.linear.default"), "lin");
  assert.equal(scope("n", "namespace", "model.lin"), "model.lin");
});

Deno.test("carriedByName() pairs the caches of every naming scheme and nothing else", () => {
  const pairs = (inputs: string[], outputs: string[]) => carriedByName(inputs, outputs).map((c) => outputs[c.output]);
  assert.deepEqual(pairs(["ids", "past_key_values.0.key", "past_key_values.1.key"], ["l", "present.0.key"]), [
    "present.0.key",
  ]);
  assert.deepEqual(pairs(["past_0"], ["last", "present_0"]), ["present_0"]);
  assert.deepEqual(pairs(["past_key_self_0"], ["present_key_self_0"]), ["present_key_self_0"]);
  assert.deepEqual(pairs(["input_ids", "pasta"], ["logits", "presenta"]), []);
});
