/**
 * Arithmetic of single float32 constants is done: exporters compute a scale of `1 / sqrt(dim)` in every layer.
 *
 * ```text
 * %a = Cast([64]) {to=1}   %b = Sqrt(%a)   %c = Div(1, %b)     ->     %c = 0.125
 * ```
 * Each step is rounded to float32, as the ops do.
 */
import { inlineData } from "../../graph/builder.ts";
import { opKey } from "../../graph/graph.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, Rewrite } from "./rewrite.ts";

/** Ops whose result in float32 is the exact one, rounded once. */
const OPS: Readonly<Record<string, (a: number, b: number) => number>> = {
  Add: (a, b) => a + b,
  Cast: (a) => a,
  CastLike: (a) => a,
  Div: (a, b) => a / b,
  Mul: (a, b) => a * b,
  Neg: (a) => -a,
  Sqrt: (a) => Math.sqrt(a),
  Sub: (a, b) => a - b,
};

export const FOLD_SCALARS: Rewrite = {
  name: "fold_scalars",
  summary: "arithmetic of single constants is done",
  at: (node, m): Answer => {
    const [output = ""] = node.outputs;
    if (OPS[opKey(node)] === undefined) return undefined;
    const { shape } = m.value(output).type, value = evaluate(output, m);
    if (value === undefined || m.isResult(output)) return undefined;
    const data = inlineData("f32", shape as readonly number[], Float32Array.of(value));
    return { nodes: [{ kind: "get_attr", name: node.name, outputs: [output], data }], values: [] };
  },
};

/** The float32 number that a value of one element holds, where constants alone decide. */
function evaluate(name: string, m: Matcher): number | undefined {
  const { dtype, shape } = m.value(name).type;
  if (shape === undefined || shape.some((d) => d !== 1)) return undefined;
  const constant = m.scalar(name);
  if (constant !== undefined) return dtype === "f32" ? constant : undefined;
  const call = m.call(name, ...Object.keys(OPS));
  if (!call || dtype !== "f32") return undefined;
  const isCast = call.op === "Cast" || call.op === "CastLike";
  // What CastLike is like gives a type only.
  const operands = call.inputs.slice(0, isCast ? 1 : 2)
    .map((x) => (isCast ? m.ints(x)?.[0] : undefined) ?? evaluate(x, m));
  if (operands.some((x) => x === undefined)) return undefined;
  return Math.fround(OPS[call.op]!(operands[0]!, operands[1] ?? 0));
}
