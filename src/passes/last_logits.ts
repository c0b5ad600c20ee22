/**
 * A language model's logits for the last position only: what picks the next token looks at no others.
 *
 * ```text
 * %logits = shardwise.Linear(%x, %w)     ->     %last = Gather(%x, [-1]) {axis=1}  %logits = shardwise.Linear(%last, %w)
 * ```
 * With a long prompt the head is a fifth of a small model's work, and its result the largest tensor by far. The result keeps its
 * dims, with one position: `[batch, 1, vocabulary]`. Between the head and the result may stand what looks at each element by
 * itself: a scale, a soft cap, a cast. Other graphs stay as they are.
 */
import { int } from "../graph/attributes.ts";
import { inlineData } from "../graph/builder.ts";
import {
  type Call,
  consumers,
  type Graph,
  isCall,
  type Node,
  opKey,
  outputOf,
  producers,
  valueOf,
} from "../graph/graph.ts";
import { inferTypes } from "./infer_types.ts";
import { FreshNames } from "./rewrites/rewrite.ts";

/** The name that exporters give to the result. */
const RESULT = "logits";
/** What multiplies its first input by a matrix. */
const HEADS = new Set(["shardwise.Linear", "com.microsoft.MatMulNBits"]);
const ELEMENTWISE = new Set(["Mul", "Div", "Tanh", "Cast", "Neg", "Identity"]);

/** The graph with logits of one position. */
export function lastLogits(graph: Graph<"global">): Graph<"global"> {
  const head = headOf(graph);
  const [x] = head?.inputs ?? [], type = x === undefined ? undefined : valueOf(graph, x).type;
  if (!head || x === undefined || type?.shape?.length !== 3) return graph;
  const names = new FreshNames(graph), index = names.of("last_position"), last = names.of(`${x}.last`);
  const position: Node = {
    kind: "get_attr",
    name: index,
    outputs: [index],
    data: inlineData("i64", [1], BigInt64Array.of(-1n)),
  };
  const gather: Node = {
    kind: "call_function",
    name: last,
    domain: "",
    op: "Gather",
    inputs: [x, index],
    outputs: [last],
    attributes: { axis: int(1) },
    ...(head.scope === undefined ? {} : { scope: head.scope }),
  };
  const values = new Map(graph.values);
  values.set(index, { name: index, type: { dtype: "i64", shape: [1] } });
  values.set(last, { name: last, type: { dtype: type.dtype, shape: type.shape.with(1, 1) } });
  const nodes = graph.nodes.flatMap((node): Node[] =>
    node === head ? [position, gather, { ...head, inputs: head.inputs.with(0, last) }] : [node]
  );
  return inferTypes({ ...graph, nodes, values });
}

/** The layer that gives the logits, where nothing else reads what it gives. */
function headOf(graph: Graph<"global">): Call | undefined {
  const { inputs, names } = outputOf(graph), byName = producers(graph), readers = consumers(graph);
  for (let value = inputs[names.indexOf(RESULT)];;) {
    const node = value === undefined ? undefined : byName.get(value);
    if (
      !node || !isCall(node) || (readers.get(value!)?.length ?? 0) > 1 || inputs.filter((i) => i === value).length > 1
    ) {
      return undefined;
    }
    if (HEADS.has(opKey(node))) return node;
    const [operand, ...others] = node.inputs.filter((name) => byName.get(name)?.kind !== "get_attr");
    if (node.domain !== "" || !ELEMENTWISE.has(node.op) || others.length > 0) return undefined;
    value = operand;
  }
}
