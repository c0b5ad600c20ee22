/**
 * Rotary positions of only the first elements of a head.
 *
 * ```text
 * Concat(RotaryEmbedding(Slice(%x, :dim), …), Slice(%x, dim:))
 *   ->  RotaryEmbedding(%x, …) {rotary_embedding_dim=dim}
 * ```
 */
import { int } from "../../graph/attributes.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import type { Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";

export const PARTIAL_ROTARY: Rewrite = {
  name: "partial_rotary",
  summary: "rotary positions of a part of each head become one RotaryEmbedding",
  at: (node, m, names) => (opKey(node) === "Concat" ? partial(node, m, names) : undefined),
};

function partial(node: Call, m: Matcher, names: FreshNames): Answer {
  const [turnedName, rest, ...more] = node.inputs;
  const turned = turnedName && m.call(turnedName, "com.microsoft.RotaryEmbedding");
  if (!turned || more.length > 0 || !rest) return undefined;
  const head = m.slice(turned.inputs[0]!), tail = m.slice(rest);
  const shape = head && m.shape(head.input), width = shape?.at(-1), heads = shape?.[1];
  if (!head || !tail || head.input !== tail.input || head.dim !== 3 || tail.dim !== 3 || m.concatDim(node) !== 3) {
    return "what is not rotated is not the rest of the same heads";
  }
  const fits = head.from === 0 && tail.from === head.to && typeof tail.to === "number" && typeof width === "number" &&
    tail.to >= width;
  if (!fits || typeof head.to !== "number" || typeof heads !== "number") {
    return "rotated and other elements do not make up whole heads";
  }
  const emit = new Emit(names, node);
  emit.call({
    op: "RotaryEmbedding",
    domain: "com.microsoft",
    inputs: [head.input, ...turned.inputs.slice(1)],
    attributes: { rotary_embedding_dim: int(head.to), num_heads: int(heads) },
    type: m.value(node.outputs[0]!).type,
    output: node.outputs[0]!,
  });
  return emit.replacement();
}
