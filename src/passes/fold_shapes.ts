/**
 * Replaces shape arithmetic by its result.
 *
 * ```text
 * %3 = Shape(%x)   %4 = Gather(%3, 0)   %5 = Concat(%4, …)      ->      %5 = shardwise.Sizes()      i64 = [batch, 96]
 * ```
 * A value whose content is known over the symbols of the graph's inputs becomes a `Sizes` node, or constant data where it
 * has no symbols; what computed it is dropped when nothing else reads it. What depends on data (a symbol with `#`) stays, as does
 * what has more dims than one.
 */
import { symbolsOf } from "../core/dim.ts";
import { type DType, dtypeInfo } from "../core/dtype.ts";
import { int } from "../graph/attributes.ts";
import { inlineData } from "../graph/builder.ts";
import { type Call, type Graph, isCall, type Node, type TensorData, type Value, valueOf } from "../graph/graph.ts";
import { constantInts } from "../ops/known_ints.ts";
import { eliminateDeadCode } from "./eliminate_dead_code.ts";

/** The graph without shape arithmetic; types must be inferred. */
export function foldShapes<S extends "global">(graph: Graph<S>): Graph<S> {
  const symbols = new Set<string>();
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    for (const d of valueOf(graph, node.outputs[0]).type.shape ?? []) symbolsOf(d, symbols);
  }
  // Sizes are numbers or rows of them; a matrix of symbols is computed as the model says.
  const isKnown = (value: Value) =>
    value.ints !== undefined && value.type.dtype !== undefined &&
    (value.ints.dims.length <= 1 || constantInts(value.ints) !== undefined) &&
    value.ints.elements.every((e) => [...symbolsOf(e)].every((s) => symbols.has(s) && !s.includes("#")));
  const values = new Map(graph.values);
  const fresh = (stem: string) => {
    let name = stem;
    for (let i = 2; values.has(name); i++) name = `${stem}_${i}`;
    return name;
  };
  const nodes = graph.nodes.flatMap((node): Node[] => {
    if (!isCall(node) || node.op === "Sizes") return [node];
    const outputs = node.outputs.filter((name) => name !== "").map((name) => valueOf(graph, name));
    if (!outputs.every(isKnown)) return [node];
    return outputs.flatMap((value, i) => {
      const name = i === 0 ? node.name : `${node.name}.${i}`;
      const { dtype, shape } = value.type;
      if (dtype === "i64" || constantInts(value.ints)) return [knownNode(name, node, value)];
      // Sizes are int64; what an op wants as int32 (the total length of attention) is cast.
      const sizes: Value = { ...value, name: fresh(`${value.name}.sizes`), type: { dtype: "i64", shape } };
      values.set(sizes.name, sizes);
      return [knownNode(`${name}.sizes`, node, sizes), {
        ...node,
        name,
        domain: "",
        op: "Cast",
        inputs: [sizes.name],
        outputs: [value.name],
        attributes: { to: int(dtypeInfo(dtype!).onnx) },
      }];
    });
  });
  const opsets = new Map(graph.opsets);
  if (!opsets.has("shardwise")) opsets.set("shardwise", 1);
  return eliminateDeadCode({ ...graph, nodes, values, opsets });
}

function knownNode(name: string, from: Call, value: Value): Node {
  const numbers = constantInts(value.ints);
  if (numbers) {
    const data = integerData(value.type.dtype!, value.ints!.dims, numbers);
    return { kind: "get_attr", name, outputs: [value.name], data };
  }
  return {
    kind: "call_function",
    name,
    domain: "shardwise",
    op: "Sizes",
    inputs: [],
    outputs: [value.name],
    attributes: {},
    ...(from.scope ? { scope: from.scope } : {}),
  };
}

/** Integers as constant data. */
function integerData(dtype: DType, shape: readonly number[], numbers: readonly number[]): TensorData {
  const ArrayOf = dtypeInfo(dtype).array!;
  const array = new ArrayOf(numbers.length);
  numbers.forEach((
    n,
    i,
  ) => (array[i] = array instanceof BigInt64Array || array instanceof BigUint64Array ? BigInt(n) : n));
  return inlineData(dtype, shape, array);
}
