/**
 * A graph as ONNX bytes.
 *
 * Messages are written straight to the wire, with no objects between: a rank exports one small model a segment at
 * start-up. Weights become references to external data where the caller says so, and are then never read here. The
 * numbers beside the fields are those of `onnx.proto`.
 */
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { dimKey } from "../core/dim.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { GraphError, unreachable } from "../core/errors.ts";
import { subgraphsOf } from "../graph/attributes.ts";
import {
  type Attribute,
  type Call,
  type Graph,
  isCall,
  type Node,
  opKey,
  outputOf,
  type TensorData,
} from "../graph/graph.ts";
import type { TensorType } from "../graph/types.ts";
import { ATTRIBUTE_TYPES } from "./onnx_messages.ts";

/** Where the bytes of a tensor lie: `length` bytes from `offset` of the file `location`, relative to the model. */
export interface ExternalReference {
  /** The file, relative to the model's folder. */
  readonly location: string;
  /** First byte. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/** How a graph is exported. */
export interface ExportOptions {
  /** Where a constant's bytes lie; undefined writes them into the model. Absent: all constants are written. */
  readonly external?: (name: string, data: TensorData) => ExternalReference | undefined;
  /** Version of the file format; the one that came with the graph's opset by default, at least 10. */
  readonly irVersion?: number;
  /** Also writes the types of values between the nodes, where they are known. Readers infer them otherwise. */
  readonly valueInfo?: boolean;
  /** Further entries of a node's `metadata_props`. */
  readonly nodeMetadata?: (node: Call) => Readonly<Record<string, string>>;
  /** Entries of the model's `metadata_props`. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * The graph as the bytes of an ONNX model; `get_attr` nodes become initializers, symbolic sizes named dims.
 *
 * @throws {GraphError} If the graph holds collectives or `shardwise` ops, which no ONNX reader knows, or string tensors.
 */
export function exportOnnx(graph: Graph, options: ExportOptions = {}): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  const opset = graph.opsets.get("") ?? 1;
  // The format version that a release of ONNX pairs with an opset; 10 is the first with 4-bit types.
  const ir = options.irVersion ?? (opset >= 25 ? 13 : opset === 24 ? 12 : opset === 23 ? 11 : 10);
  writer.uint32(tag(1, VARINT)).int64(ir); // ir_version
  writer.uint32(tag(2, BYTES)).string("shardwise"); // producer_name
  message(writer, 7, () => writeGraph(writer, graph, new Exporter(graph, options))); // graph
  const domains = new Map([...graph.opsets].filter(([domain]) => domain !== "shardwise"));
  for (const domain of domainsOf(graph)) if (!domains.has(domain)) domains.set(domain, 1);
  for (const [domain, version] of domains) {
    message(writer, 8, () => { // opset_import
      if (domain !== "") writer.uint32(tag(1, BYTES)).string(domain);
      writer.uint32(tag(2, VARINT)).int64(version);
    });
  }
  for (const [key, value] of Object.entries(options.metadata ?? {})) writeEntry(writer, 14, key, value); // metadata_props
  return writer.finish();
}

const VARINT = 0, BYTES = 2, FIXED32 = 5;

function tag(field: number, wire: number): number {
  return (field << 3) | wire;
}

function message(writer: BinaryWriter, field: number, body: () => void): void {
  writer.uint32(tag(field, BYTES)).fork();
  body();
  writer.join();
}

function writeEntry(writer: BinaryWriter, field: number, key: string, value: string): void {
  message(writer, field, () => writer.uint32(tag(1, BYTES)).string(key).uint32(tag(2, BYTES)).string(value));
}

/** Names under which values are written: ONNX has no names of results apart from the values'. */
class Exporter {
  readonly options: ExportOptions;
  /** Values of this graph and of enclosing ones that are written under another name. */
  readonly renamed: Map<string, string>;
  /** Results that a node of their own must write: `[value, name]`. */
  readonly copies: [string, string][] = [];

  constructor(graph: Graph, options: ExportOptions, outer: ReadonlyMap<string, string> = new Map()) {
    this.options = options;
    this.renamed = new Map(outer);
    const { inputs, names } = outputOf(graph);
    const results = new Set(names);
    if (results.size < names.length) throw new GraphError(`Cannot export "${graph.name}": two results share a name`);
    // Results that keep their names are written so; of others, a call's first result names its output.
    const kept = new Set(inputs.filter((value, i) => names[i] === value));
    const byCalls = new Set(graph.nodes.filter(isCall).flatMap((node) => node.outputs));
    inputs.forEach((value, i) => {
      const name = names[i]!;
      if (name === value) return;
      if (byCalls.has(value) && !kept.has(value) && !this.renamed.has(value)) this.renamed.set(value, name);
      else this.copies.push([value, name]);
    });
    // Other values make room for the results' names.
    for (const name of names) {
      if (kept.has(name) || this.renamed.has(name) || !graph.values.has(name)) continue;
      if (graph.nodes.some((node) => node.kind === "placeholder" && node.outputs[0] === name)) {
        throw new GraphError(`Cannot export "${graph.name}": input "${name}" is also the name of another result`);
      }
      let fresh = `${name}/inner`;
      while (graph.values.has(fresh) || results.has(fresh)) fresh += "_";
      this.renamed.set(name, fresh);
    }
  }

  /** The name under which `value` is written. */
  name(value: string): string {
    return this.renamed.get(value) ?? value;
  }
}

function writeGraph(writer: BinaryWriter, graph: Graph, exporter: Exporter): void {
  const output = outputOf(graph);
  for (const node of graph.nodes) {
    if (isCall(node)) message(writer, 1, () => writeNode(writer, node, exporter)); // node
    else if (node.kind === "collective") throw unknownToOnnx(node, node.collective);
  }
  for (const [value, name] of exporter.copies) {
    const copy: Call = {
      kind: "call_function",
      name: `${name}/copy`,
      domain: "",
      op: "Identity",
      inputs: [value],
      outputs: [name],
      attributes: {},
    };
    message(writer, 1, () => writeNode(writer, copy, exporter));
  }
  writer.uint32(tag(2, BYTES)).string(graph.name || "graph"); // name
  for (const node of graph.nodes) {
    if (node.kind !== "get_attr") continue;
    const name = exporter.name(node.outputs[0]);
    message(writer, 5, () => writeTensor(writer, name, node.data, exporter.options)); // initializer
  }
  for (const node of graph.nodes) {
    if (node.kind === "placeholder") writeValue(writer, 11, node.outputs[0], graph.values.get(node.outputs[0])?.type); // input
  }
  output.inputs.forEach((value, i) => writeValue(writer, 12, output.names[i]!, graph.values.get(value)?.type)); // output
  if (!exporter.options.valueInfo) return;
  const done = new Set(output.inputs);
  for (const node of graph.nodes) {
    if (!isCall(node)) continue;
    for (const value of node.outputs) {
      const type = graph.values.get(value)?.type;
      if (value !== "" && type?.dtype && !done.has(value)) writeValue(writer, 13, exporter.name(value), type); // value_info
    }
  }
}

function writeNode(writer: BinaryWriter, node: Call, exporter: Exporter): void {
  if (node.domain === "shardwise") throw unknownToOnnx(node, opKey(node));
  for (const value of node.inputs) writer.uint32(tag(1, BYTES)).string(exporter.name(value)); // input
  for (const value of node.outputs) writer.uint32(tag(2, BYTES)).string(exporter.name(value)); // output
  writer.uint32(tag(3, BYTES)).string(node.name); // name
  writer.uint32(tag(4, BYTES)).string(node.op); // op_type
  for (const [name, attribute] of Object.entries(node.attributes)) {
    message(writer, 5, () => writeAttribute(writer, name, attribute, exporter)); // attribute
  }
  if (node.domain !== "") writer.uint32(tag(7, BYTES)).string(node.domain); // domain
  if (node.scope) writeEntry(writer, 9, "namespace", node.scope); // metadata_props
  for (const [key, value] of Object.entries(exporter.options.nodeMetadata?.(node) ?? {})) {
    writeEntry(writer, 9, key, value);
  }
}

function writeAttribute(writer: BinaryWriter, name: string, attribute: Attribute, exporter: Exporter): void {
  writer.uint32(tag(1, BYTES)).string(name); // name
  switch (attribute.kind) {
    case "float":
      writer.uint32(tag(2, FIXED32)).float(attribute.value); // f
      break;
    case "int":
      writer.uint32(tag(3, VARINT)).int64(toInt64(attribute.value)); // i
      break;
    case "string":
      writer.uint32(tag(4, BYTES)).string(attribute.value); // s
      break;
    case "tensor":
      message(writer, 5, () => writeTensor(writer, "", attribute.value, exporter.options)); // t
      break;
    case "graph": {
      const inner = attribute.value;
      const scope = new Exporter(inner, exporter.options, exporter.renamed);
      message(writer, 6, () => writeGraph(writer, inner, scope)); // g
      break;
    }
    case "floats":
      for (const value of attribute.value) writer.uint32(tag(7, FIXED32)).float(value); // floats
      break;
    case "ints":
      for (const value of attribute.value) writer.uint32(tag(8, VARINT)).int64(toInt64(value)); // ints
      break;
    case "strings":
      for (const value of attribute.value) writer.uint32(tag(9, BYTES)).string(value); // strings
      break;
    default:
      unreachable(attribute);
  }
  writer.uint32(tag(20, VARINT)).uint32(ATTRIBUTE_TYPES[attribute.kind]); // type
}

/** Numbers hold int64 up to 2^53; what lies beyond stands for "to the end" and becomes the largest int64. */
function toInt64(value: number): bigint | number {
  if (Number.isSafeInteger(value)) return value;
  return value >= 2 ** 63 ? 2n ** 63n - 1n : value <= -(2 ** 63) ? -(2n ** 63n) : BigInt(value);
}

function writeTensor(writer: BinaryWriter, name: string, data: TensorData, options: ExportOptions): void {
  if (data.dtype === "string") throw new GraphError(`Cannot export the string tensor "${name}"`);
  for (const size of data.shape) writer.uint32(tag(1, VARINT)).int64(size); // dims
  writer.uint32(tag(2, VARINT)).uint32(dtypeInfo(data.dtype).onnx); // data_type
  if (name !== "") writer.uint32(tag(8, BYTES)).string(name); // name
  const external = options.external?.(name, data);
  if (external === undefined) {
    writer.uint32(tag(9, BYTES)).bytes(data.bytes()); // raw_data
    return;
  }
  writeEntry(writer, 13, "location", external.location); // external_data
  writeEntry(writer, 13, "offset", String(external.offset));
  writeEntry(writer, 13, "length", String(external.length));
  writer.uint32(tag(14, VARINT)).uint32(1); // data_location = EXTERNAL
}

/** A ValueInfoProto. Without a dtype only the name is written: the reader infers the rest. */
function writeValue(writer: BinaryWriter, field: number, name: string, type: TensorType | undefined): void {
  message(writer, field, () => {
    writer.uint32(tag(1, BYTES)).string(name); // name
    const { dtype, shape } = type ?? {};
    if (!dtype) return;
    message(writer, 2, () =>
      // type
      message(writer, 1, () => { // tensor_type
        writer.uint32(tag(1, VARINT)).uint32(dtypeInfo(dtype).onnx); // elem_type
        if (!shape) return;
        message(writer, 2, () => { // shape
          for (const size of shape) {
            message(writer, 1, () => { // dim
              if (typeof size === "number") writer.uint32(tag(1, VARINT)).int64(size); // dim_value
              else writer.uint32(tag(2, BYTES)).string(dimKey(size)); // dim_param
            });
          }
        });
      }));
  });
}

/** The domains of all calls, those of subgraphs included. */
function domainsOf(graph: Graph, into: Set<string> = new Set()): Set<string> {
  for (const node of graph.nodes) {
    if (!isCall(node)) continue;
    into.add(node.domain);
    for (const inner of subgraphsOf(node.attributes)) domainsOf(inner, into);
  }
  return into;
}

function unknownToOnnx(node: Node, what: string): GraphError {
  return new GraphError(`Cannot export node "${node.name}" to ONNX: ${what} is no ONNX operator`, {
    hint: "cut the graph at its collectives, and lower layers, before exporting it",
  });
}
