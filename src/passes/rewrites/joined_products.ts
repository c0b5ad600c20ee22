/**
 * A rank's products of one input become one product, whose result is split: queries, keys and values.
 *
 * ```text
 * %q = MatMulNBits(%x, %a)   %k = MatMulNBits(%x, %b)   %v = MatMulNBits(%x, %c)
 *   ->
 * %q, %k, %v = Split(MatMulNBits(%x, %a‖%b‖%c))
 * ```
 * The planner keeps them apart, as each is cut by heads of its own; a rank's parts of them, whatever their sizes, lie well together. A
 * product in few bits rounds its input to 8 bits first: that is then done once. Two products (gate and up) take no fewer ops so, and
 * gained nothing.
 *
 * GroupQueryAttention would take them unsplit, were it to rotate by itself; but in the first step of a batch it goes by the positions
 * of the first sequence only.
 */
import { int, intOf, ints } from "../../graph/attributes.ts";
import { type Attributes, type Call, isCall, opKey, type TensorData } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import type { JoinedWeights } from "./joined_weights.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

const PRODUCT = "com.microsoft.MatMulNBits";
/** Inputs of a product that have one row a column of the result, and the one that says how rows are ordered. */
const BY_COLUMN = [1, 2, 3, 5], ORDER = 4;
/** Of fewer products nothing is spared. */
const FEWEST = 3;

/** The rule; `weights` holds what it joins. */
export function joinedProducts(weights: JoinedWeights): Rewrite {
  return {
    name: "joined_products",
    summary: "three products of one input in few bits, or more, become one",
    at: (node, m, names) => (opKey(node) === PRODUCT ? rewrite(node, { m, names, weights }) : undefined),
  };
}

interface Surroundings {
  readonly m: Matcher;
  readonly names: FreshNames;
  readonly weights: JoinedWeights;
}

function rewrite(node: Call, { m, names, weights }: Surroundings): Answer {
  const x = node.inputs[0]!;
  const products = m.readers(x).filter((r): r is Call => isCall(r) && opKey(r) === PRODUCT && r.inputs[0] === x);
  // The first of them stands for all, as results may be read right behind it.
  if (products[0] !== node || products.length < FEWEST) return undefined;
  const form = formOf(node.attributes);
  for (const { inputs, attributes, level } of products) {
    if (formOf(attributes) !== form) return "the products are held in different formats";
    if (inputs[ORDER]) return "the rows of a weight have an order of their own";
    if (level !== node.level) return "the products are computed between different collectives";
  }
  const joined: (TensorData | undefined)[] = [];
  for (const i of BY_COLUMN) {
    const given = products.filter((p) => (p.inputs[i] ?? "") !== "");
    if (given.length === 0) continue;
    if (given.length < products.length) return "not all of the products have zero points, or a bias";
    const parts = products.flatMap((p) => m.constant(p.inputs[i]!)?.data ?? []);
    if (parts.length < products.length) return "a weight is no constant";
    const alike = parts.every(({ dtype, shape }) =>
      dtype === parts[0]!.dtype && shape.slice(1).join() === parts[0]!.shape.slice(1).join()
    );
    if (!alike) return "the weights have different layouts";
    joined[i] = weights.of(parts);
  }
  const { dtype, shape } = m.value(node.outputs[0]!).type;
  if (!shape) return "the shape of the products is not known";
  const columns = products.map((p) => intOf(p.attributes, "N")!), all = columns.reduce((a, b) => a + b);
  const emit = new Emit(names, node);
  const product = emit.call({
    op: "MatMulNBits",
    domain: "com.microsoft",
    inputs: node.inputs.map((name, i) => i === 0 ? x : joined[i] ? emit.constant(`${name}.joined`, joined[i]) : ""),
    attributes: { ...node.attributes, N: int(all) },
    type: { dtype, shape: [...shape.slice(0, -1), all] },
  });
  emit.append({
    kind: "call_function",
    domain: "",
    op: "Split",
    inputs: m.opset < 13 ? [product] : [product, emit.sizes(columns)],
    outputs: products.map((p) => p.outputs[0]!),
    attributes: { axis: int(-1), ...(m.opset < 13 ? { split: ints(columns) } : {}) },
  }, true);
  return emit.replacement(products.slice(1).map((p) => p.name));
}

/** What products must have alike: everything but how many columns they have. */
function formOf({ N: _, ...attributes }: Attributes): string {
  return JSON.stringify(Object.entries(attributes).sort(([a], [b]) => (a < b ? -1 : 1)));
}
