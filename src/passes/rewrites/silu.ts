/**
 * `x · sigmoid(x)`, the gate of SwiGLU, becomes com.microsoft's QuickGelu, which is `x · sigmoid(alpha · x)`.
 *
 * ```text
 * Mul(%x, Sigmoid(%x))  ->  QuickGelu(%x) {alpha=1}     Mul(%x, Sigmoid(Mul(%x, a)))  ->  QuickGelu(%x) {alpha=a}
 * ```
 */
import { float } from "../../graph/attributes.ts";
import { opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import { isFused } from "./matcher.ts";
import type { Answer, Rewrite } from "./rewrite.ts";

export const SILU: Rewrite = {
  name: "silu",
  summary: "x·sigmoid(x) becomes QuickGelu",
  at: (node, m, names): Answer => {
    if (opKey(node) !== "Mul") return undefined;
    for (const [x, gate] of [node.inputs, [...node.inputs].reverse()] as [string, string][]) {
      const inner = m.call(gate, "Sigmoid")?.inputs[0];
      if (inner === undefined) continue;
      const scaled = m.withScalar(inner, "Mul");
      const alpha = inner === x ? 1 : scaled?.operand === x ? scaled.scalar : undefined;
      if (alpha === undefined) continue;
      const { type } = m.value(node.outputs[0]!);
      if (!isFused(type.dtype)) return `${type.dtype} is not rewritten, only f32 and f16`;
      const emit = new Emit(names, node);
      emit.call({
        op: "QuickGelu",
        domain: "com.microsoft",
        inputs: [x],
        attributes: { alpha: float(alpha) },
        type,
        output: node.outputs[0]!,
      });
      return emit.replacement();
    }
    return undefined;
  },
};
