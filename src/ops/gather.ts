/** Gather. Source: ONNX Gather-13. */
import type { Dim } from "../core/dim.ts";
import { int, intOf } from "../graph/attributes.ts";
import { localIndex } from "../graph/layout.ts";
import type { InferContext, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { at, type Factor, type FactorRule } from "./factors.ts";
import { constantInts, known } from "./known_ints.ts";
import {
  movedNumbers,
  NOT_OWN_ROW,
  numbersAlong,
  oneNumber,
  type RowNumbers,
  type RowsContext,
  type RowsOutcome,
  selectsOwnRow,
  tellsRows,
} from "./rows.ts";
import { emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";
import { emitSelectedRows } from "./selected_rows.ts";
import { readWindow } from "./windows.ts";

function axisOf(context: InferContext | TypedContext): number {
  return normalizeAxis(intOf(context.attributes, "axis") ?? 0, context.inputs[0]!.shape!.length);
}

/** Constant indices that are a run `[start, end)` of the axis, if they are. */
function constantRun(context: TypedContext, axis: number): readonly [number, number] | undefined {
  const size = context.inputs[0]!.shape![axis]!;
  const indices = constantInts(context.ints[1]);
  if (!indices || indices.length === 0 || typeof size !== "number") return undefined;
  const positive = indices.map((i) => (i < 0 ? i + size : i));
  if (positive.some((p, i) => p !== positive[0]! + i)) return undefined;
  return [positive[0]!, positive[0]! + positive.length];
}

function gatherFactors(context: TypedContext): FactorRule {
  const data = context.inputs[0], indices = context.inputs[1]?.shape;
  if (!data?.shape || !indices) return { factors: [], linear: [[0]] };
  const axis = axisOf(context);
  const factors = data.shape.flatMap((size, d): Factor[] => {
    if (d === axis || size === 1) return [];
    return [{ name: `d${d}`, size, inputs: [at(d), null], outputs: [at(d < axis ? d : d - 1 + indices.length)] }];
  });
  indices.forEach((size, d) => {
    if (size !== 1) factors.push({ name: `i${d}`, size, inputs: [null, at(d)], outputs: [at(axis + d)] });
  });
  const size = data.shape[axis]!;
  const run = constantRun(context, axis);
  if (run && indices.length === 1 && typeof size === "number") {
    const windows = readWindow(axis, run, { size, to: axis, inputs: 2 });
    return { factors: [...factors.filter((f) => f.name !== "i0"), ...windows], linear: [[0]] };
  }
  const isTable = axis === 0 && data.shape.length >= 2 && typeof size === "number" && size > 1 && !context.ints[1] &&
    data.dtype !== undefined && ["f32", "f16", "bf16", "f64"].includes(data.dtype);
  if (isTable) {
    factors.push({ name: "v", size, inputs: [at(0), null], outputs: [null], reduce: "sum", selected: true });
  }
  return { factors, linear: [[0]] };
}

/** Indices along the dim of the samples select what belongs to the sample that they belong to themselves. */
function gatheredRows(context: RowsContext): RowsOutcome {
  const { facts: [data, indices], inputs } = context;
  const index = oneNumber(indices?.numbers);
  if (!inputs[0]?.shape || !inputs[1]?.shape || data?.place?.dim !== axisOf(context)) return undefined;
  if (!indices?.place || !selectsOwnRow(index, data.place) || tellsRows(data.numbers)) return { mixes: NOT_OWN_ROW };
  return [{ place: { ...indices.place, dim: axisOf(context) + indices.place.dim } }];
}

/** Of coordinates, those that constant indices pick; other elements as they are. */
function gatheredNumbers(context: RowsContext): readonly (RowNumbers | undefined)[] {
  const { facts: [data, indices] } = context, numbers = data?.numbers;
  // What a table has at the number of a row is another thing in each group.
  if (tellsRows(indices?.numbers)) return [undefined];
  if (numbers?.along !== axisOf(context)) return movedNumbers(context, gatherFactors(context).factors);
  const picks = constantInts(context.ints[1]), rank = context.inputs[1]?.shape?.length ?? 0;
  if (!picks || rank > 1) return [undefined];
  return [numbersAlong(numbers.along, picks.map((i) => numbers.of.at(i)), picks.length)];
}

function localizeGather(context: LocalizeContext): readonly string[] {
  const [data] = context.inputTensors;
  const axis = axisOf(context);
  if (data?.placement.kind !== "S" || data.placement.dim !== axis) return emitUnchanged(context);
  const run = constantRun(context, axis);
  if (!run) return [emitSelectedRows(context, { table: 0, ids: 1, wrap: true })];
  const { layout } = data.placement;
  const local: Dim[] = [];
  for (let i = run[0]; i < run[1]; i++) {
    const index = localIndex(layout, context.rank, i);
    if (index !== undefined) local.push(index);
  }
  const { emit, names } = context;
  const scalar = context.inputs[1]!.shape!.length === 0;
  return [emit.op("Gather", [names[0]!, emit.sizes(local, scalar)], { axis: int(axis) })];
}

export const GATHER: OpDef = {
  op: "Gather",
  domain: "",
  since: 11,
  inputs: ["data", "indices"],
  infer: (context) => {
    const [data, indices] = context.inputs;
    if (!data?.shape || !indices?.shape) return [unknownShape(data)];
    const axis = axisOf(context);
    const shape = [...data.shape.slice(0, axis), ...indices.shape, ...data.shape.slice(axis + 1)];
    const type = { dtype: data.dtype, shape };
    const content = context.ints[0], picks = constantInts(context.ints[1]);
    if (content?.dims.length !== 1 || !picks) return [type];
    const elements = picks.map((p) => content.elements[p < 0 ? p + content.elements.length : p]);
    if (elements.some((e) => e === undefined)) return [type];
    const ints = known(context.ints[1]!.dims, elements as Dim[]);
    return [ints ? { ...type, ints } : type];
  },
  factors: gatherFactors,
  rows: gatheredRows,
  numbers: gatheredNumbers,
  localize: localizeGather,
  examples: [
    { inputs: [{ dtype: "f32", shape: [9, 4] }, { dtype: "i64", shape: [2, 3] }], ranges: { 1: [-9, 9] } },
    {
      inputs: [{ dtype: "f32", shape: [2, 5, 4] }, { dtype: "i64", shape: [3] }],
      ranges: { 1: [0, 5] },
      attributes: { axis: int(1) },
    },
    {
      inputs: [{ dtype: "f32", shape: [2, 6, 4] }, { dtype: "i64", shape: [2] }],
      constants: { 1: [-2, -1] },
      attributes: { axis: int(1) },
    },
    {
      inputs: [{ dtype: "f32", shape: [2, 3, 4] }, { dtype: "i64", shape: [] }],
      constants: { 1: [1] },
      attributes: { axis: int(1) },
    },
  ],
};
