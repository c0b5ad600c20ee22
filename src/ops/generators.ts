/** Ops that make tensors: Shape, Size, Sizes, ConstantOfShape, Range, OneHot, NonZero, Trilu, EyeLike. */
import { asSymbol, type Dim, dimAdd, dimCeilDiv, dimSub } from "../core/dim.ts";
import { int, intOf, tensorOf } from "../graph/attributes.ts";
import { type KnownInts, numel } from "../graph/types.ts";
import type { OpDef } from "./def.ts";
import { at, type Factor } from "./factors.ts";
import { constantInts, isIntegral, known, knownScalar, knownVector, MAX_KNOWN } from "./known_ints.ts";
import { numbersAlong, plainNumbers, tellsRows } from "./rows.ts";
import { normalizeAxis } from "./shapes.ts";
import { otherDims } from "./windows.ts";

export const SHAPE: OpDef = {
  op: "Shape",
  domain: "",
  since: 13,
  inputs: ["data"],
  infer: (context) => {
    const shape = context.inputs[0]?.shape;
    if (!shape) return [{ dtype: "i64", shape: [context.fresh("rank")] }];
    const clamp = (i: number) => Math.max(0, Math.min(shape.length, i < 0 ? i + shape.length : i));
    const start = clamp(intOf(context.attributes, "start") ?? 0);
    const end = clamp(intOf(context.attributes, "end") ?? shape.length);
    const dims = shape.slice(start, Math.max(start, end));
    return [{ dtype: "i64", shape: [dims.length], ints: knownVector(dims)! }];
  },
  rows: ({ inputs: [x] }) => (x?.shape ? [{}] : undefined),
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 3, 4] }] },
    { inputs: [{ dtype: "f32", shape: [2, 3, 4] }], attributes: { start: int(-2), end: int(2) }, opset: 15 },
  ],
};

export const SIZE: OpDef = {
  op: "Size",
  domain: "",
  since: 13,
  inputs: ["data"],
  infer: ({ inputs }) => {
    const shape = inputs[0]?.shape;
    return [{ dtype: "i64", shape: [], ...(shape ? { ints: knownScalar(numel(shape)) } : {}) }];
  },
  rows: ({ inputs: [x] }) => (x?.shape ? [{}] : undefined),
  examples: [{ inputs: [{ dtype: "f32", shape: [2, 3, 4] }] }],
};

/** A tensor of sizes that its value's known content describes; made by the pass that folds shape arithmetic. */
export const SIZES: OpDef = {
  op: "Sizes",
  domain: "shardwise",
  since: 1,
  inputs: [],
  // The content belongs to the value: inference keeps what it finds there.
  infer: () => [{ dtype: undefined, shape: undefined }],
  examples: [],
};

export const CONSTANT_OF_SHAPE: OpDef = {
  op: "ConstantOfShape",
  domain: "",
  since: 9,
  inputs: ["input"],
  infer: (context) => {
    const value = tensorOf(context.attributes, "value");
    const dtype = value?.dtype ?? "f32";
    const target = context.ints[0]?.elements;
    if (!target) {
      const rank = context.inputs[0]?.shape?.[0];
      if (typeof rank !== "number") return [{ dtype, shape: undefined }];
      return [{ dtype, shape: Array.from({ length: rank }, (_, i) => context.fresh(`constant_${i}`)) }];
    }
    const type = { dtype, shape: target };
    const dims = constantInts(context.ints[0]);
    const count = dims?.reduce((a, b) => a * b, 1);
    if (!isIntegral(dtype) || !dims || count === undefined || count > MAX_KNOWN) return [type];
    const fill = value
      ? firstInteger(value.bytes(), dtype === "i64" || dtype === "u64" ? 8 : dtype === "i32" ? 4 : 1)
      : 0;
    const ints = known(dims, Array.from({ length: count }, () => fill));
    return [ints ? { ...type, ints } : type];
  },
  rows: ({ outputs: [y], placeIn, counts }) => {
    const dims = y?.shape?.flatMap((d, i) => (counts(d) ? [i] : [])) ?? [];
    // All elements are equal, so that any of them may belong to any sample.
    const place = dims.length === 1 ? placeIn(y!.shape![dims[0]!]!, dims[0]!) : undefined;
    return dims.length === 0 ? undefined : place ? [{ place }] : { mixes: `it fills [${y!.shape}]` };
  },
  examples: [{ inputs: [{ dtype: "i64", shape: [2] }], constants: { 0: [3, 4] } }],
};

function firstInteger(bytes: Uint8Array, width: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (width === 8) return Number(view.getBigInt64(0, true));
  return width === 4 ? view.getInt32(0, true) : view.getInt8(0);
}

export const RANGE: OpDef = {
  op: "Range",
  domain: "",
  since: 11,
  inputs: ["start", "limit", "delta"],
  infer: (context) => {
    const dtype = context.inputs[0]?.dtype;
    const [start, limit, delta] = [0, 1, 2].map((i) => context.ints[i]?.elements[0]);
    if (start === undefined || limit === undefined || typeof delta !== "number" || delta === 0) {
      return [{ dtype, shape: [context.fresh("range")] }];
    }
    const span = delta > 0 ? dimSub(limit, start) : dimSub(start, limit);
    const step = Math.abs(delta);
    const size: Dim = typeof span === "number" ? Math.max(0, Math.ceil(span / step)) : dimCeilDiv(span, step);
    const type = { dtype, shape: [size] };
    if (typeof size !== "number" || size > MAX_KNOWN || !isIntegral(dtype)) return [type];
    const ints = knownVector(Array.from({ length: size }, (_, i) => dimAdd(start, i * delta)));
    return [ints ? { ...type, ints } : type];
  },
  rows: ({ ints, placeIn, counts }) => {
    const [start, limit, delta] = [0, 1, 2].map((i) => ints[i]?.elements[0]);
    if (start === undefined || limit === undefined || delta !== 1) return undefined;
    if (!counts(start) && !counts(limit)) return [{ numbers: plainNumbers(start, limit) }];
    const place = start === 0 ? placeIn(limit, 0) : undefined;
    if (!place) return { mixes: `it counts from ${start} to ${limit}` };
    return [{ place, numbers: { of: [{ coefficient: place.inner, low: 0, high: place.inner }] } }];
  },
  examples: [
    {
      inputs: [{ dtype: "i64", shape: [] }, { dtype: "i64", shape: [] }, { dtype: "i64", shape: [] }],
      constants: { 0: [2], 1: [11], 2: [2] },
    },
  ],
};

export const ONE_HOT: OpDef = {
  op: "OneHot",
  domain: "",
  since: 11,
  inputs: ["indices", "depth", "values"],
  infer: (context) => {
    const [indices, , values] = context.inputs;
    if (!indices?.shape) return [{ dtype: values?.dtype, shape: undefined }];
    const axis = normalizeAxis(intOf(context.attributes, "axis") ?? -1, indices.shape.length + 1);
    const depth = context.ints[1]?.elements[0] ?? context.fresh("depth");
    return [{ dtype: values?.dtype, shape: [...indices.shape.slice(0, axis), depth, ...indices.shape.slice(axis)] }];
  },
  factors: ({ inputs: [indices], attributes }) => {
    const shape = indices?.shape;
    if (!shape) return { factors: [] };
    const axis = normalizeAxis(intOf(attributes, "axis") ?? -1, shape.length + 1);
    return {
      factors: shape.flatMap((size, d): Factor[] =>
        size === 1 ? [] : [{ name: `d${d}`, size, inputs: [at(d), null, null], outputs: [at(d < axis ? d : d + 1)] }]
      ),
    };
  },
  examples: [
    {
      inputs: [{ dtype: "i64", shape: [2, 3] }, { dtype: "i64", shape: [] }, { dtype: "f32", shape: [2] }],
      constants: { 1: [5] },
      ranges: { 0: [0, 5] },
    },
  ],
};

/**
 * Where a known content is not 0, in row order: torch.repeat_interleave counts out what to repeat so, by numbers that shapes give.
 * Undefined where only data tells.
 */
function nonZeroPlaces(content: KnownInts | undefined): number[][] | undefined {
  const numbers = constantInts(content);
  return content && numbers?.flatMap((n, flat) => {
    if (n === 0) return [];
    let rest = flat;
    return [
      content.dims.toReversed().map((size) => {
        const at = rest % size;
        rest = (rest - at) / size;
        return at;
      }).toReversed(),
    ];
  });
}

export const NON_ZERO: OpDef = {
  op: "NonZero",
  domain: "",
  since: 13,
  inputs: ["X"],
  infer: (context) => {
    const shape = context.inputs[0]?.shape;
    if (!shape) return [{ dtype: "i64", shape: undefined }];
    const places = nonZeroPlaces(context.ints[0]), count = places?.length ?? context.fresh("nonzero");
    const ints = places &&
      known([shape.length, places.length], shape.flatMap((_, dim) => places.map((place) => place[dim]!)));
    const type = { dtype: "i64", shape: [shape.length, count] } as const;
    return [ints ? { ...type, ints } : type];
  },
  // A list of entries, each of one sample; their order within a sample is that of the whole.
  rows: ({ inputs: [x], outputs: [y], facts: [fact], batch }) => {
    const place = fact?.place, of = asSymbol(y?.shape?.[1] ?? 0);
    if (!place) return undefined;
    if (place.of !== batch || place.outer !== 1 || of === undefined || !x?.shape || tellsRows(fact.numbers)) {
      return { mixes: "it lists entries of what is no plain batch" };
    }
    const coordinates = x.shape.map((size, d) =>
      d === place.dim ? { coefficient: place.inner, low: 0, high: place.inner } : { coefficient: 0, low: 0, high: size }
    );
    return [{ place: { dim: 1, outer: 1, inner: 1, of }, numbers: numbersAlong(0, coordinates, x.shape.length) }];
  },
  examples: [{ inputs: [{ dtype: "bool", shape: [3, 4] }] }],
};

export const TRILU: OpDef = {
  op: "Trilu",
  domain: "",
  since: 14,
  inputs: ["input", "k"],
  infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
  factors: ({ inputs }) => {
    const shape = inputs[0]?.shape;
    if (!shape) return { factors: [] };
    const whole = [shape.length - 2, shape.length - 1];
    return { factors: otherDims(shape, whole, { inputs: inputs.length, outputs: 1 }), linear: [[0]] };
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [4, 5] }], attributes: { upper: int(0) } },
    { inputs: [{ dtype: "f32", shape: [2, 4, 4] }, { dtype: "i64", shape: [] }], constants: { 1: [1] } },
  ],
};

export const EYE_LIKE: OpDef = {
  op: "EyeLike",
  domain: "",
  since: 9,
  inputs: ["input"],
  infer: ({ inputs }) => [{ dtype: inputs[0]?.dtype, shape: inputs[0]?.shape }],
  examples: [{ inputs: [{ dtype: "f32", shape: [3, 4] }] }],
};
