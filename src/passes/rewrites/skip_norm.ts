/**
 * A residual sum and the root-mean-square norm of it become one op on a rank.
 *
 * ```text
 * %s = Add(%x, %y)   %n = SimplifiedLayerNormalization(%s, %w)
 *   ->
 * %n, , , %s = SkipSimplifiedLayerNormalization(%x, %y, %w)
 * ```
 * Not before planning: the sum is linear, so that partial sums may pass through it, and the norm is not.
 */
import { float, floatOf, intOf } from "../../graph/attributes.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import { isFused, type Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

export const SKIP_NORM: Rewrite = {
  name: "skip_norm",
  summary: "a residual sum and the norm of it become SkipSimplifiedLayerNormalization",
  at: (node, m, names) => opKey(node) === "SimplifiedLayerNormalization" ? rewrite(node, m, names) : undefined,
};

function rewrite(node: Call, m: Matcher, names: FreshNames): Answer {
  const [sum = "", weight = ""] = node.inputs;
  const add = m.call(sum, "Add");
  if (!add) return undefined;
  const { dtype, shape } = m.value(sum).type;
  if (!isFused(dtype)) return `${dtype} is not rewritten, only f32 and f16`;
  if (shape?.length !== 2 && shape?.length !== 3) return "the sum is not [batch, sequence, width]";
  for (const name of add.inputs) {
    const own = m.shape(name);
    if (own?.length !== shape.length || !own.every((d, i) => m.sameDim(d, shape[i]))) {
      return `"${name}" is spread over the sum`;
    }
  }
  const axis = intOf(node.attributes, "axis") ?? -1;
  if (axis !== -1 && axis !== shape.length - 1) return "the norm is not that of the last dim";
  if (node.outputs[1]) return "the norm's statistics are read";
  const scale = m.shape(weight);
  if (scale?.length !== 1 || !m.sameDim(scale[0], shape.at(-1))) return "the weight is not that of the last dim";
  if (add.level !== node.level) return "the sum is there before what the norm waits for";
  const early = m.readers(sum).find((reader) => reader !== node && m.position(reader) < m.position(node));
  if (early) return `the sum is read by "${early.name}" before the norm`;
  const emit = new Emit(names, node);
  const [output = ""] = node.outputs;
  const isRead = m.isResult(sum) || m.readers(sum).length > 1;
  emit.append({
    kind: "call_function",
    domain: "com.microsoft",
    op: "SkipSimplifiedLayerNormalization",
    inputs: [...add.inputs, weight],
    outputs: isRead ? [output, "", "", sum] : [output],
    attributes: { epsilon: float(floatOf(node.attributes, "epsilon") ?? 1e-5) },
  }, true);
  return emit.replacement([add.name]);
}
