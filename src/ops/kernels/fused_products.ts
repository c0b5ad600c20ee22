/**
 * Products with what comes after them: a bias, an activation.
 *
 * ```text
 * %1 = MatMul(%x, %w)   %2 = Add(%1, %b)   %3 = Gelu(%2)      ->      %3 = shardwise.Product(%x, %w, %b) {activation="gelu"}
 * ```
 * It is one product with an epilogue where cuBLASLt takes its sizes, else a product and maps over its result.
 */
import { string, stringOf } from "../../graph/attributes.ts";
import { type Call, type Graph, isCall, type Node, outputOf, readsOf, valueOf } from "../../graph/graph.ts";
import { broadcast, input, inputOf, output, outputOf as resultOf, whole } from "./access.ts";
import { withEpilogue } from "./epilogue.ts";
import type { Epilogue, KernelContext, KernelStep, Lowered, Lowering } from "./kernel.ts";
import { matmul } from "./products.ts";

type Activation = NonNullable<Epilogue["activation"]>;

/** The activation that a call is, if an epilogue can be it; com.microsoft's may add a bias. */
function activationOf({ domain, op, attributes }: Call): Activation | undefined {
  if (domain === "com.microsoft") return op === "FastGelu" ? "gelu" : undefined;
  if (domain !== "") return undefined;
  if (op === "Relu") return "relu";
  return op === "Gelu" && stringOf(attributes, "approximate") === "tanh" ? "gelu" : undefined;
}

/** The graph with products and what only they feed as one call each. */
export function fuseProducts(graph: Graph<"local">): Graph<"local"> {
  const readers = new Map<string, Node[]>(), results = new Set(outputOf(graph).inputs);
  for (const node of graph.nodes) {
    for (const name of readsOf(node)) readers.set(name, [...readers.get(name) ?? [], node]);
  }
  /** The call that alone reads a value, which is no result. */
  const onlyReader = (name: string): Call | undefined => {
    const [node, ...more] = readers.get(name) ?? [];
    return node && more.length === 0 && isCall(node) && !results.has(name) && node.outputs.length === 1
      ? node
      : undefined;
  };
  const shapeOf = (name: string | undefined) => (name ? valueOf(graph, name).type.shape : undefined);
  /** The other operand of a sum, if it is one number a column. */
  const biasOf = (sum: Call, product: string): string | undefined => {
    const [bias, ...more] = sum.inputs.filter((n) => n !== product && n !== "");
    const columns = shapeOf(product)?.at(-1), shape = shapeOf(bias);
    return bias && more.length === 0 && shape?.length === 1 && shape[0] === columns ? bias : undefined;
  };
  const replaced = new Map<Node, Call>(), dropped = new Set<Node>();
  for (const node of graph.nodes) {
    if (!isCall(node) || node.domain !== "" || node.op !== "MatMul" || shapeOf(node.inputs[1])?.length !== 2) continue;
    const chain: Call[] = [];
    let at = node.outputs[0]!, bias: string | undefined, activation: Activation | undefined;
    const sum = onlyReader(at);
    if (sum?.domain === "" && sum.op === "Add" && (bias = biasOf(sum, at))) {
      chain.push(sum);
      at = sum.outputs[0]!;
    }
    const next = onlyReader(at), own = next && activationOf(next);
    if (next && own && next.inputs[0] === at) {
      const added = next.inputs[1] ? biasOf(next, at) : undefined;
      // One bias is all that an epilogue adds.
      if (!next.inputs[1] || (added && !bias)) {
        chain.push(next);
        bias ??= added;
        activation = own;
      }
    }
    const last = chain.at(-1);
    if (!last) continue;
    for (const part of [node, ...chain]) dropped.add(part);
    replaced.set(last, {
      ...node,
      domain: "shardwise",
      op: "Product",
      inputs: [node.inputs[0]!, node.inputs[1]!, bias ?? ""],
      outputs: last.outputs,
      attributes: activation ? { activation: string(activation) } : {},
    });
  }
  if (replaced.size === 0) return graph;
  return { ...graph, nodes: graph.nodes.flatMap((n) => replaced.get(n) ?? (dropped.has(n) ? [] : [n])) };
}

const ACTIVATIONS: Readonly<Record<Activation, string>> = {
  relu: "x0 < 0 ? 0 * x0 : x0",
  gelu: "0.5f * x0 * (1.f + f_tanh(0.7978845608028654f * (x0 + 0.044715f * x0 * x0 * x0)))",
};

function product(context: KernelContext): Lowered {
  const activation = stringOf(context.attributes, "activation") as Activation | undefined;
  const bias = context.inputs[2] ? input(context, 2) : undefined, { steps } = matmul(context);
  const fused = withEpilogue(steps, { bias, activation });
  if (fused) return { steps: [fused] };
  const { shape } = resultOf(context), y = output(context);
  const before: KernelStep[] = bias
    ? [{
      kind: "map",
      shape,
      reads: [broadcast(bias, inputOf(context, 2).shape, shape)],
      write: whole(y, shape),
      expression: "x0",
    }]
    : [];
  const after: KernelStep[] = activation
    ? [{ kind: "map", shape, reads: [whole(y, shape)], write: whole(y, shape), expression: ACTIVATIONS[activation] }]
    : [];
  const added = steps.map((s) => (s.kind === "gemm" && bias ? { ...s, beta: 1 } : s));
  return { steps: [...before, ...added, ...after] };
}

/** The lowering, by op. */
export const FUSED_PRODUCTS: Readonly<Record<string, Lowering>> = { "shardwise.Product": product };
