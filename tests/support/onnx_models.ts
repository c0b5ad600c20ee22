/** Small ONNX models as messages, for tests of the reader: short names for what would fill a screen. */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import {
  type AttributeProto,
  AttributeProto_AttributeType as Kind,
  AttributeProtoSchema,
  type FunctionProto,
  FunctionProtoSchema,
  type GraphProto,
  GraphProtoSchema,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  NodeProtoSchema,
  type TensorProto,
  TensorProtoSchema,
} from "./onnx_schema.ts";

/** A node, as `node("Add", ["a", "b"], ["c"])`. */
export function node(
  opType: string,
  input: string[],
  output: string[],
  init: MessageInitShape<typeof NodeProtoSchema> = {},
): NodeProto {
  return create(
    NodeProtoSchema,
    { opType, input, output, name: `n_${output[0]}`, ...init } as MessageInitShape<typeof NodeProtoSchema>,
  );
}

/** A graph of `nodes` with inputs and outputs of type float. */
export function graph(
  nodes: NodeProto[],
  { inputs = ["x"], outputs = ["y"], initializers = [] }: {
    inputs?: string[];
    outputs?: string[];
    initializers?: TensorProto[];
  } = {},
): GraphProto {
  const value = (name: string) => ({ name, type: { value: { case: "tensorType" as const, value: { elemType: 1 } } } });
  return create(GraphProtoSchema, {
    name: "g",
    node: nodes,
    input: inputs.map(value),
    output: outputs.map(value),
    initializer: initializers,
  });
}

/** A model of `graph`, IR 9 and opset 18 unless told otherwise. */
export function model(g: GraphProto, init: MessageInitShape<typeof ModelProtoSchema> = {}): ModelProto {
  return create(
    ModelProtoSchema,
    { irVersion: 9n, opsetImport: [{ domain: "", version: 18n }], graph: g, ...init } as MessageInitShape<
      typeof ModelProtoSchema
    >,
  );
}

/** A tensor; float32 of no data unless told otherwise. */
export function tensor(name: string, init: MessageInitShape<typeof TensorProtoSchema> = {}): TensorProto {
  return create(TensorProtoSchema, { name, dataType: 1, ...init } as MessageInitShape<typeof TensorProtoSchema>);
}

/** External data entries, as `external({ location: "w.bin", offset: 4 })`. */
export function external(entries: Record<string, string | number>) {
  return {
    dataLocation: 1,
    externalData: Object.entries(entries).map(([key, value]) => ({ key, value: String(value) })),
  };
}

/** A function of domain `f`. */
export function fn(name: string, init: MessageInitShape<typeof FunctionProtoSchema>): FunctionProto {
  return create(
    FunctionProtoSchema,
    { name, domain: "f", opsetImport: [{ domain: "", version: 18n }], ...init } as MessageInitShape<
      typeof FunctionProtoSchema
    >,
  );
}

/** An int attribute. */
export function int(name: string, i: bigint): AttributeProto {
  return create(AttributeProtoSchema, { name, type: Kind.INT, i });
}

/** An int attribute that takes the value of the caller's attribute `refAttrName`. */
export function intRef(name: string, refAttrName: string): AttributeProto {
  return create(AttributeProtoSchema, { name, type: Kind.INT, refAttrName });
}

/** A tensor or graph attribute. */
export function attribute(name: string, value: { t: TensorProto } | { g: GraphProto }): AttributeProto {
  return create(AttributeProtoSchema, { name, type: "t" in value ? Kind.TENSOR : Kind.GRAPH, ...value });
}

/** Writes a model into a new temporary folder; `files` are written beside it. Returns its path. */
export function saveModel(m: ModelProto, files: Record<string, Uint8Array> = {}): string {
  const folder = tempFolder();
  for (const [name, bytes] of Object.entries(files)) Deno.writeFileSync(`${folder}/${name}`, bytes);
  Deno.writeFileSync(`${folder}/model.onnx`, toBinary(ModelProtoSchema, m));
  return `${folder}/model.onnx`;
}

/** A new temporary folder that is removed when the tests of this file have run. */
export function tempFolder(): string {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-onnx-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  return folder;
}
