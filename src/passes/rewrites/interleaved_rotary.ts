/**
 * Rotary positions of neighbouring elements, written out, become com.microsoft's RotaryEmbedding.
 *
 * ```text
 * Add(Mul(%x, %cos), Mul(Reshape(Concat(Unsqueeze(Neg(%x[1::2])), Unsqueeze(%x[::2]))), %sin))
 *   %x : [batch,heads,seq,dim] or [batch,seq,heads,dim]
 *   %cos = f(Reshape(Expand(Unsqueeze(%t)))), each angle twice in a row; f elementwise, likewise %sin
 *   ->  RotaryEmbedding(%x, %positions, %cos[::2], %sin[::2]) {interleaved=1}
 * ```
 * Source: rotate_every_two of Hugging Face's GPT-J and CodeGen.
 */
import { type Dim, dimEquals, dimMul } from "../../core/dim.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import { isFused, type Matcher } from "./matcher.ts";
import type { Answer, FreshNames, Rewrite } from "./rewrite.ts";
import { emitRotation, positionsOf, tableOf } from "./rotary_tables.ts";

export const INTERLEAVED_ROTARY: Rewrite = {
  name: "interleaved_rotary",
  summary: "rotary positions of neighbouring elements become RotaryEmbedding",
  at: (node, m, names) => (opKey(node) === "Add" ? rotation(node, m, names) : undefined),
};

function rotation(node: Call, m: Matcher, names: FreshNames): Answer {
  const found = neighbours(node, m);
  if (!found) return undefined;
  const { x, cos, sin } = found, { dtype, shape } = m.value(x).type;
  if (!isFused(dtype)) return `${dtype} is not rewritten, only f32 and f16`;
  const [batch, , , width] = shape as [Dim, Dim, Dim, Dim], wide = m.shape(cos), other = m.shape(sin);
  if (typeof width !== "number" || wide?.length !== 4 || !other?.every((d, i) => dimEquals(d, wide[i]!))) {
    return "the angles are not [batch, 1, sequence, dim] or [batch, sequence, 1, dim]";
  }
  // Of the two dims between, the angles have that of the tokens; of sequences of one token either may be meant.
  const heads = wide[1] === 1 && shape![1] !== 1 ? 1 : wide[2] === 1 && shape![2] !== 1 ? 2 : undefined;
  const perRow = wide[0] !== 1;
  if (heads === undefined || !dimEquals(wide[3 - heads]!, shape![3 - heads]!) || wide[3] !== width) {
    return "the angles' sizes are not those of the tokens";
  }
  if (perRow && !dimEquals(wide[0]!, batch)) return "the angles' batch is not that of the tokens";
  if (![cos, sin].every((name) => isPaired(name, m))) return "neighbouring angles are not seen to be alike";
  const count = shape![heads]!;
  if (heads === 2 && typeof count !== "number") return "the number of heads is not known";

  const emit = new Emit(names, node), sequence = shape![3 - heads]!;
  const tokens = { batch, sequence, perRow, half: width / 2 };
  const positions = positionsOf(emit, tokens);
  const tables = [cos, sin].map((name) => tableOf(emit, { ...tokens, name, shape: wide, dtype, step: 2 }));
  const rotated = { positions, tables, interleaved: true }, output = node.outputs[0]!;
  if (heads === 1) emitRotation(emit, { ...rotated, x, type: { dtype, shape }, output });
  else {
    const merged = { dtype, shape: [batch, sequence, dimMul(count, width)] };
    const joined = emit.call({ op: "Reshape", inputs: [x, emit.sizes([0, 0, -1])], type: merged });
    const turned = emitRotation(emit, { ...rotated, x: joined, type: merged });
    const split = [turned, emit.sizes([0, 0, count, width])];
    emit.call({ op: "Reshape", inputs: split, type: { dtype, shape }, output });
  }
  return emit.replacement();
}

/** `x·cos + rotateEveryTwo(x)·sin`, its operands in any order. */
function neighbours(node: Call, m: Matcher): Record<"x" | "cos" | "sin", string> | undefined {
  for (const [plainName, turnedName] of [node.inputs, [...node.inputs].reverse()] as [string, string][]) {
    const plain = m.call(plainName, "Mul"), turned = m.call(turnedName, "Mul");
    if (!plain || !turned) return undefined;
    for (const [swapped, sin] of [turned.inputs, [...turned.inputs].reverse()] as [string, string][]) {
      const x = swappedPairs(swapped, m);
      const cos = x === undefined ? undefined : plain.inputs.find((_, i) => plain.inputs[1 - i] === x);
      if (x !== undefined && cos !== undefined) return { x, cos, sin };
    }
  }
  return undefined;
}

/** What `name` has the neighbours of, in the other order and the first negated. */
function swappedPairs(name: string, m: Matcher): string | undefined {
  const joined = m.call(name, "Reshape"), concat = joined && m.call(joined.inputs[0]!, "Concat");
  if (!concat || concat.inputs.length !== 2 || m.concatDim(concat) !== 4) return undefined;
  const [first, second] = concat.inputs.map((part) => m.call(part!, "Unsqueeze")?.inputs[0]);
  const negated = first === undefined ? undefined : m.call(first, "Neg");
  const odd = negated && m.slice(negated.inputs[0]!, 2), even = second === undefined ? undefined : m.slice(second, 2);
  if (!odd || !even || odd.input !== even.input || odd.dim !== 3 || even.dim !== 3) return undefined;
  const shape = m.shape(odd.input), width = shape?.[3], to = m.shape(name);
  const isWhole = typeof width === "number" && width % 2 === 0 && odd.from === 1 && even.from === 0 &&
    [odd.to, even.to].every((end) => typeof end === "number" && end >= width - 1);
  const isSame = to?.length === 4 && shape?.length === 4 && to.every((d, i) => dimEquals(d, shape[i]!));
  const isPairs = concat.inputs.every((part) => m.shape(part)?.[4] === 1);
  return isWhole && isSame && isPairs ? odd.input : undefined;
}

/** Whether each second element along the last dim equals the one before it. */
function isPaired(name: string, m: Matcher): boolean {
  let source = name;
  for (;;) {
    const call = m.call(source, "Cos", "Sin", "Cast", "Unsqueeze", "Slice") ?? m.withScalar(source, "Mul", "Div")?.call;
    if (!call) break;
    const from = call.op === "Mul" || call.op === "Div" ? m.withScalar(source, call.op)!.operand : call.inputs[0]!;
    const before = m.shape(from)?.at(-1), after = m.shape(source)?.at(-1);
    if (!m.sameDim(before, after)) return false;
    source = from;
  }
  const joined = m.call(source, "Reshape"), twice = joined && m.call(joined.inputs[0]!, "Tile", "Expand");
  const opened = twice && m.shape(twice.inputs[0]!), wide = twice && m.shape(twice.outputs[0]!), to = m.shape(source);
  if (!opened || !wide || !to || opened.length !== wide.length || to.length !== wide.length - 1) return false;
  // [… , half, 1] to [… , half, 2] to [… , dim].
  const half = opened.at(-2);
  return opened.at(-1) === 1 && wide.at(-1) === 2 && typeof half === "number" && to.at(-1) === 2 * half &&
    wide.slice(0, -1).every((d, i) => dimEquals(d, opened[i]!)) &&
    to.slice(0, -1).every((d, i) => dimEquals(d, wide[i]!));
}
