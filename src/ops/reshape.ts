/** Reshape and Flatten: factors by groups of dims with equal products. Source: ONNX Reshape-14 (`allowzero`), Flatten-13. */
import { type Dim, dimDivide, dimEquals, dimFloorDiv, dimMul, dimProduct, symbol } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { Shape } from "../graph/types.ts";
import type { InferContext, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { withContent } from "./dims.ts";
import { dataSizedReshape } from "./data_sized_target.ts";
import { type At, at, type Factor, type FactorRule } from "./factors.ts";
import { isDataDependent } from "./known_ints.ts";
import { movedNumbers, type RowsContext, type RowsOutcome } from "./rows.ts";
import { emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";

/** A block of consecutive indices within a dim. */
interface Block {
  readonly dim: number;
  readonly size: Dim;
  /** Elements of the dim for one unit of the block. */
  readonly inner: Dim;
}

/**
 * The finest blocks that two shapes of one element count have in common.
 *
 * Dims are matched from the left while they are equal, and then from the right, where a dim that divides the other (or a
 * common divisor) is split off; what has no common structure yields no block until the products meet again.
 */
export function commonBlocks(from: Shape, to: Shape): { from: Block; to: Block }[] {
  const out: { from: Block; to: Block }[] = [];
  let left = 0;
  while (left < from.length && left < to.length && dimEquals(from[left]!, to[left]!)) {
    const size = from[left]!;
    out.push({ from: { dim: left, size, inner: 1 }, to: { dim: left, size, inner: 1 } });
    left++;
  }
  let i = from.length - 1, j = to.length - 1;
  let a: Dim = i >= left ? from[i]! : 1, b: Dim = j >= left ? to[j]! : 1;
  let aInner: Dim = 1, bInner: Dim = 1;
  const nextA = () => {
    i--;
    a = i >= left ? from[i]! : 1;
    aInner = 1;
  };
  const nextB = () => {
    j--;
    b = j >= left ? to[j]! : 1;
    bInner = 1;
  };
  while (i >= left || j >= left) {
    if (a === 1 && i >= left) {
      nextA();
      continue;
    }
    if (b === 1 && j >= left) {
      nextB();
      continue;
    }
    if (i < left || j < left) break;
    const size = commonDivisor(a, b);
    if (size === undefined) {
      // No common structure here: go left until the products of what is pending meet.
      [a, b] = [dimMul(a, 1), dimMul(b, 1)];
      let pendingA: Dim = a, pendingB: Dim = b;
      while (!dimEquals(pendingA, pendingB)) {
        if (i <= left && j <= left) return out;
        const takeA = j <= left ||
          (i > left && (typeof pendingA !== "number" || typeof pendingB !== "number" || pendingA < pendingB));
        if (takeA) pendingA = dimMul(pendingA, from[--i]!);
        else pendingB = dimMul(pendingB, to[--j]!);
      }
      nextA();
      nextB();
      continue;
    }
    out.push({ from: { dim: i, size, inner: aInner }, to: { dim: j, size, inner: bInner } });
    a = dimDivide(a, size)!;
    b = dimDivide(b, size)!;
    aInner = dimMul(aInner, size);
    bInner = dimMul(bInner, size);
  }
  return out;
}

/** The largest size > 1 by which both can be divided, if one is known. */
function commonDivisor(a: Dim, b: Dim): Dim | undefined {
  if (typeof a === "number" && typeof b === "number") {
    const g = gcd(a, b);
    return g > 1 ? g : undefined;
  }
  if (dimDivide(a, b) !== undefined) return b;
  if (dimDivide(b, a) !== undefined) return a;
  const [x, y] = [content(a), content(b)];
  const g = gcd(x, y);
  return g > 1 ? g : undefined;
}

/** The greatest number that divides a size whatever its symbols are. */
function content(d: Dim): number {
  return typeof d === "number" ? d : d.terms.reduce((g, t) => gcd(g, Math.abs(t.coefficient)), 0);
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** The factors of an op that only regroups the dims of input 0. */
export function regroupingFactors(context: TypedContext): FactorRule {
  const from = context.inputs[0]?.shape, to = context.outputs[0]?.shape;
  if (!from || !to) return { factors: [], linear: [[0]] };
  const factors = commonBlocks(from, to).flatMap((block): Factor[] => {
    const { size } = block.from;
    const input = place(from, block.from), output = place(to, block.to);
    if (size === 1 || !input || !output) return [];
    return [{
      name: `d${block.to.dim}${output.inner === 1 && output.outer === 1 ? "" : `.${input.dim}`}`,
      size,
      inputs: context.inputs.map((_, i) => (i === 0 ? input : null)),
      outputs: [output],
    }];
  });
  return { factors, linear: [[0]] };
}

function place(shape: Shape, { dim, size, inner }: Block): At | undefined {
  const outer = dimDivide(shape[dim]!, dimMul(size, inner));
  return typeof inner === "number" && outer !== undefined ? at(dim, { inner, outer }) : undefined;
}

function reshapeTarget(context: InferContext, shape: Shape, target: readonly Dim[]): Shape {
  const allowZero = intOf(context.attributes, "allowzero") === 1;
  const resolved = target.map((t, i) => (t === 0 && !allowZero ? shape[i] ?? 0 : t));
  const open = resolved.indexOf(-1);
  if (open < 0) {
    const [had, wants] = [dimProduct(shape), dimProduct(resolved)];
    if (typeof had === "number" && typeof wants === "number" && had !== wants) {
      throw new ShapeError(`Cannot reshape [${shape}] to [${resolved}]: ${had} elements are not ${wants}`);
    }
    return resolved;
  }
  // Equal dims on both sides cancel, so that [b, s, 96] to [b, s, -1, 16] divides 96 by 16 only.
  const rest = resolved.filter((_, i) => i !== open);
  const numerator = [...shape];
  const denominator: Dim[] = [];
  for (const d of rest) {
    const twin = numerator.findIndex((n) => dimEquals(n, d));
    if (twin >= 0) numerator.splice(twin, 1);
    else denominator.push(d);
  }
  const [n, d] = [dimProduct(numerator), dimProduct(denominator)];
  if (typeof n === "number" && typeof d === "number" && d !== 0 && n % d !== 0) {
    throw new ShapeError(`Cannot reshape [${shape}] to [${target}]: ${n} elements are not a multiple of ${d}`);
  }
  return resolved.map((t, i) => (i === open ? (d === 0 ? 0 : dimFloorDiv(n, d)) : t));
}

/** Emits a Reshape of local input 0 to the local shape of the output; unchanged where nothing is sharded. */
function localizeReshape(context: LocalizeContext): readonly string[] {
  const local = localTarget(context);
  if (!local) return emitUnchanged(context);
  // A literal 0 means "copy the dim" unless allowzero says otherwise: an empty shard needs it.
  const allow = context.opset >= 14 && local.some((d) => d === 0);
  const { emit, names } = context;
  const target = local.some(isDataDependent)
    ? dataSizedReshape(context, local, intOf(context.attributes, "allowzero") !== 1)
    : emit.sizes(local);
  return [emit.op("Reshape", [names[0]!, target], allow ? { allowzero: int(1) } : {})];
}

/** Flatten, whose own form tells the sizes, stays where data decides one. */
function localizeFlatten(context: LocalizeContext): readonly string[] {
  const local = localTarget(context);
  if (!local || local.some(isDataDependent)) return emitUnchanged(context);
  return localizeReshape(context);
}

function localTarget({ inputTensors: [x], outputTensors: [y] }: LocalizeContext): Shape | undefined {
  return y?.placement.kind === "S" || x?.placement.kind === "S" ? y?.localShape : undefined;
}

/** Elements keep their order: with as many before and after each sample, it is found in another dim. */
function regroupedRows({ inputs, outputs, facts: [fact] }: RowsContext): RowsOutcome {
  const from = inputs[0]?.shape, to = outputs[0]?.shape, place = fact?.place;
  // Numbers by index of a dim are for the factors to move.
  if (!from || !to || !place || fact.numbers?.along !== undefined) return undefined;
  const before = dimMul(dimProduct(from.slice(0, place.dim)), place.outer);
  const after = dimMul(dimProduct(from.slice(place.dim + 1)), place.inner);
  for (const [dim, size] of to.entries()) {
    const outer = dimDivide(before, dimProduct(to.slice(0, dim))),
      inner = dimDivide(after, dimProduct(to.slice(dim + 1)));
    if (outer === undefined || inner === undefined) continue;
    if (dimEquals(size, dimProduct([outer, symbol(place.of), inner]))) {
      return [{ place: { dim, outer, inner, of: place.of }, numbers: fact.numbers }];
    }
  }
  return undefined;
}

export const RESHAPE: OpDef = {
  op: "Reshape",
  domain: "",
  since: 5,
  inputs: ["data", "shape"],
  infer: (context) => {
    const [x] = context.inputs;
    const target = context.ints[1]?.elements;
    if (!target) {
      const rank = context.inputs[1]?.shape?.[0];
      if (typeof rank !== "number") return [unknownShape(x)];
      return [{ dtype: x?.dtype, shape: Array.from({ length: rank }, (_, i) => context.fresh(`reshape_${i}`)) }];
    }
    if (!x?.shape) {
      if (target.some((t) => t === 0 || t === -1)) return [unknownShape(x)];
      return [{ dtype: x?.dtype, shape: target }];
    }
    return [withContent(context, reshapeTarget(context, x.shape, target))];
  },
  factors: regroupingFactors,
  rows: regroupedRows,
  numbers: (context) => movedNumbers(context, regroupingFactors(context).factors),
  shapedBy: [1],
  localize: localizeReshape,
  examples: [
    [[2, 3, 12], [2, 3, 4, 3]],
    [[2, 3, 4, 3], [0, 0, -1]],
    [[2, 3, 4, 5], [6, 4, 5]],
    [[6, 4, 5], [2, 3, 4, 5]],
    [[4, 6], [3, 8]],
    [[2, 1, 12], [2, 3, 1, 4]],
  ].map(([from, to]) => ({
    inputs: [{ dtype: "f32", shape: from! }, { dtype: "i64", shape: [to!.length] }],
    constants: { 1: to! },
    opset: 14,
  })),
};

export const FLATTEN: OpDef = {
  op: "Flatten",
  domain: "",
  since: 11,
  inputs: ["input"],
  infer: (context) => {
    const [x] = context.inputs;
    if (!x?.shape) return [unknownShape(x)];
    const axis = intOf(context.attributes, "axis") ?? 1;
    const cut = axis === x.shape.length ? axis : normalizeAxis(axis, x.shape.length);
    return [{ dtype: x.dtype, shape: [dimProduct(x.shape.slice(0, cut)), dimProduct(x.shape.slice(cut))] }];
  },
  factors: regroupingFactors,
  rows: regroupedRows,
  numbers: (context) => movedNumbers(context, regroupingFactors(context).factors),
  localize: localizeFlatten,
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 3, 4] }] },
    { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { axis: int(2) } },
    { inputs: [{ dtype: "f32", shape: [6] }], attributes: { axis: int(0) } },
  ],
};
