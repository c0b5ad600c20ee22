/** Expand and Tile: dims that repeat. A new or repeated dim can be sharded while the input stays replicated. */
import { type Dim, dimEquals, dimMul } from "../core/dim.ts";
import type { Shape } from "../graph/types.ts";
import type { InferContext, OpDef, TypedContext } from "./def.ts";
import { dataSizedExpansion } from "./data_sized_target.ts";
import { at, type Factor, type FactorRule } from "./factors.ts";
import { movedNumbers, type RowsContext, type RowsOutcome, tellsRows } from "./rows.ts";
import { isDataDependent, known } from "./known_ints.ts";
import { broadcast, emitUnchanged, unknownShape } from "./shapes.ts";

export const EXPAND: OpDef = {
  op: "Expand",
  domain: "",
  since: 8,
  inputs: ["input", "shape"],
  infer: (context) => {
    const [x] = context.inputs;
    const target = context.ints[1]?.elements;
    if (!x?.shape) return [unknownShape(x)];
    if (!target) {
      const rank = context.inputs[1]?.shape?.[0];
      if (typeof rank !== "number") return [unknownShape(x)];
      const missing = Array.from({ length: Math.max(0, rank - x.shape.length) }, () => 1);
      // Dims of size 1 become what only data tells; others keep their size.
      const shape = [...missing, ...x.shape].map((d, i) => (d === 1 ? context.fresh(`expand_${i}`) : d));
      return [{ dtype: x.dtype, shape }];
    }
    return [filled(context, broadcast(x.shape, target))];
  },
  factors: expandFactors,
  numbers: (context) => movedNumbers(context, expandFactors(context).factors),
  shapedBy: [1],
  localize: (context) => {
    const [y] = context.outputTensors;
    if (y?.placement.kind !== "S" || !y.localShape) return emitUnchanged(context);
    const { emit, names } = context;
    const target = y.localShape.some(isDataDependent)
      ? dataSizedExpansion(context, y.localShape)
      : emit.sizes(y.localShape);
    return [emit.op("Expand", [names[0]!, target])];
  },
  examples: [
    { from: [3, 1], to: [2, 3, 4] },
    { from: [2, 1, 4], to: [1, 3, 1] },
    { from: [2, 2, 1, 3, 4], to: [2, 2, 3, 3, 4] },
  ].map(({ from, to }) => ({
    inputs: [{ dtype: "f32", shape: from }, { dtype: "i64", shape: [to.length] }],
    constants: { 1: to },
  })),
};

/** What all samples have, once for each of them. */
function tiledRows({ inputs: [x], facts: [fact], ints, counts, placeIn }: RowsContext): RowsOutcome {
  const repeats = ints[1]?.elements, dims = repeats?.flatMap((r, i) => (counts(r) ? [i] : [])) ?? [];
  if (!x?.shape || fact?.place || tellsRows(fact?.numbers) || dims.length !== 1) return undefined;
  const [dim] = dims as [number], place = placeIn(repeats![dim]!, dim);
  return place && [{ place: { ...place, inner: dimMul(place.inner, x.shape[dim]!) } }];
}

function expandFactors({ inputs, outputs }: TypedContext): FactorRule {
  const x = inputs[0]?.shape, y = outputs[0]?.shape;
  if (!x || !y) return { factors: [], linear: [[0]] };
  const shift = y.length - x.length;
  const factors = y.flatMap((size, dim): Factor[] => {
    if (size === 1) return [];
    const from = dim - shift;
    const same = from >= 0 && dimEquals(x[from]!, size);
    if (!same && from >= 0 && x[from] !== 1) return [];
    return [{ name: `d${dim}`, size, inputs: [same ? at(from) : null, null], outputs: [at(dim)] }];
  });
  return { factors, linear: [[0]] };
}

/** The type of an Expand; its content where one element fills it all. */
function filled(context: InferContext, shape: Shape) {
  const type = { dtype: context.inputs[0]?.dtype, shape };
  const content = context.ints[0];
  const count = shape.every((d) => typeof d === "number") ? (shape as number[]).reduce((a, b) => a * b, 1) : undefined;
  if (!content || count === undefined) return type;
  if (content.elements.length === count) {
    return { ...type, ints: { dims: shape as number[], elements: content.elements } };
  }
  if (content.elements.length !== 1) return type;
  const ints = known(shape as number[], Array.from({ length: Math.min(count, 1024) }, () => content.elements[0]!));
  return ints ? { ...type, ints } : type;
}

export const TILE: OpDef = {
  op: "Tile",
  domain: "",
  since: 6,
  inputs: ["input", "repeats"],
  infer: (context) => {
    const [x] = context.inputs;
    const repeats = context.ints[1]?.elements;
    if (!x?.shape) return [unknownShape(x)];
    if (!repeats) return [{ dtype: x.dtype, shape: x.shape.map((_, i) => context.fresh(`tile_${i}`)) }];
    return [{ dtype: x.dtype, shape: x.shape.map((d, i) => dimMul(d, repeats[i] ?? 1)) }];
  },
  factors: ({ inputs, outputs, ints }) => {
    const x = inputs[0]?.shape, y = outputs[0]?.shape;
    const repeats = ints[1]?.elements;
    if (!x || !y || !repeats) return { factors: [], linear: [[0]] };
    const factors = x.flatMap((size, dim): Factor[] => {
      const times = repeats[dim]!;
      const name = `d${dim}`;
      // A dim of size 1 is copied: the copies can be sharded. Others repeat their block.
      if (size === 1) return y[dim] === 1 ? [] : [{ name, size: y[dim]!, inputs: [null, null], outputs: [at(dim)] }];
      return [{ name, size, inputs: [at(dim), null], outputs: [at(dim, { outer: times })] }];
    });
    return { factors, linear: [[0]] };
  },
  rows: tiledRows,
  shapedBy: [1],
  localize: (context) => {
    const x = context.inputTensors[0], y = context.outputTensors[0];
    const repeats = context.ints[1]?.elements;
    if (y?.placement.kind !== "S" || !repeats || !y.localShape) return emitUnchanged(context);
    const { dim } = y.placement;
    // Only a copied dim has other repeats on a rank: its input is whole and of size 1.
    const copied = x?.type.shape?.[dim] === 1;
    const local: Dim[] = repeats.map((r, i) => (i === dim && copied ? y.localShape![dim]! : r));
    if (local.some(isDataDependent)) return emitUnchanged(context);
    return [context.emit.op("Tile", [context.names[0]!, context.emit.sizes(local)])];
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 3] }, { dtype: "i64", shape: [2] }], constants: { 1: [1, 2] } },
    { inputs: [{ dtype: "f32", shape: [2, 1, 3] }, { dtype: "i64", shape: [3] }], constants: { 1: [1, 4, 1] } },
  ],
};
