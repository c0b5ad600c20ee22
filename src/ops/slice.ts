/** Slice and Pad. Source: ONNX Slice-13 (Slice-10 alike), Pad-18, Pad-13. */
import { type Dim, dimAdd, dimCeilDiv, dimEquals, dimMin, dimSub } from "../core/dim.ts";
import { intsOf } from "../graph/attributes.ts";
import type { InferContext, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import type { FactorRule } from "./factors.ts";
import { constantInts, isDataDependent, isIntegral } from "./known_ints.ts";
import { movedNumbers } from "./rows.ts";
import { axesOf, emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";
import { heldBefore, otherDims, readWindow } from "./windows.ts";

/** One sliced dim: bounds within [0, size]; undefined where only data tells them. */
interface Cut {
  readonly axis: number;
  readonly start: Dim | undefined;
  readonly end: Dim | undefined;
  readonly step: number | undefined;
}

/** Bounds of this size or more mean "to the end". */
const FAR = 2 ** 31 - 1;

function cuts(context: InferContext | TypedContext): Cut[] | undefined {
  const shape = context.inputs[0]?.shape;
  if (!shape) return undefined;
  const starts = intsOf(context.attributes, "starts") ?? context.ints[1]?.elements;
  const ends = intsOf(context.attributes, "ends") ?? context.ints[2]?.elements;
  const steps = context.inputs[4] ? constantInts(context.ints[4]) : [];
  const count = starts?.length ?? ends?.length ?? context.inputs[1]?.shape?.[0];
  if (typeof count !== "number") return undefined;
  const given = axesOf(context, 3);
  const axes = given === "none" ? Array.from({ length: count }, (_, i) => i) : given;
  return axes?.map((a, i) => {
    const axis = normalizeAxis(a, shape.length);
    const step = steps ? steps[i] ?? 1 : undefined;
    const size = shape[axis]!;
    return { axis, step, ...bounds([starts?.[i], ends?.[i]], size, step) };
  });
}

function bounds([start, end]: readonly (Dim | undefined)[], size: Dim, step: number | undefined) {
  if (step !== undefined && step < 0) {
    // Backwards: only the whole dim is followed, from the last element to before the first.
    const whole = (start === -1 || (typeof start === "number" && start >= FAR)) && typeof end === "number" &&
      end <= -FAR;
    return whole ? { start: 0, end: size } : backwards(start, end, size);
  }
  return { start: bound(start, size), end: bound(end, size) };
}

function backwards(start: Dim | undefined, end: Dim | undefined, size: Dim) {
  if (typeof start !== "number" || typeof end !== "number" || typeof size !== "number") {
    return { start: undefined, end: undefined };
  }
  const from = Math.min(start < 0 ? start + size : start, size - 1);
  const to = Math.max(end < 0 ? end + size : end, -1);
  // As the ascending range with the same number of elements, for counting.
  return { start: Math.min(to + 1, from + 1), end: from + 1 };
}

/** A bound within [0, size]. Symbolic bounds are taken to lie within, as exporters' slices do. */
function bound(b: Dim | undefined, size: Dim): Dim | undefined {
  if (b === undefined || isDataDependent(b)) return undefined;
  if (typeof b === "number") {
    if (b >= FAR) return size;
    if (b < 0) return b <= -FAR ? 0 : dimMaxZero(dimAdd(size, b));
    return typeof size === "number" ? Math.min(b, size) : b === 0 ? 0 : dimMin(b, size);
  }
  if (dimEquals(b, size)) return size;
  // Every term is negative: `x[-seq:]` counts from the end, whatever the symbols are.
  if (b.terms.every((t) => t.coefficient < 0)) return dimMaxZero(dimAdd(size, b));
  // A difference such as `past + seq - 1024` may be negative and then counts from the end; as a size it never is.
  return b;
}

function dimMaxZero(d: Dim): Dim {
  return typeof d === "number" ? Math.max(0, d) : d;
}

function cutSize({ start, end, step }: Cut): Dim | undefined {
  if (start === undefined || end === undefined || step === undefined) return undefined;
  const span = dimSub(end, start);
  if (typeof span === "number") return Math.max(0, Math.ceil(span / Math.abs(step)));
  return Math.abs(step) === 1 ? span : dimCeilDiv(span, Math.abs(step));
}

function sliceFactors(context: TypedContext): FactorRule {
  const shape = context.inputs[0]?.shape;
  const all = cuts(context);
  if (!shape || !all) return { factors: [], linear: [[0]] };
  const arity = { inputs: context.inputs.length, outputs: 1 };
  const touched = all.filter((c) => !isWhole(c, shape[c.axis]!)).map((c) => c.axis);
  const factors = otherDims(shape, touched, arity);
  const allKnown = all.every((c) => c.start !== undefined && c.end !== undefined);
  for (const { axis, start, end, step } of all) {
    const size = shape[axis]!;
    if (!touched.includes(axis) || step !== 1 || !allKnown) continue;
    if (typeof size !== "number" || typeof start !== "number" || typeof end !== "number") continue;
    factors.push(...readWindow(axis, [start, end], { size, to: axis, inputs: context.inputs.length }));
  }
  return { factors, linear: [[0]] };
}

export const SLICE: OpDef = {
  op: "Slice",
  domain: "",
  since: 10,
  inputs: ["data", "starts", "ends", "axes", "steps"],
  infer: (context) => {
    const [x] = context.inputs;
    const all = cuts(context);
    if (!x?.shape) return [unknownShape(x)];
    if (!all) return [{ dtype: x.dtype, shape: x.shape.map((_, i) => context.fresh(`slice_${i}`)) }];
    const shape = [...x.shape];
    for (const cut of all) shape[cut.axis] = cutSize(cut) ?? context.fresh(`slice_${cut.axis}`);
    const type = { dtype: x.dtype, shape };
    const content = context.ints[0], [only] = all;
    if (!content || !isIntegral(x.dtype) || all.length !== 1) return [type];
    const elements = sliceContent(content, only!);
    return [elements ? { ...type, ints: elements } : type];
  },
  factors: sliceFactors,
  numbers: (context) => movedNumbers(context, sliceFactors(context).factors),
  localize: (context) => {
    const placement = context.inputTensors[0]?.placement;
    const all = cuts(context);
    const shape = context.inputs[0]?.shape;
    if (placement?.kind !== "S" || !all || !shape) return emitUnchanged(context);
    const mine = all.find((c) => c.axis === placement.dim);
    if (!mine || isWhole(mine, shape[mine.axis]!) && mine.step === 1 && isOpenEnded(context)) {
      return emitUnchanged(context);
    }
    const { layout } = placement;
    const local = (b: Dim): Dim =>
      dimEquals(b, shape[mine.axis]!) || typeof b !== "number"
        ? context.inputTensors[0]!.localShape![mine.axis]!
        : heldBefore(layout, context.rank, b);
    const { emit, names } = context;
    return [emit.op("Slice", [
      names[0]!,
      emit.sizes([mine.start === 0 ? 0 : local(mine.start!)]),
      emit.sizes([local(mine.end!)]),
      emit.sizes([mine.axis]),
      ...(mine.step === 1 ? [] : [emit.sizes([mine.step!])]),
    ])].map((sliced) => (all.length === 1 ? sliced : sliceOthers(context, sliced, all.filter((c) => c !== mine))));
  },
  examples: [
    { data: [4, 6], at: [[1], [3], [0], [1]] },
    { data: [2, 8], at: [[2], [2 ** 31 - 1], [1], [1]] },
    { data: [2, 8], at: [[0], [-3], [-1], [1]] },
    { data: [2, 3, 8], at: [[0, 1], [2, 7], [1, 2], [1, 2]] },
  ].map(({ data, at }) => ({
    inputs: [{ dtype: "f32", shape: data }, ...at.map((a) => ({ dtype: "i64" as const, shape: [a.length] }))],
    constants: Object.fromEntries(at.map((a, i) => [i + 1, a])),
    opset: 13,
  })),
};

/** The cuts of dims that are whole on the rank, after the one that is sharded. */
function sliceOthers(
  { emit }: Pick<LocalizeContext, "emit">,
  data: string,
  others: readonly Cut[],
): string {
  const backward = others.some((c) => c.step! < 0);
  const starts = others.map((c) => (c.step! < 0 ? dimSub(c.end!, 1) : c.start!));
  const ends = others.map((c) => (c.step! < 0 && c.start === 0 ? -FAR : c.step! < 0 ? dimSub(c.start!, 1) : c.end!));
  const steps = backward || others.some((c) => c.step !== 1) ? [emit.sizes(others.map((c) => c.step!))] : [];
  return emit.op("Slice", [
    data,
    emit.sizes(starts),
    emit.sizes(ends),
    emit.sizes(others.map((c) => c.axis)),
    ...steps,
  ]);
}

function isWhole({ start, end, step }: Cut, size: Dim): boolean {
  return start === 0 && end !== undefined && dimEquals(end, size) && step === 1;
}

/** Whether all ends say "to the end" in words that hold for any size. */
function isOpenEnded(context: TypedContext): boolean {
  const ends = intsOf(context.attributes, "ends") ?? context.ints[2]?.elements;
  return ends?.every((e) => typeof e === "number" && e >= FAR) ?? false;
}

function sliceContent(content: { dims: readonly number[]; elements: readonly Dim[] }, cut: Cut) {
  const { axis, start, end, step } = cut;
  if (typeof start !== "number" || typeof end !== "number" || step === undefined) return undefined;
  const size = content.dims[axis]!;
  const inner = content.dims.slice(axis + 1).reduce((a, b) => a * b, 1);
  const outer = content.dims.slice(0, axis).reduce((a, b) => a * b, 1);
  const rows: number[] = [];
  if (step > 0) { for (let i = start; i < end; i += step) rows.push(i); }
  else for (let i = end - 1; i >= start; i += step) rows.push(i);
  const elements: Dim[] = [];
  for (let o = 0; o < outer; o++) {
    for (const r of rows) {
      for (let k = 0; k < inner; k++) elements.push(content.elements[(o * size + r) * inner + k]!);
    }
  }
  return { dims: content.dims.map((d, i) => (i === axis ? rows.length : d)), elements };
}

export const PAD: OpDef = {
  op: "Pad",
  domain: "",
  since: 11,
  inputs: ["data", "pads", "constant_value", "axes"],
  infer: (context) => {
    const [x] = context.inputs;
    if (!x?.shape) return [unknownShape(x)];
    const widths = padWidths(context);
    if (!widths) return [{ dtype: x.dtype, shape: x.shape.map((_, i) => context.fresh(`pad_${i}`)) }];
    return [{ dtype: x.dtype, shape: x.shape.map((d, i) => dimAdd(d, dimAdd(widths[i]![0], widths[i]![1]))) }];
  },
  factors: (context) => {
    const shape = context.inputs[0]?.shape, widths = padWidths(context);
    if (!shape || !widths) return { factors: [] };
    const padded = widths.flatMap(([a, b], i) => (a === 0 && b === 0 ? [] : [i]));
    return { factors: otherDims(shape, padded, { inputs: context.inputs.length, outputs: 1 }) };
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [2, 4] }, { dtype: "i64", shape: [4] }],
      constants: { 1: [0, 1, 0, 2] },
      opset: 13,
    },
  ],
};

function padWidths(context: InferContext | TypedContext): [Dim, Dim][] | undefined {
  const rank = context.inputs[0]!.shape!.length;
  const pads = intsOf(context.attributes, "pads") ?? context.ints[1]?.elements;
  const given = axesOf(context, 3);
  if (!pads || given === undefined) return undefined;
  const axes = given === "none" ? Array.from({ length: rank }, (_, i) => i) : given.map((a) => normalizeAxis(a, rank));
  const widths = Array.from({ length: rank }, (): [Dim, Dim] => [0, 0]);
  axes.forEach((a, i) => (widths[a] = [pads[i]!, pads[i + axes.length]!]));
  return widths;
}
