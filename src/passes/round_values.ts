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
import { type DType, dtypeInfo } from "../core/dtype.ts";
import { bf16ArrayToF32, f16ArrayToF32, f32ArrayToBf16, f32ArrayToF16 } from "../core/half.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { int } from "../graph/attributes.ts";
import { GraphBuilder } from "../graph/builder.ts";
import { type Graph, isCall, outputOf, type TensorData, type Value, valueOf } from "../graph/graph.ts";

/** A dtype that is rounded to. */
export type NarrowDType = "f16" | "bf16";

/** The float dtype of 16 or 32 bits that most elements of the constants of `graphs` have; undefined where none has one. */
export function mostFloats(graphs: readonly Graph[]): DType | undefined {
  const counts = new Map<DType, number>();
  for (const node of graphs.flatMap((g) => g.nodes)) {
    if (node.kind !== "get_attr") continue;
    const { dtype, shape } = node.data;
    if (dtype !== "f32" && dtype !== "f16" && dtype !== "bf16") continue;
    counts.set(dtype, (counts.get(dtype) ?? 0) + shape.reduce((a, b) => a * b, 1));
  }
  return [...counts].toSorted((a, b) => b[1] - a[1])[0]?.[0];
}

/** `graph` with values of 32 bits rounded to `to`; as it is where most of its floats have 16 bits already, or there are none. */
export function roundValues(graph: Graph<"local">, to: NarrowDType): Graph<"local"> {
  if (mostFloats([graph]) !== "f32") return graph;
  const builder = new GraphBuilder("local", graph.name, graph.opsets);
  const names = new Set(graph.values.keys());
  const value = (name: string) => valueOf(graph, name);
  const isRounded = (name: string) => name !== "" && value(name).type.dtype === "f32";
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
    cast(narrow, into, "f32");
  };
  for (const node of graph.nodes) {
    if (node.kind === "output") continue;
    if (node.kind === "get_attr" && isRounded(node.outputs[0])) {
      builder.append({ ...node, data: roundedData(node.data, to) }, [value(node.outputs[0])]);
    } else if (isCall(node)) {
      const outputs = node.outputs.map((name) => (isRounded(name) ? fresh(`${name}.exact`) : name));
      builder.append(
        { ...node, outputs },
        node.outputs.flatMap((name, i) => (name === "" ? [] : [{ ...value(name), name: outputs[i]! }])),
      );
      outputs.forEach((name, i) => name !== node.outputs[i] && round(name, value(node.outputs[i]!), node.level));
    } else builder.append(node, node.outputs.map(value));
  }
  const { inputs, names: outputs } = outputOf(graph);
  return builder.finish({ inputs, names: outputs }, graph.carried);
}

/** `tensor` with numbers of 32 bits rounded to `to`: what an input has to be, as graphs leave theirs alone. */
export function roundTensor(tensor: HostTensor, to: NarrowDType): HostTensor {
  return tensor.data instanceof Float32Array ? { ...tensor, data: rounded(tensor.data, to) } : tensor;
}

function rounded(floats: Float32Array, to: NarrowDType): Float32Array {
  return to === "f16" ? f16ArrayToF32(f32ArrayToF16(floats)) : bf16ArrayToF32(f32ArrayToBf16(floats));
}

function roundedData(data: TensorData, to: NarrowDType): TensorData {
  const narrow = (bytes: Uint8Array): Uint8Array => {
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
    const floats = new Float32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4);
    return new Uint8Array(rounded(floats, to).buffer);
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
