/**
 * A root-mean-square norm, written out, becomes ONNX Runtime's SimplifiedLayerNormalization.
 *
 * ```text
 * %n = Mul(%x, Div(1, Sqrt(Add(ReduceMean(Pow(%x, 2)), epsilon))))   %y = Mul(%n, %w)
 *   ->  %y = SimplifiedLayerNormalization(%x, %w) {axis=-1, epsilon}
 * ```
 * `x / sqrt(…)`, Reciprocal and `x · x` are known as well. ONNX Runtime finds most of these by itself when it loads a segment; here
 * the planner has one op for seven, and no plan cuts a norm in two.
 */
import { float, int, intOf, intsOf } from "../../graph/attributes.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import { isFused, type Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

export const RMS_NORM: Rewrite = {
  name: "rms_norm",
  summary: "root-mean-square norms become SimplifiedLayerNormalization",
  at: (node, m, names) => (opKey(node) === "Mul" ? norm(node, m, names) : undefined),
};

function norm(node: Call, m: Matcher, names: FreshNames): Answer {
  for (const [weight, normed] of [node.inputs, [...node.inputs].reverse()] as [string, string][]) {
    const found = m.constant(weight) && normalised(normed, m);
    if (!found) continue;
    const { x, mean } = found;
    const { dtype, shape } = m.value(x).type;
    const width = shape?.at(-1), axes = meanAxes(mean, m);
    if (!isFused(dtype)) return `${dtype} is not rewritten, only f32 and f16`;
    if (!shape || axes?.length !== 1 || (axes[0] !== -1 && axes[0] !== shape.length - 1)) {
      return "the mean is not that of the last dim";
    }
    const centred = m.call(x, "Sub"), centre = centred && m.call(centred.inputs[1]!, "ReduceMean");
    if (centre?.inputs[0] !== undefined && centre.inputs[0] === centred!.inputs[0]) {
      return "it is a layer norm of an opset without LayerNormalization: ONNX Runtime finds it when it loads a segment";
    }
    const scale = m.constant(weight)!.data.shape;
    if (scale.length !== 1 || scale[0] !== width) return `the weight is [${scale}], not [${width}]`;
    const emit = new Emit(names, node);
    emit.call({
      op: "SimplifiedLayerNormalization",
      inputs: [x, weight],
      attributes: { axis: int(-1), epsilon: float(found.epsilon), stash_type: int(1) },
      type: m.value(node.outputs[0]!).type,
      output: node.outputs[0]!,
    });
    return emit.replacement();
  }
  return undefined;
}

interface Normalised {
  readonly x: string;
  readonly mean: Call;
  readonly epsilon: number;
}

/** `x / sqrt(mean(x²) + epsilon)`. */
function normalised(name: string, m: Matcher): Normalised | undefined {
  const divided = m.call(name, "Div");
  if (divided) return ofRoot(divided.inputs[0]!, divided.inputs[1]!, m);
  const product = m.call(name, "Mul");
  for (const [x, inverse] of product ? [product.inputs, [...product.inputs].reverse()] as [string, string][] : []) {
    const quotient = m.call(inverse, "Div"), reciprocal = m.call(inverse, "Reciprocal");
    const root = reciprocal?.inputs[0] ??
      (quotient && m.scalar(quotient.inputs[0]!) === 1 ? quotient.inputs[1] : undefined);
    const found = root === undefined ? undefined : ofRoot(x, root, m);
    if (found) return found;
  }
  return undefined;
}

function ofRoot(x: string, root: string, m: Matcher): Normalised | undefined {
  const sqrt = m.call(root, "Sqrt"), sum = sqrt && m.withScalar(sqrt.inputs[0]!, "Add");
  const mean = sum && m.call(sum.operand, "ReduceMean");
  if (!mean || intOf(mean.attributes, "keepdims") === 0) return undefined;
  const square = m.call(mean.inputs[0]!, "Pow", "Mul");
  const isSquare = square?.op === "Pow"
    ? square.inputs[0] === x && m.scalar(square.inputs[1]!) === 2
    : square?.inputs.every((name) => name === x);
  return isSquare ? { x, mean, epsilon: sum.scalar } : undefined;
}

/** The reduced axes: an attribute, or an input from opset 18 on. */
function meanAxes(mean: Call, m: Matcher): readonly number[] | undefined {
  return intsOf(mean.attributes, "axes") ?? (mean.inputs[1] === undefined ? undefined : m.ints(mean.inputs[1]));
}
