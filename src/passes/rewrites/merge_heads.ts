/** Heads as fused attention takes them: merged in the width, by the shortest way from what made them. */
import type { Dim } from "../../core/dim.ts";
import { int, ints as intsAttribute } from "../../graph/attributes.ts";
import type { Emit } from "./emit.ts";
import type { Matcher } from "./matcher.ts";

/** From `[batch, heads, tokens, dim]` to `[batch, tokens, heads, dim]`, and back. */
export const HEADS_FIRST: readonly number[] = [0, 2, 1, 3];

/** Heads in a dim of their own: the second, or the third. */
export interface Heads {
  readonly name: string;
  readonly form: "heads first" | "tokens first";
}

/** Whether heads are merged without moving an element, as they were split from a width. */
export function isSplitWidth({ name, form }: Heads, m: Matcher): boolean {
  if (form === "tokens first" || m.transposed(name, HEADS_FIRST) !== undefined) return true;
  const rotary = rotaryOf(name, m);
  return rotary !== undefined && isSplitWidth({ name: rotary.inputs[0]!, form }, m);
}

/** Heads as `[batch, tokens, heads·dim]`. */
export function mergeHeads({ name, form }: Heads, m: Matcher, emit: Emit): string {
  const { dtype, shape } = m.value(name).type;
  const [batch, second, third, size] = shape as [Dim, Dim, Dim, number];
  const [heads, tokens] = (form === "heads first" ? [second, third] : [third, second]) as [number, Dim];
  const type = { dtype, shape: [batch, tokens, heads * size] };
  const split = form === "tokens first" ? name : m.transposed(name, HEADS_FIRST);
  if (split !== undefined) {
    const from = m.call(split, "Reshape")?.inputs[0], before = from === undefined ? undefined : m.shape(from);
    if (before?.length === 3 && before.every((d, i) => m.sameDim(d, type.shape[i]))) return from!;
    return emit.call({ op: "Reshape", inputs: [split, emit.sizes([0, 0, -1])], type });
  }
  const rotary = rotaryOf(name, m);
  if (rotary) {
    const [x, ...tables] = rotary.inputs;
    const { op, domain } = rotary;
    // Without a dim of its own the number of heads must be told.
    const attributes = domain === "" ? { ...rotary.attributes, num_heads: int(heads) } : rotary.attributes;
    return emit.call({ op, domain, inputs: [mergeHeads({ name: x!, form }, m, emit), ...tables], attributes, type });
  }
  const turned = turnHeads(name, m, emit);
  return emit.call({ op: "Reshape", inputs: [turned, emit.sizes([0, 0, -1])], type });
}

/** Heads first as tokens first, or the other way round. */
export function turnHeads(name: string, m: Matcher, emit: Emit): string {
  const { dtype, shape } = m.value(name).type;
  return emit.call({
    op: "Transpose",
    inputs: [name],
    attributes: { perm: intsAttribute(HEADS_FIRST) },
    type: { dtype, shape: HEADS_FIRST.map((d) => shape![d]!) },
  });
}

function rotaryOf(name: string, m: Matcher) {
  const rotary = m.call(name, "com.microsoft.RotaryEmbedding", "RotaryEmbedding");
  return rotary && m.shape(rotary.inputs[0]!)?.length === 4 ? rotary : undefined;
}
