/**
 * Proofs about masks: that a token sees nothing after itself, whatever the inputs are.
 *
 * A mask is followed up to the comparison that made it: `t <= past + s`, where `t` runs over the keys and `past + s` over the
 * tokens of this step, both made by Range. Ands with anything (padding, windows) hide more, and never show what was hidden.
 * Source: sdpa_mask of Hugging Face's transformers, as Optimum exports it.
 */
import { type Dim, dimAdd, dimEquals } from "../../core/dim.ts";
import { opKey } from "../../graph/graph.ts";
import { producers } from "../../graph/graph.ts";
import type { Matcher } from "./matcher.ts";

/** The sizes that a mask `[…, sequence, past + sequence]` is about. */
export interface MaskSizes {
  readonly past: Dim;
  readonly sequence: Dim;
}

/** What is known of an additive mask. */
export interface MaskProof {
  /** What is added where nothing may be seen. */
  readonly hidden: number;
}

/** Proves that additive mask `name` hides every later key from every token, or says why that is not seen. */
export function proveCausal(name: string, m: Matcher, sizes: MaskSizes): MaskProof | string {
  const where = m.call(name, "Where");
  if (!where) return `the mask is no Where of numbers, but ${opOf(name, m)}`;
  const [condition = "", seen = "", hidden = ""] = where.inputs;
  const value = m.scalar(hidden);
  if (value === undefined || m.scalar(seen) !== 0) return "the mask is no Where of 0 and a number";
  if (value > -1e30) return `the mask adds ${value} to what it hides, which is not enough to hide it`;
  return hidesFuture(condition, m, sizes)
    ? { hidden: value }
    : "the mask is not seen to hide later tokens: it is not made of `key <= token` and more conditions";
}

function opOf(name: string, m: Matcher): string {
  const node = producers(m.graph).get(name);
  return node?.kind === "call_function" || node?.kind === "call_module" ? opKey(node) : node?.kind ?? "nothing";
}

/** Whether a bool tensor is false at every `[…, s, t]` with `t > past + s`. */
function hidesFuture(name: string, m: Matcher, sizes: MaskSizes): boolean {
  const call = m.call(name, "And", "Cast", "Expand", "Slice", "Unsqueeze", "Reshape", "LessOrEqual", "GreaterOrEqual");
  if (!call || m.value(name).type.dtype !== "bool") return false;
  const [a = "", b = ""] = call.inputs;
  switch (call.op) {
    case "And":
      return [a, b].some((x) => isMatrix(x, m, sizes) && hidesFuture(x, m, sizes));
    case "LessOrEqual":
      return isIndex(a, m, { fromRight: 1, start: 0, sizes }) &&
        isIndex(b, m, { fromRight: 2, start: sizes.past, sizes });
    case "GreaterOrEqual":
      return isIndex(b, m, { fromRight: 1, start: 0, sizes }) &&
        isIndex(a, m, { fromRight: 2, start: sizes.past, sizes });
    case "Slice": {
      const slice = m.slice(name);
      return slice?.from === 0 && isMatrix(a, m, sizes) && isMatrix(name, m, sizes) && hidesFuture(a, m, sizes);
    }
    default:
      // These keep the order of the elements, or repeat them along the dims before the last two.
      return isMatrix(a, m, sizes) && isMatrix(name, m, sizes) && hidesFuture(a, m, sizes);
  }
}

/** Whether the last two dims are this step's tokens and all keys. */
function isMatrix(name: string, m: Matcher, { past, sequence }: MaskSizes): boolean {
  const shape = m.shape(name);
  return shape !== undefined && m.sameDim(shape.at(-2), sequence) && m.sameDim(shape.at(-1), dimAdd(past, sequence));
}

/** Whether the tensor is `start`, `start + 1`, … along one dim, and has no other. */
function isIndex(
  name: string,
  m: Matcher,
  index: { readonly fromRight: 1 | 2; readonly start: Dim; readonly sizes: MaskSizes },
): boolean {
  const { past, sequence } = index.sizes;
  const length = index.fromRight === 1 ? dimAdd(past, sequence) : sequence;
  const shape = m.shape(name);
  const isAlone = shape?.every((d, i) => i === shape.length - index.fromRight ? dimEquals(d, length) : d === 1);
  if (!isAlone || shape!.length < index.fromRight) return false;
  let source = name;
  for (;;) {
    const renamed = m.call(source, "Unsqueeze", "Reshape", "Cast");
    if (!renamed) break;
    source = renamed.inputs[0]!;
  }
  const range = m.call(source, "Range");
  if (!range || m.value(source).type.dtype !== m.value(name).type.dtype) return false;
  const [start] = m.sizes(range.inputs[0]!) ?? [], step = m.ints(range.inputs[2]!);
  return m.sameDim(start, index.start) && step?.[0] === 1;
}
