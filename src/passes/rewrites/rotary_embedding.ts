/**
 * Rotary positions, written out, become com.microsoft's RotaryEmbedding.
 *
 * ```text
 * Add(Mul(%x, %cos), Mul(Concat(Neg(Slice(%x, half:)), Slice(%x, :half)), %sin))     %x : [batch,heads,seq,dim]
 *   %cos = Unsqueeze(f(Concat(%t, %t)), 1), f elementwise, likewise %sin
 *   ->  RotaryEmbedding(%x, %positions, %cos_table, %sin_table)
 * ```
 * The op looks its angles up in a table by position. What the graph computes for this step's tokens, a row each, is that table,
 * and a token's row is its index: so positions may be any, as far as the model was written for any.
 */
import { type Dim, dimEquals } from "../../core/dim.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import { isFused, type Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";
import { emitRotation, positionsOf, tableOf } from "./rotary_tables.ts";

export const ROTARY_EMBEDDING: Rewrite = {
  name: "rotary_embedding",
  summary: "rotary positions become RotaryEmbedding",
  at: (node, m, names) => (opKey(node) === "Add" ? rotation(node, m, names) : undefined),
};

function rotation(node: Call, m: Matcher, names: FreshNames): Answer {
  const found = halves(node, m);
  if (!found) return undefined;
  const { x, half, cos, sin } = found;
  const { dtype, shape } = m.value(x).type;
  if (!isFused(dtype)) return `${dtype} is not rewritten, only f32 and f16`;
  if (shape?.length !== 4) return `the rotated tensor has ${shape?.length} dims, not 4`;
  const [batch, , sequence] = shape as [Dim, Dim, Dim, Dim];
  const tables = [cos, sin].map((name) => angleTable(name, m, { batch, sequence, half }));
  for (const table of tables) if (typeof table === "string") return table;
  const [c, s] = tables as Exclude<(typeof tables)[number], string>[];
  if (c!.perRow !== s!.perRow) return "cosines and sines have different batch dims";
  const emit = new Emit(names, node);
  const perRow = c!.perRow, shared = { batch, sequence, perRow, half };
  emitRotation(emit, {
    x,
    type: { dtype, shape },
    positions: positionsOf(emit, shared),
    tables: [c!, s!].map(({ name }) => tableOf(emit, { ...shared, name, shape: m.shape(name)!, dtype, step: 1 })),
    output: node.outputs[0]!,
  });
  return emit.replacement();
}

interface Halves {
  readonly x: string;
  readonly half: number;
  readonly cos: string;
  readonly sin: string;
}

/** `x·cos + rotateHalf(x)·sin`, its operands in any order. */
function halves(node: Call, m: Matcher): Halves | undefined {
  for (const [plainName, turnedName] of [node.inputs, [...node.inputs].reverse()] as [string, string][]) {
    const plain = m.call(plainName, "Mul"), turned = m.call(turnedName, "Mul");
    if (!plain || !turned) return undefined;
    for (const [joined, sin] of [turned.inputs, [...turned.inputs].reverse()] as [string, string][]) {
      const concat = m.call(joined, "Concat");
      const ndim = m.shape(joined)?.length;
      if (!concat || concat.inputs.length !== 2 || ndim === undefined || m.concatDim(concat) !== ndim - 1) continue;
      const negated = m.call(concat.inputs[0]!, "Neg");
      const second = negated && m.slice(negated.inputs[0]!), first = m.slice(concat.inputs[1]!);
      const width = first && m.shape(first.input)?.[ndim - 1];
      if (!first || !second || first.input !== second.input || typeof width !== "number") continue;
      const half = width / 2, x = first.input;
      if (first.dim !== ndim - 1 || second.dim !== ndim - 1 || first.from !== 0 || first.to !== half) continue;
      if (second.from !== half || typeof second.to !== "number" || second.to < width) continue;
      const cos = plain.inputs[0] === x ? plain.inputs[1] : plain.inputs[1] === x ? plain.inputs[0] : undefined;
      if (cos !== undefined) return { x, half, cos, sin };
    }
  }
  return undefined;
}

/** The angles of a step as `[batch or 1, sequence, dim]`, whose halves are alike; or why they are not. */
function angleTable(
  name: string,
  m: Matcher,
  to: { readonly batch: Dim; readonly sequence: Dim; readonly half: number },
): { readonly name: string; readonly perRow: boolean } | string {
  const unsqueezed = m.call(name, "Unsqueeze");
  const shape = unsqueezed && m.shape(unsqueezed.inputs[0]!), wide = m.shape(name);
  if (!unsqueezed || shape?.length !== 3 || wide?.length !== 4 || wide[1] !== 1) {
    return "the angles are not [batch, 1, sequence, dim] from [batch, sequence, dim]";
  }
  const [rows, sequence, width] = shape as [Dim, Dim, Dim];
  if (width !== 2 * to.half || !dimEquals(sequence, to.sequence)) {
    return "the angles' sizes are not those of the tokens";
  }
  const perRow = rows !== 1;
  if (perRow && !dimEquals(rows, to.batch)) return "the angles' batch is not that of the tokens";
  let source = unsqueezed.inputs[0]!;
  for (;;) {
    const unary = m.call(source, "Cos", "Sin", "Cast") ?? m.withScalar(source, "Mul", "Div")?.call;
    if (!unary) break;
    source = unary.op === "Mul" || unary.op === "Div" ? m.withScalar(source, unary.op)!.operand : unary.inputs[0]!;
  }
  const joined = m.call(source, "Concat");
  const [a, b, ...more] = joined?.inputs ?? [];
  if (!joined || a !== b || more.length > 0 || m.concatDim(joined) !== 2) {
    return "the two halves of the angles are not seen to be alike";
  }
  return { name: unsqueezed.inputs[0]!, perRow };
}
