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
import type { TensorType } from "../../graph/types.ts";
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
  if (!turnedName || !rest || more.length > 0) return undefined;
  // Heads behind the tokens are merged for the op.
  const split = m.call(turnedName, "Reshape");
  const turned = m.call(split?.inputs[0] ?? turnedName, "com.microsoft.RotaryEmbedding");
  if (!turned) return undefined;
  const merged = split && m.call(turned.inputs[0]!, "Reshape");
  const head = m.slice(merged?.inputs[0] ?? turned.inputs[0]!), tail = m.slice(rest);
  const shape = head && m.shape(head.input), width = shape?.at(-1), heads = shape?.[split ? 2 : 1];
  if (!head || !tail || head.input !== tail.input || head.dim !== 3 || tail.dim !== 3 || m.concatDim(node) !== 3) {
    return "what is not rotated is not the rest of the same heads";
  }
  const fits = head.from === 0 && tail.from === head.to && typeof tail.to === "number" && typeof width === "number" &&
    tail.to >= width;
  if (!fits || typeof head.to !== "number" || typeof heads !== "number") {
    return "rotated and other elements do not make up whole heads";
  }
  const emit = new Emit(names, node), output = node.outputs[0]!, { type } = m.value(output);
  const rotate = (x: string, of: TensorType, name?: string) =>
    emit.call({
      op: "RotaryEmbedding",
      domain: "com.microsoft",
      inputs: [x, ...turned.inputs.slice(1)],
      attributes: { ...turned.attributes, rotary_embedding_dim: int(head.to as number), num_heads: int(heads) },
      type: of,
      ...(name === undefined ? {} : { output: name }),
    });
  if (!split) rotate(head.input, type, output);
  else {
    const joined = { dtype: type.dtype, shape: [shape![0]!, shape![1]!, heads * width] };
    const x = emit.call({ op: "Reshape", inputs: [head.input, emit.sizes([0, 0, -1])], type: joined });
    const back = [rotate(x, joined), emit.sizes([0, 0, heads, width])];
    emit.call({ op: "Reshape", inputs: back, type, output });
  }
  return emit.replacement();
}
