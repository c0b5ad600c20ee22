/**
 * An ONNX file as a graph: nodes become calls, initializers and `Constant` nodes become `get_attr` nodes whose data stays
 * in the file, subgraphs become nested graphs with their captures listed.
 *
 * Nothing is rewritten here: the graph says what the file says. Types are those that the file declares (inputs,
 * outputs, `value_info`); the inference pass fills in the rest. Sizes that the file leaves open on an input become
 * symbols named after the input and the dim.
 */
import { type Dim, parseDim, symbol } from "../core/dim.ts";
import { type DType, dtypeFromOnnx } from "../core/dtype.ts";
import { FormatError } from "../core/errors.ts";
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { subgraphsOf } from "../graph/attributes.ts";
import type { Attribute, Attributes, Graph, TensorData, Value } from "../graph/graph.ts";
import { capturesOf } from "../graph/subgraphs.ts";
import type { TensorType } from "../graph/types.ts";
import { carriedByName } from "./carried_names.ts";
import { nodeLabel, normalDomain } from "./onnx_check.ts";
import type { OnnxFile } from "./onnx_file.ts";
import {
  ATTRIBUTE_TYPES as TYPES,
  type AttributeProto,
  type GraphProto,
  type NodeProto,
  NONE,
  type TensorProto,
  type ValueInfoProto,
} from "./onnx_messages.ts";
import { scopeOf } from "./onnx_scope.ts";
import { tensorData } from "./tensor_data.ts";

/**
 * The main graph of an opened model. Its constants read from `file`, which must stay open as long as they are used.
 *
 * @throws {FormatError} If an input is no tensor, or a node has an attribute of a kind that graphs do not hold.
 */
export function importOnnx(file: OnnxFile): Graph<"global"> {
  const builder = new GraphBuilder("global", file.graph.name, file.opsets);
  const inputs = new Importer(file, builder, file.graph).run("declared");
  const names = file.graph.output.map((o) => o.name);
  return builder.finish({ inputs: names, names }, carriedByName(inputs, names));
}

/** A subgraph (a branch of If, the body of Loop). Its inputs may be of any type; what it reads from outside it does not hold. */
function importSubgraph(file: OnnxFile, proto: GraphProto): Graph<"global"> {
  const builder = new GraphBuilder("global", proto.name, file.opsets);
  new Importer(file, builder, proto).run("open");
  const names = proto.output.map((o) => o.name);
  return builder.finish({ inputs: names, names });
}

class Importer {
  readonly #file: OnnxFile;
  readonly #builder: GraphBuilder<"global">;
  readonly #graph: GraphProto;
  readonly #constants: Map<string, TensorProto>;
  readonly #hints = new Map<string, TensorType>();

  constructor(file: OnnxFile, builder: GraphBuilder<"global">, graph: GraphProto) {
    this.#file = file;
    this.#builder = builder;
    this.#graph = graph;
    this.#constants = new Map(graph.initializer.map((t) => [t.name, t]));
    for (const info of [...graph.valueInfo, ...graph.output]) {
      const hint = this.#typeOf(info);
      if (hint) this.#hints.set(info.name, hint);
    }
  }

  /**
   * Appends all nodes but the output, and gives the names of the inputs. With `declared` inputs, all are tensors and open sizes
   * become symbols.
   */
  run(inputs: "declared" | "open"): string[] {
    // Old files list initializers as inputs too, so that callers may override them: we take them as constants.
    const given = this.#graph.input.filter((info) => !this.#constants.has(info.name));
    for (const info of given) {
      const type = inputs === "declared" ? this.#inputType(info) : this.#typeOf(info) ?? OPEN;
      this.#builder.placeholder({ name: info.name, type });
    }
    for (const node of this.#graph.node) this.#node(node);
    this.#constantsFor(this.#graph.output.map((o) => o.name));
    return given.map((info) => info.name);
  }

  /** Initializers stand before their first use; those that nothing uses are left out. */
  #constantsFor(reads: readonly string[]): void {
    for (const name of reads) {
      const proto = this.#constants.get(name);
      if (!proto) continue;
      this.#constants.delete(name);
      this.#builder.getAttr(name, tensorData(this.#file.tensor(proto)));
    }
  }

  #node(node: NodeProto): void {
    const constant = node.opType === "Constant" && normalDomain(node.domain) === "" ? this.#constant(node) : undefined;
    if (constant) {
      this.#builder.getAttr(node.output[0]!, constant);
      return;
    }
    const attributes = this.#attributes(node), captures = capturedBy(attributes);
    this.#constantsFor(node.input);
    this.#constantsFor(captures);
    const scope = scopeOf(node);
    this.#builder.call({
      kind: "call_function",
      name: node.name || node.opType,
      domain: normalDomain(node.domain),
      op: node.opType,
      inputs: node.input,
      outputs: node.output,
      ...(captures.length > 0 ? { captures } : {}),
      attributes,
      ...(scope ? { scope } : {}),
    }, this.#values(node.output));
  }

  #attributes(node: NodeProto): Attributes {
    if (node.attribute.length === 0) return NO_ATTRIBUTES;
    return Object.fromEntries(node.attribute.map((a) => [a.name, this.#attribute(a, node)]));
  }

  #values(names: readonly string[]): Value[] {
    const values: Value[] = [];
    for (const name of names) if (name !== "") values.push({ name, type: this.#hints.get(name) ?? OPEN });
    return values;
  }

  /** The tensor of a `Constant` node; undefined for strings, which stay a node. */
  #constant(node: NodeProto): TensorData | undefined {
    const attribute = node.attribute[0];
    switch (attribute?.name) {
      case "value":
        return attribute.t && tensorData(this.#file.tensor(attribute.t));
      case "value_float":
        return inlineData("f32", [], new Float32Array([attribute.f]));
      case "value_floats":
        return inlineData("f32", [attribute.floats.length], new Float32Array(attribute.floats));
      case "value_int":
        return inlineData("i64", [], new BigInt64Array([attribute.i]));
      case "value_ints":
        return inlineData("i64", [attribute.ints.length], new BigInt64Array(attribute.ints));
      default:
        return undefined;
    }
  }

  #attribute(a: AttributeProto, node: NodeProto): Attribute {
    const refuse = (what: string) =>
      new FormatError(`Cannot read attribute "${a.name}" of ${nodeLabel(node)} of ${this.#file.path}: ${what}`);
    if (a.refAttrName !== "") throw refuse(`it refers to "${a.refAttrName}" outside of a function`);
    switch (kindOf(a)) {
      case TYPES.float:
        return { kind: "float", value: a.f };
      case TYPES.int:
        return { kind: "int", value: Number(a.i) };
      case TYPES.string:
        return { kind: "string", value: UTF8.decode(a.s) };
      case TYPES.tensor:
        return { kind: "tensor", value: tensorData(this.#file.tensor(a.t!)) };
      case TYPES.graph:
        return { kind: "graph", value: importSubgraph(this.#file, a.g!) };
      case TYPES.floats:
        return { kind: "floats", value: a.floats };
      case TYPES.ints:
        return { kind: "ints", value: a.ints.map(Number) };
      case TYPES.strings:
        return { kind: "strings", value: a.strings.map((s) => UTF8.decode(s)) };
      default:
        throw refuse(`its kind ${kindName(a.type)} is not supported`);
    }
  }

  /** Dtype and sizes of a declared tensor; undefined for a size that is left open. */
  #declared(
    info: ValueInfoProto,
  ): { dtype: DType | undefined; sizes: (Dim | undefined)[] | undefined } | undefined {
    if (info.type?.value.case !== "tensorType") return undefined;
    const { elemType, shape } = info.type.value.value;
    const sizes = shape?.dim.map(({ value }) => {
      if (value.case === "dimValue") return value.value < 0n ? undefined : Number(value.value);
      return value.case === "dimParam" && value.value.trim() !== "" ? parseDim(value.value) : undefined;
    });
    return { dtype: elemType === 0 ? undefined : this.#dtype(elemType, info), sizes };
  }

  #dtype(elemType: number, info: ValueInfoProto): DType {
    try {
      return dtypeFromOnnx(elemType);
    } catch (cause) {
      throw this.#refuseValue(info, `its element type ${elemType} is unknown`, cause);
    }
  }

  #typeOf(info: ValueInfoProto): TensorType | undefined {
    const type = this.#declared(info);
    return type && { dtype: type.dtype, shape: type.sizes?.every((d) => d !== undefined) ? type.sizes : undefined };
  }

  #inputType(info: ValueInfoProto): TensorType {
    const type = this.#declared(info);
    if (!type?.dtype || !type.sizes) {
      const found = info.type?.value.case ?? "no type";
      throw this.#refuseValue(
        info,
        `as an input it needs a tensor type with dtype and number of dims, found ${
          found === "tensorType" ? "a tensor without them" : found
        }`,
      );
    }
    return { dtype: type.dtype, shape: type.sizes.map((d, i) => d ?? symbol(`${info.name}.${i}`)) };
  }

  #refuseValue(info: ValueInfoProto, what: string, cause?: unknown): FormatError {
    return new FormatError(`Cannot read value ${JSON.stringify(info.name)} of ${this.#file.path}: ${what}`, { cause });
  }
}

const UTF8 = new TextDecoder();
const NO_ATTRIBUTES: Attributes = {};
const OPEN: TensorType = { dtype: undefined, shape: undefined };

/** What subgraphs in attributes read from outside, each once. */
function capturedBy(attributes: Attributes): readonly string[] {
  if (attributes === NO_ATTRIBUTES) return NONE;
  const graphs = subgraphsOf(attributes);
  return graphs.length === 0 ? NONE : [...new Set(graphs.flatMap((graph) => capturesOf(graph)))];
}

/** The kind of an attribute; files of IR versions before 3 do not say it. */
function kindOf(a: AttributeProto): number {
  if (a.type !== TYPES.undefined) return a.type;
  if (a.t) return TYPES.tensor;
  if (a.g) return TYPES.graph;
  if (a.s.length > 0) return TYPES.string;
  if (a.floats.length > 0) return TYPES.floats;
  if (a.strings.length > 0) return TYPES.strings;
  if (a.f !== 0) return TYPES.float;
  return a.i !== 0n ? TYPES.int : TYPES.ints;
}

function kindName(type: number): string {
  return Object.entries(TYPES).find(([, number]) => number === type)?.[0].toUpperCase() ?? String(type);
}
