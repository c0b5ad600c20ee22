/**
 * Rounds every float value of a rank's graph to a dtype of 16 bits, as a GPU that holds floats in it does, while everything is computed
 * in the model's own dtype: what rounding alone does to results, on any engine.
 *
 * ```text
 * %y = MatMul(%x, %w)      ->      %y.exact = MatMul(%x, %w)
 *                                  %y.narrow = Cast(%y.exact) {to=16}
 *                                  %y = Cast(%y.narrow) {to=1}
 * ```
 * Constants are rounded as they are read; inputs are rounded by who gives them ({@linkcode roundTensor}). Of several float dtypes the one that most weights have is rounded.
 */
import { byteLength, type DType, dtypeInfo } from "../core/dtype.ts";
import { type HostTensor, hostTensorFromBytes } from "../core/host_tensor.ts";
import { convertFloats, isShortFloat, type ShortFloat } from "../core/narrow_floats.ts";
import { int, tensor, tensorOf } from "../graph/attributes.ts";
import { GraphBuilder } from "../graph/builder.ts";
import { type Call, type Graph, isCall, outputOf, type TensorData, type Value, valueOf } from "../graph/graph.ts";

/** A dtype that is rounded to. */
export type NarrowDType = "f16" | "bf16";

/** The float dtype of 16 or 32 bits that most elements of the constants of `graphs` have; undefined where none has one. */
export function mostFloats(graphs: readonly Graph[]): ShortFloat | undefined {
  const counts = new Map<ShortFloat, number>();
  for (const node of graphs.flatMap((g) => g.nodes)) {
    if (node.kind !== "get_attr") continue;
    const { dtype, shape } = node.data;
    if (!isShortFloat(dtype)) continue;
    counts.set(dtype, (counts.get(dtype) ?? 0) + shape.reduce((a, b) => a * b, 1));
  }
  return [...counts].toSorted((a, b) => b[1] - a[1])[0]?.[0];
}

/** `graph` with its floats rounded to `to`; as it is where most of them are of that dtype, or there are none. */
export function roundValues(graph: Graph<"local">, to: NarrowDType): Graph<"local"> {
  const own = mostFloats([graph]);
  if (own === undefined || own === to) return graph;
  const builder = new GraphBuilder("local", graph.name, graph.opsets);
  const names = new Set(graph.values.keys());
  const value = (name: string) => valueOf(graph, name);
  const isRounded = (name: string) => name !== "" && value(name).type.dtype === own;
  const fresh = (stem: string): string => names.has(stem) ? fresh(`${stem}_`) : (names.add(stem), stem);
  const round = (from: string, into: Value, level: number | undefined) => {
    const narrow = fresh(`${into.name}.narrow`), { shape } = into.type;
    const cast = (input: string, output: Value, dtype: DType) =>
      builder.call({
        kind: "call_function",
        domain: "",
        op: "Cast",
        inputs: [input],
        outputs: [output.name],
        attributes: { to: int(dtypeInfo(dtype).onnx) },
        ...(level === undefined ? {} : { level }),
      }, [output]);
    cast(from, { name: narrow, type: { dtype: to, shape } }, to);
    cast(narrow, into, own);
  };
  for (const node of graph.nodes) {
    if (node.kind === "output") continue;
    if (node.kind === "get_attr" && isRounded(node.outputs[0])) {
      builder.append({ ...node, data: roundedData(node.data, own, to) }, [value(node.outputs[0])]);
    } else if (isCall(node)) {
      const outputs = node.outputs.map((name) => (isRounded(name) ? fresh(`${name}.exact`) : name));
      builder.append(
        { ...withinRange(node, to), outputs },
        node.outputs.flatMap((name, i) => (name === "" ? [] : [{ ...value(name), name: outputs[i]! }])),
      );
      outputs.forEach((name, i) => name !== node.outputs[i] && round(name, value(node.outputs[i]!), node.level));
    } else builder.append(node, node.outputs.map(value));
  }
  const { inputs, names: outputs } = outputOf(graph);
  return builder.finish({ inputs, names: outputs }, graph.carried);
}

/** `tensor` with floats rounded to `to`: what an input has to be, as graphs leave theirs alone. */
export function roundTensor(tensor: HostTensor, to: NarrowDType): HostTensor {
  const { dtype, data } = tensor;
  if (!isShortFloat(dtype)) return tensor;
  return { ...tensor, data: rounded(data as Float32Array | Uint16Array, dtype, to) };
}

function rounded(floats: Float32Array | Uint16Array, from: ShortFloat, to: NarrowDType): Float32Array | Uint16Array {
  return convertFloats(convertFloats(floats, from, to), to, from);
}

/** A call whose attribute is a number to fill with, in the range of `to`. */
function withinRange(node: Call, to: NarrowDType): Call {
  const fill = node.op === "ConstantOfShape" ? tensorOf(node.attributes, "value") : undefined;
  if (!fill || !isShortFloat(fill.dtype)) return node;
  const bytes = roundedData(fill, fill.dtype, to).bytes();
  return { ...node, attributes: { ...node.attributes, value: tensor({ ...fill, bytes: () => bytes }) } };
}

function roundedData(data: TensorData, from: ShortFloat, to: NarrowDType): TensorData {
  const narrow = (bytes: Uint8Array): Uint8Array => {
    const { data } = hostTensorFromBytes(from, [bytes.length / byteLength(from, 1)], bytes);
    const result = rounded(data as Float32Array | Uint16Array, from, to);
    return new Uint8Array(result.buffer as ArrayBuffer, result.byteOffset, result.byteLength);
  };
  const { dtype, shape } = data;
  return {
    dtype,
    shape,
    bytes: () => narrow(data.bytes()),
    *chunks() {
      for (const piece of data.chunks?.() ?? [data.bytes()]) yield narrow(piece);
    },
    slice: (dim, ranges) => narrow(data.slice(dim, ranges)),
  };
}
