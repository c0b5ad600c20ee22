/** Rotary positions on a GPU. Source: ONNX RotaryEmbedding-23; com.microsoft: ContribOperators.md. */
import { intOf } from "../../graph/attributes.ts";
import { input, inputOf, output } from "./access.ts";
import { type Form, headStrides } from "./heads.ts";
import type { Access, KernelContext, Lowered, MapStep } from "./kernel.ts";

/** Turns pairs of elements by their position's angle; `position` is an expression over the step's reads after x, cos and sin. */
export function rotate(
  shape: readonly number[],
  o: {
    readonly read: Access;
    readonly write: Access;
    readonly cos: Access;
    readonly sin: Access;
    readonly position?: Access | undefined;
    readonly expression?: string;
    readonly rotated: number;
    readonly interleaved: boolean;
    readonly row: number;
    readonly params?: Readonly<Record<string, number>>;
  },
): MapStep {
  const d = `i${shape.length - 1}`, at = "ld(p0[o0 + ";
  // The read has no stride in the last dim: the expression picks the elements.
  const pair = o.interleaved
    ? {
      angle: `${d} / 2`,
      first: `${at}${d} - ${d} % 2])`,
      second: `${at}${d} - ${d} % 2 + 1])`,
      isFirst: `${d} % 2 == 0`,
    }
    : {
      angle: `(${d} < half ? ${d} : ${d} - half)`,
      first: `${at}(${d} < half ? ${d} : ${d} - half)])`,
      second: `${at}(${d} < half ? ${d} + half : ${d})])`,
      isFirst: `${d} < half`,
    };
  const row = o.expression ?? (o.position ? "(long long)x3" : "0");
  const cos = `ld(p1[o1 + ${row} * row + ${pair.angle}])`, sin = `ld(p2[o2 + ${row} * row + ${pair.angle}])`;
  const turned =
    `(${pair.isFirst} ? ${pair.first} * ${cos} - ${pair.second} * ${sin} : ${pair.second} * ${cos} + ${pair.first} * ${sin})`;
  return {
    kind: "map",
    shape,
    reads: [o.read, o.cos, o.sin, ...(o.position ? [o.position] : [])],
    write: o.write,
    expression: `${d} < rotated ? ${turned} : ${at}${d}])`,
    params: { half: o.rotated / 2, rotated: o.rotated, row: o.row, ...o.params },
  };
}

/** RotaryEmbedding in both forms; `at` are the positions of cos, sin and position_ids. */
export function rotary(context: KernelContext, at: { cos: number; sin: number; ids: number }): Lowered {
  const { attributes } = context, x = inputOf(context, 0), cos = inputOf(context, at.cos);
  const ids = context.inputs[at.ids], stated = intOf(attributes, "num_heads") ?? 0;
  const rotated = intOf(attributes, "rotary_embedding_dim") || cos.shape.at(-1)! * 2;
  const form: Form = x.shape.length === 4 ? "heads first" : "heads inside";
  const heads = form === "heads first" ? x.shape[1]! : stated > 0 ? stated : x.shape[2]! / rotated;
  const size = form === "heads first" ? x.shape[3]! : x.shape[2]! / heads;
  const length = form === "heads first" ? x.shape[2]! : x.shape[1]!, batch = x.shape[0]!;
  const shape = [batch, heads, length, size], strides = headStrides(form, { heads, length, size });
  const row = cos.shape.at(-1)!;
  // Without positions the caches hold a row for each token.
  const perToken = (index: number): Access => ({
    operand: input(context, index),
    offset: 0,
    strides: ids ? [0, 0, 0, 0] : [cos.shape[0] === 1 ? 0 : length * row, 0, row, 0],
  });
  const position: Access | undefined = ids && {
    operand: input(context, at.ids),
    offset: 0,
    strides: ids.shape.length === 2 ? [ids.shape[0] === 1 ? 0 : length, 0, 1, 0] : [0, 0, 0, 0],
  };
  const step = rotate(shape, {
    read: { operand: input(context, 0), offset: 0, strides: strides.with(3, 0) },
    write: { operand: output(context), offset: 0, strides },
    cos: perToken(at.cos),
    sin: perToken(at.sin),
    position,
    // A single id is the position of the first token.
    ...(ids && ids.shape.length < 2 ? { expression: "((long long)x3 + i2)" } : {}),
    rotated,
    interleaved: intOf(attributes, "interleaved") === 1,
    row,
  });
  return { steps: [step] };
}
