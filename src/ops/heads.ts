/**
 * What ops of attention share: heads are a factor whose units are `head_size` elements of fused dims.
 *
 * With fewer kv heads than query heads the units are query heads, of which several share a kv head: each rank that has some
 * of them holds a copy of it. Where q, k and v are fused in one dim (packed queries, biases, weights) each is a window of
 * it. Head counts in attributes are those of the rank. Source: ONNX Attention-23; com.microsoft: ContribOperators.md.
 */
import { type Dim, dimEquals, dimMul } from "../core/dim.ts";
import type { Attributes } from "../graph/graph.ts";
import type { LocalizeContext, LocalTensor, TypedContext } from "./def.ts";
import { type At, at, type Factor } from "./factors.ts";
import { emitZeros } from "./selected_rows.ts";

/** Places of a factor, by input and output position. */
export type Places = Readonly<Record<number, At | null | undefined>>;

/** The factor of heads at its places. */
export function headFactor(
  context: TypedContext,
  name: string,
  size: Dim,
  places: { inputs: Places; outputs: Places },
): Factor {
  return {
    name,
    size,
    inputs: context.inputs.map((input, i) => (input ? places.inputs[i] ?? null : null)),
    outputs: context.outputs.map((output, i) => (output ? places.outputs[i] ?? null : null)),
  };
}

/**
 * The factor of sequences, which attention keeps apart: dims of inputs and outputs by position. An input of one for all of them
 * is whole on every rank.
 */
export function batchFactor(
  context: TypedContext,
  dims: { readonly inputs: Readonly<Record<number, number>>; readonly outputs: Readonly<Record<number, number>> },
): Factor[] {
  const size = context.inputs[0]!.shape![dims.inputs[0]!]!;
  if (size === 1) return [];
  const places = (types: TypedContext["inputs"], by: Readonly<Record<number, number>>) =>
    Object.entries(by).flatMap(([i, dim]) => {
      const found = types[Number(i)]?.shape?.[dim];
      return found === undefined || found === 1 ? [] : [{ tensor: Number(i), dim, size: found }];
    });
  const inputs = places(context.inputs, dims.inputs), outputs = places(context.outputs, dims.outputs);
  // Lengths of all sequences behind each other, say, are none for each of them.
  if ([...inputs, ...outputs].some((p) => !dimEquals(p.size, size))) return [];
  const placed = (found: typeof inputs): Places =>
    Object.fromEntries(found.map(({ tensor, dim }) => [tensor, at(dim)]));
  return [headFactor(context, "b", size, { inputs: placed(inputs), outputs: placed(outputs) })];
}

/** A mask's head dim, where it has one: the third from the right. */
export function maskHeads(context: TypedContext, input: number, heads: number): number | undefined {
  const shape = context.inputs[input]?.shape;
  return shape && shape.length >= 3 && heads > 1 && shape.at(-3) === heads ? shape.length - 3 : undefined;
}

/** Emits the op with this rank's head counts; zeros of the right shapes where the rank has no head. */
export function emitHeads(context: LocalizeContext, attributes: Attributes, heads: Dim): readonly string[] {
  const { emit, node, names } = context;
  if (heads !== 0) {
    return emit.ops(node.op, names, attributes, { domain: node.domain, outputs: node.outputs.length });
  }
  return context.outputTensors.map((t) => (t ? emitZeros(emit, t.type.dtype!, t.localShape!) : ""));
}

/** How many heads this rank has of a tensor with heads of `unit` elements in dim `dim`. */
export function localHeadCount(tensor: LocalTensor | undefined, dim: number, unit: number): number | undefined {
  const size = tensor?.localShape?.at(dim);
  return typeof size === "number" ? size / unit : undefined;
}

/** How many units of `unit` elements rank-local output 0 has in its last dim. */
export function localUnits(context: LocalizeContext, unit: number): number | undefined {
  const size = context.outputTensors[0]?.localShape?.at(-1);
  return typeof size === "number" ? size / unit : undefined;
}

export const f32 = (...shape: number[]) => ({ dtype: "f32" as const, shape });

export interface Heads {
  readonly q: number;
  readonly kv: number;
  readonly size: number;
}

/** Scores and weighted values: 4 · tokens · keys · width, with as many keys as the cache has, else as tokens. */
export function attentionFlops({ inputs, outputs }: TypedContext): Dim {
  const y = outputs[0]?.shape ?? [];
  const keys = outputs[1]?.shape?.at(-2) ?? inputs[1]?.shape?.at(-2) ?? y[1] ?? 1;
  return y.reduce<Dim>(dimMul, dimMul(4, keys));
}
