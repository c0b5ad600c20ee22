/**
 * Drops what changes nothing.
 *
 * ```text
 * %c = Cast(%x) {to=1}, of a float   %s = Slice(%x, 0, whole)   %m = Mul(%x, 1)   %r = Reshape(%x, its own shape)
 * %e = Expand(%x, its own shape)   %j = Concat(%x, %empty)     ->     %x
 * ```
 */
import { dimEquals } from "../../core/dim.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, Rewrite } from "./rewrite.ts";

/** For each op, the input that it gives back, if it does. */
const NOOPS: Readonly<Record<string, (node: Call, m: Matcher) => string | undefined>> = {
  Cast: (node) => node.inputs[0],
  Reshape: (node) => node.inputs[0],
  Expand: (node) => node.inputs[0],
  Slice: (node, m) => {
    const slice = m.slice(node.outputs[0]!);
    return slice?.from === 0 ? slice.input : undefined;
  },
  Mul: (node, m) => identityOperand(node, m, 1),
  Div: (node, m) => identityOperand(node, m, 1),
  Concat: (node, m) => {
    const dim = m.concatDim(node);
    const full = node.inputs.filter((name) => dim === undefined || m.shape(name)?.[dim] !== 0);
    return full.length === 1 && full.length < node.inputs.length ? full[0] : undefined;
  },
};

/** Adding 0 is left out: it turns -0 into 0. */
function identityOperand(node: Call, m: Matcher, neutral: number): string | undefined {
  const found = m.withScalar(node.outputs[0]!, node.op);
  return found?.scalar === neutral ? found.operand : undefined;
}

export const DROP_NOOPS: Rewrite = {
  name: "drop_noops",
  summary: "casts to the same type, slices of everything and their like are left out",
  at: (node, m): Answer => {
    const input = NOOPS[opKey(node)]?.(node, m);
    if (input === undefined || m.value(input).ints) return undefined;
    const from = m.value(input).type, to = m.value(node.outputs[0]!).type;
    const same = from.dtype === to.dtype && from.dtype !== undefined && from.shape && to.shape &&
      from.shape.length === to.shape.length && from.shape.every((d, i) => dimEquals(d, to.shape![i]!));
    if (!same) return undefined;
    return { nodes: [{ ...node, op: "Identity", inputs: [input], attributes: {} }], values: [] };
  },
};
