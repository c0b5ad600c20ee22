/** Ops that only rename dims: Transpose, Squeeze, Unsqueeze. Partial results pass through all of them. */
import type { Dim } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { ints as intsAttribute, intsOf } from "../graph/attributes.ts";
import type { KnownInts, Shape } from "../graph/types.ts";
import type { InferContext, OpDef, TypedContext } from "./def.ts";
import { at, type Factor, type FactorRule } from "./factors.ts";
import { movedNumbers } from "./rows.ts";
import { axesOf, emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";

/** Factors of an op of which output dim `i` is dim `source[i]` of input 0; null where the dim is new. */
export function renamingFactors(context: TypedContext, source: readonly (number | null)[]): FactorRule {
  const shape = context.inputs[0]?.shape;
  if (!shape) return { factors: [], linear: [[0]] };
  const factors = source.flatMap((from, to): Factor[] => {
    if (from === null || shape[from] === 1) return [];
    return [{
      name: `d${from}`,
      size: shape[from]!,
      inputs: context.inputs.map((_, i) => (i === 0 ? at(from) : null)),
      outputs: [at(to)],
    }];
  });
  return { factors, linear: [[0]] };
}

function permutation(context: Pick<InferContext, "attributes">, rank: number): readonly number[] {
  return intsOf(context.attributes, "perm") ?? Array.from({ length: rank }, (_, i) => rank - 1 - i);
}

export const TRANSPOSE: OpDef = {
  op: "Transpose",
  domain: "",
  since: 13,
  inputs: ["data"],
  infer: (context) => {
    const shape = context.inputs[0]?.shape;
    if (!shape) return [unknownShape(context.inputs[0])];
    const perm = permutation(context, shape.length);
    if (perm.length !== shape.length) {
      throw new ShapeError(`Cannot permute ${shape.length} dims by [${perm}]`);
    }
    const content = context.ints[0];
    const type = { dtype: context.inputs[0]!.dtype, shape: perm.map((p) => shape[p]!) };
    const ints = content && transposeKnown(content, perm);
    return [ints ? { ...type, ints } : type];
  },
  factors: transposeFactors,
  numbers: (context) => movedNumbers(context, transposeFactors(context).factors),
  examples: [
    { inputs: [{ dtype: "f32", shape: [3, 4] }] },
    { inputs: [{ dtype: "f32", shape: [2, 3, 4, 5] }], attributes: { perm: intsAttribute([0, 2, 1, 3]) } },
    { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { perm: intsAttribute([2, 0, 1]) } },
  ],
};

function transposeFactors(context: TypedContext): FactorRule {
  return renamingFactors(context, permutation(context, context.inputs[0]?.shape?.length ?? 0));
}

function transposeKnown(content: KnownInts, perm: readonly number[]): KnownInts {
  const dims = perm.map((p) => content.dims[p]!);
  const strides = content.dims.map((_, i) => content.dims.slice(i + 1).reduce((a, b) => a * b, 1));
  const elements: Dim[] = content.elements.map((_, flat) => {
    let rest = flat, index = 0;
    for (let i = dims.length - 1; i >= 0; i--) {
      index += (rest % dims[i]!) * strides[perm[i]!]!;
      rest = Math.floor(rest / dims[i]!);
    }
    return content.elements[index]!;
  });
  return { dims, elements };
}

/** For every output dim of Squeeze, the input dim; undefined where the axes are not known. */
function squeezeSource(context: InferContext | TypedContext): number[] | undefined {
  const shape = context.inputs[0]?.shape;
  const axes = axesOf(context, 1);
  if (!shape || axes === undefined) return undefined;
  const gone = axes === "none"
    ? shape.flatMap((d, i) => (d === 1 ? [i] : []))
    : axes.map((a) => normalizeAxis(a, shape.length));
  return shape.map((_, i) => i).filter((i) => !gone.includes(i));
}

function squeezeFactors(context: TypedContext): FactorRule {
  return renamingFactors(context, squeezeSource(context) ?? []);
}

export const SQUEEZE: OpDef = {
  op: "Squeeze",
  domain: "",
  since: 11,
  inputs: ["data", "axes"],
  infer: (context) => {
    const source = squeezeSource(context);
    const [x] = context.inputs;
    if (!source || !x?.shape) return [unknownShape(x)];
    return [withContent(context, source.map((i) => x.shape![i]!))];
  },
  factors: squeezeFactors,
  numbers: (context) => movedNumbers(context, squeezeFactors(context).factors),
  // Without axes a shard of size 1 would be squeezed as well.
  localize: (context) => {
    const source = squeezeSource(context), shape = context.inputs[0]?.shape;
    if (axesOf(context, 1) !== "none" || !source || !shape) return emitUnchanged(context);
    const axes = shape.map((_, i) => i).filter((i) => !source.includes(i));
    const { emit, names } = context;
    if (axes.length === 0) return [emit.op("Identity", [names[0]!])];
    return context.opset >= 13
      ? [emit.op("Squeeze", [names[0]!, emit.sizes(axes)])]
      : [emit.op("Squeeze", [names[0]!], { axes: intsAttribute(axes) })];
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 1, 4, 1] }, { dtype: "i64", shape: [1] }], constants: { 1: [1] }, opset: 13 },
    { inputs: [{ dtype: "f32", shape: [2, 1, 4, 1] }], opset: 13 },
    { inputs: [{ dtype: "f32", shape: [2, 1, 4] }], attributes: { axes: intsAttribute([-2]) }, opset: 11 },
  ],
};

/** For every output dim of Unsqueeze, the input dim; null for the new ones; undefined where the axes are not known. */
function unsqueezeSource(context: InferContext | TypedContext): (number | null)[] | undefined {
  const shape = context.inputs[0]?.shape;
  const axes = axesOf(context, 1);
  if (!shape || axes === undefined || axes === "none") return undefined;
  const rank = shape.length + axes.length;
  const fresh = axes.map((a) => normalizeAxis(a, rank));
  let next = 0;
  return Array.from({ length: rank }, (_, i) => (fresh.includes(i) ? null : next++));
}

function unsqueezeFactors(context: TypedContext): FactorRule {
  return renamingFactors(context, unsqueezeSource(context) ?? []);
}

export const UNSQUEEZE: OpDef = {
  op: "Unsqueeze",
  domain: "",
  since: 11,
  inputs: ["data", "axes"],
  infer: (context) => {
    const source = unsqueezeSource(context);
    const [x] = context.inputs;
    if (!source || !x?.shape) return [unknownShape(x)];
    return [withContent(context, source.map((i) => (i === null ? 1 : x.shape![i]!)))];
  },
  factors: unsqueezeFactors,
  numbers: (context) => movedNumbers(context, unsqueezeFactors(context).factors),
  examples: [
    { inputs: [{ dtype: "f32", shape: [3, 4] }, { dtype: "i64", shape: [2] }], constants: { 1: [0, 2] }, opset: 13 },
    { inputs: [{ dtype: "f32", shape: [3, 4] }, { dtype: "i64", shape: [1] }], constants: { 1: [-1] }, opset: 13 },
    { inputs: [{ dtype: "f32", shape: [3, 4] }], attributes: { axes: intsAttribute([1]) }, opset: 11 },
  ],
};

/** The type of an op that keeps the elements of input 0 in order. */
export function withContent(context: InferContext, shape: Shape) {
  const type = { dtype: context.inputs[0]?.dtype, shape };
  const content = context.ints[0];
  const dims = shape.every((d) => typeof d === "number") ? shape as readonly number[] : undefined;
  if (!content || !dims || dims.reduce((a, b) => a * b, 1) !== content.elements.length) return type;
  return { ...type, ints: { dims, elements: content.elements } };
}
