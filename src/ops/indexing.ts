/** GatherElements, GatherND, ScatterElements, ScatterND. Source: ONNX, versions 13 to 18. */
import type { Dim } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import type { Shape, TensorType } from "../graph/types.ts";
import { int, intOf } from "../graph/attributes.ts";
import type { OpDef } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import {
  NOT_OWN_ROW,
  oneNumber,
  type RowFact,
  type RowPlace,
  type RowsContext,
  type RowsOutcome,
  samePlace,
  selectsOwnRow,
  tellsRows,
} from "./rows.ts";
import { normalizeAxis, unknownShape } from "./shapes.ts";

/** Dims that neither are the axis nor differ between the tensors pass. */
function alignedDims(shapes: readonly (readonly Dim[])[], axis: number, outputs: number): Factor[] {
  return shapes[0]!.flatMap((size, d): Factor[] => {
    if (d === axis || size === 1 || shapes.some((s) => String(s[d]) !== String(size))) return [];
    return [{
      name: `d${d}`,
      size,
      inputs: shapes.map(() => at(d)),
      outputs: Array.from({ length: outputs }, () => at(d)),
    }];
  });
}

/** @throws {ShapeError} If some have more dims than others. */
function requireEqualRanks(inputs: readonly (TensorType | undefined)[]): void {
  const shapes = inputs.flatMap((type) => type?.shape ? [type.shape] : []);
  if (shapes.every((shape) => shape.length === shapes[0]!.length)) return;
  throw new ShapeError(`its inputs have as many dims as each other, not ${shapes.map((s) => `[${s}]`).join(", ")}`);
}

export const GATHER_ELEMENTS: OpDef = {
  op: "GatherElements",
  domain: "",
  since: 11,
  inputs: ["data", "indices"],
  infer: ({ inputs }) => {
    requireEqualRanks(inputs);
    return [{ dtype: inputs[0]?.dtype, shape: inputs[1]?.shape }];
  },
  factors: ({ inputs, attributes }) => {
    const [data, indices] = inputs.map((i) => i?.shape);
    if (!data || !indices) return { factors: [] };
    const axis = normalizeAxis(intOf(attributes, "axis") ?? 0, data.length);
    return { factors: alignedDims([data, indices], axis, 1), linear: [[0]] };
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [3, 4] }, { dtype: "i64", shape: [3, 2] }],
      ranges: { 1: [0, 4] },
      attributes: { axis: int(1) },
    },
  ],
};

/** Entries that are put where their own samples are, along the axis. */
function scatteredElements({ inputs, attributes, facts: [data, indices, updates] }: RowsContext): RowsOutcome {
  const rank = inputs[0]?.shape?.length, place = data?.place, entries = indices?.place;
  if (rank === undefined || place?.dim !== normalizeAxis(intOf(attributes, "axis") ?? 0, rank)) return undefined;
  const isOwn = selectsOwnRow(oneNumber(indices?.numbers), place) && entries?.dim === place.dim &&
    samePlace(updates?.place, entries) && !tellsRows(updates?.numbers) && !tellsRows(data?.numbers);
  return isOwn ? [{ place }] : { mixes: NOT_OWN_ROW };
}

/** Whether the coordinates of entries, along the last dim of `shape`, tell of the samples' dim just their own, and nothing else of them. */
function selectsByCoordinates(indices: RowFact | undefined, shape: Shape, place: RowPlace, skipped = 0): boolean {
  const last = shape.length - 1, depth = shape[last]!, own = place.dim - skipped;
  const { place: entries, numbers } = indices ?? {};
  if (!entries || entries.dim === last || !numbers) return false;
  if (depth === 1 ? numbers.along !== undefined : numbers.along !== last) return false;
  return selectsOwnRow(numbers.of[own], place) &&
    numbers.of.every((n, k) => k === own || n === undefined || n.coefficient === 0);
}

export const SCATTER_ELEMENTS: OpDef = {
  op: "ScatterElements",
  domain: "",
  since: 11,
  inputs: ["data", "indices", "updates"],
  rows: scatteredElements,
  infer: ({ inputs }) => {
    requireEqualRanks(inputs);
    return [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }];
  },
  factors: ({ inputs, attributes }) => {
    const [data, indices, updates] = inputs.map((i) => i?.shape);
    if (!data || !indices || !updates) return { factors: [] };
    const axis = normalizeAxis(intOf(attributes, "axis") ?? 0, data.length);
    return { factors: alignedDims([data, indices, updates], axis, 1) };
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [3, 4] }, { dtype: "i64", shape: [3, 1] }, { dtype: "f32", shape: [3, 1] }],
      ranges: { 1: [0, 4] },
      attributes: { axis: int(1) },
    },
  ],
};

export const GATHER_ND: OpDef = {
  op: "GatherND",
  domain: "",
  since: 11,
  inputs: ["data", "indices"],
  infer: ({ inputs, attributes }) => {
    const [data, indices] = inputs;
    const depth = indices?.shape?.at(-1);
    if (!data?.shape || !indices?.shape || typeof depth !== "number") return [unknownShape(data)];
    const batch = intOf(attributes, "batch_dims") ?? 0;
    return [{ dtype: data.dtype, shape: [...indices.shape.slice(0, -1), ...data.shape.slice(batch + depth)] }];
  },
  rows: ({ inputs, attributes, facts: [data, indices] }) => {
    const place = data?.place, depth = inputs[1]?.shape?.at(-1), skipped = intOf(attributes, "batch_dims") ?? 0;
    const isSelected = place && typeof depth === "number" && place.dim >= skipped && place.dim < skipped + depth;
    if (!isSelected) return undefined;
    const isOwn = selectsByCoordinates(indices, inputs[1]!.shape!, place, skipped) && !tellsRows(data?.numbers);
    return isOwn ? [{ place: indices?.place }] : { mixes: NOT_OWN_ROW };
  },
  factors: ({ inputs, attributes }) => {
    const data = inputs[0]?.shape, indices = inputs[1]?.shape;
    const depth = indices?.at(-1);
    if (!data || !indices || typeof depth !== "number") return { factors: [] };
    const batch = intOf(attributes, "batch_dims") ?? 0;
    const skipped = batch + depth;
    const tail = data.slice(skipped).map((size, i): Factor => ({
      name: `d${skipped + i}`,
      size,
      inputs: [at(skipped + i), null],
      outputs: [at(indices.length - 1 + i)],
    }));
    const lead = indices.slice(0, -1).map((size, i): Factor => ({
      name: `i${i}`,
      size,
      inputs: [i < batch ? at(i) : null, at(i)],
      outputs: [at(i)],
    }));
    return { factors: [...lead, ...tail].filter((f) => f.size !== 1), linear: [[0]] };
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [3, 4, 5] }, { dtype: "i64", shape: [2, 2] }], ranges: { 1: [0, 3] } },
    {
      inputs: [{ dtype: "f32", shape: [2, 4, 5] }, { dtype: "i64", shape: [2, 1] }],
      ranges: { 1: [0, 4] },
      attributes: { batch_dims: int(1) },
    },
  ],
};

export const SCATTER_ND: OpDef = {
  op: "ScatterND",
  domain: "",
  since: 11,
  inputs: ["data", "indices", "updates"],
  infer: ({ inputs }) => {
    const [data, indices, updates] = inputs.map((i) => i?.shape), depth = indices?.at(-1);
    if (data && indices && updates && typeof depth === "number") {
      const dims = indices.length - 1 + data.length - depth;
      if (depth > data.length || updates.length !== dims) {
        throw new ShapeError(`indices [${indices}] into [${data}] put updates of ${dims} dims, not [${updates}]`);
      }
    }
    return [{ dtype: inputs[0]?.dtype, shape: data }];
  },
  rows: ({ inputs, facts: [data, indices, updates] }) => {
    const place = data?.place, depth = inputs[1]?.shape?.at(-1);
    if (!place || typeof depth !== "number" || place.dim >= depth) return undefined;
    const isOwn = selectsByCoordinates(indices, inputs[1]!.shape!, place) &&
      samePlace(updates?.place, indices?.place) && !tellsRows(updates?.numbers) && !tellsRows(data?.numbers);
    return isOwn ? [{ place }] : { mixes: NOT_OWN_ROW };
  },
  factors: ({ inputs }) => {
    const data = inputs[0]?.shape, indices = inputs[1]?.shape;
    const depth = indices?.at(-1);
    if (!data || !indices || typeof depth !== "number") return { factors: [] };
    const factors = data.slice(depth).map((size, i): Factor => ({
      name: `d${depth + i}`,
      size,
      inputs: [at(depth + i), null, at(indices.length - 1 + i)],
      outputs: [at(depth + i)],
    }));
    return { factors: factors.filter((f) => f.size !== 1) };
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [5, 4] }, { dtype: "i64", shape: [1, 1] }, { dtype: "f32", shape: [1, 4] }],
      ranges: { 1: [0, 5] },
    },
  ],
};
