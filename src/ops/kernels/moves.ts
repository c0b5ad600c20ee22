/** Ops that move elements: each output element is one element of an input, at an index that strides or an index tensor tell. */
import { intOf, intsOf as intsAttribute, stringOf, tensorOf } from "../../graph/attributes.ts";
import { dtypeInfo } from "../../core/dtype.ts";
import { hostTensorFromBytes, toNumbers } from "../../core/host_tensor.ts";
import { isShortFloat, saturated } from "../../core/narrow_floats.ts";
import {
  axisOf,
  broadcast,
  count,
  input,
  inputOf,
  intsOf,
  output,
  outputOf,
  stridesIn,
  stridesOf,
  unknownForm,
  whole,
} from "./access.ts";
import type { Access, KernelContext, KernelStep, Lowered, Lowering, MapStep } from "./kernel.ts";

/** A map that copies `read` to `write` over `shape`. */
export function copy(shape: readonly number[], read: Access, write: Access): MapStep {
  return { kind: "map", shape, reads: [read], write, expression: "x0" };
}

/** Same elements, other shape. */
function alias(context: KernelContext): Lowered {
  const { shape, strides } = inputOf(context, 0);
  if (!strides) return { steps: [{ kind: "alias", input: 0, output: 0 }] };
  return { steps: [copy(shape, { operand: input(context, 0), offset: 0, strides }, whole(output(context), shape))] };
}

function transpose(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), to = outputOf(context).shape;
  const perm = intsAttribute(context.attributes, "perm") ?? shape.map((_, d) => shape.length - 1 - d);
  const own = stridesIn(inputOf(context, 0));
  const read = { operand: input(context, 0), offset: 0, strides: perm.map((p) => own[p]!) };
  return { steps: [copy(to, read, whole(output(context), to))] };
}

function expand(context: KernelContext): Lowered {
  const to = outputOf(context).shape, x = inputOf(context, 0);
  const read = broadcast(input(context, 0), x.shape, to, stridesIn(x));
  return { steps: [copy(to, read, whole(output(context), to))] };
}

function tile(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), repeats = intsOf(context, 1);
  const own = stridesOf(shape), parts = shape.flatMap((size, d) => [repeats[d]!, size]);
  const read = { operand: input(context, 0), offset: 0, strides: shape.flatMap((_, d) => [0, own[d]!]) };
  return { steps: [copy(parts, read, whole(output(context), parts))] };
}

/** Per dim of the input, where a Slice starts and how it steps. */
function sliceOf(context: KernelContext): { start: number[]; step: number[] } {
  const { shape } = inputOf(context, 0), to = outputOf(context).shape;
  const starts = intsAttribute(context.attributes, "starts") ?? intsOf(context, 1);
  const given = intsAttribute(context.attributes, "axes") ?? (context.inputs[3] ? intsOf(context, 3) : undefined);
  const steps = context.inputs[4] ? intsOf(context, 4) : [];
  const start = shape.map(() => 0), step = shape.map(() => 1);
  starts.forEach((value, i) => {
    const d = axisOf(given?.[i] ?? i, shape.length), size = shape[d]!;
    step[d] = steps[i] ?? 1;
    const from = value < 0 ? value + size : value;
    start[d] = step[d]! < 0 ? Math.min(Math.max(from, -1), size - 1) : Math.min(Math.max(from, 0), size);
  });
  if (to.length !== shape.length) throw unknownForm(context, "it changes the number of dims");
  return { start, step };
}

function slice(context: KernelContext): Lowered {
  const to = outputOf(context).shape, own = stridesIn(inputOf(context, 0)), { start, step } = sliceOf(context);
  const read = {
    operand: input(context, 0),
    offset: start.reduce((sum, s, d) => sum + s * own[d]!, 0),
    strides: own.map((s, d) => s * step[d]!),
  };
  return { steps: [copy(to, read, whole(output(context), to))] };
}

function concat(context: KernelContext): Lowered {
  const to = outputOf(context).shape, axis = axisOf(intOf(context.attributes, "axis") ?? 0, to.length);
  const room = context.rooms?.[0], strides = stridesOf(room === undefined ? to : to.with(axis, room));
  let at = 0;
  const steps = context.inputs.flatMap((tensor, i): KernelStep[] => {
    const { shape } = tensor!, offset = at * strides[axis]!;
    at += shape[axis]!;
    // What grows in the memory of the first lies there already.
    if (count(shape) === 0 || (room !== undefined && i === 0)) return [];
    return [copy(shape, whole(input(context, i), shape), { operand: output(context), offset, strides })];
  });
  return { steps };
}

function split(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), strides = stridesIn(inputOf(context, 0));
  const axis = axisOf(intOf(context.attributes, "axis") ?? 0, shape.length);
  const sizes = intsAttribute(context.attributes, "split") ?? (context.inputs[1] ? intsOf(context, 1) : undefined);
  const each = Math.ceil(shape[axis]! / context.outputs.length);
  let at = 0;
  const steps = context.outputs.flatMap((tensor, i): KernelStep[] => {
    const offset = at * strides[axis]!;
    at += sizes?.[i] ?? each;
    if (!tensor || count(tensor.shape) === 0) return [];
    return [
      copy(tensor.shape, { operand: input(context, 0), offset, strides }, whole(output(context, i), tensor.shape)),
    ];
  });
  return { steps };
}

function pad(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), to = outputOf(context).shape;
  const pads = intsAttribute(context.attributes, "pads") ?? intsOf(context, 1);
  const axes = context.inputs[3] ? intsOf(context, 3).map((a) => axisOf(a, shape.length)) : shape.map((_, d) => d);
  const before = shape.map(() => 0);
  axes.forEach((d, i) => (before[d] = pads[i]!));
  const mode = stringOf(context.attributes, "mode") ?? "constant";
  if (mode !== "constant") return padFrom(context, mode, before);
  const value = context.inputs[2];
  const fill: MapStep = {
    kind: "map",
    shape: to,
    reads: value ? [broadcast(input(context, 2), value.shape, to)] : [],
    write: whole(output(context), to),
    expression: value ? "x0" : "0",
  };
  // A negative pad cuts; what is kept of the input starts behind it.
  const own = stridesOf(shape), strides = stridesOf(to);
  const kept = shape.map((size, d) => Math.min(size, to[d]! - before[d]!) - Math.max(0, -before[d]!));
  if (kept.some((k) => k <= 0)) return { steps: [fill] };
  const read = before.reduce((sum, b, d) => sum + Math.max(0, -b) * own[d]!, 0);
  const write = before.reduce((sum, b, d) => sum + Math.max(0, b) * strides[d]!, 0);
  const inside = copy(kept, { operand: input(context, 0), offset: read, strides: own }, {
    operand: output(context),
    offset: write,
    strides,
  });
  return { steps: [fill, inside] };
}

/** Where an element of a padded dim comes from: `at` counts from the first element of the input. */
const PAD_SOURCES: Readonly<Record<string, (at: string, size: string) => string>> = {
  edge: (at, size) => `f_max(0LL, f_min(${size} - 1, ${at}))`,
  reflect: (at, size) => `f_mirror(${at}, ${size})`,
  wrap: (at, size) => `f_mod(${at}, ${size})`,
};

function padFrom(context: KernelContext, mode: string, before: readonly number[]): Lowered {
  const { shape } = inputOf(context, 0), to = outputOf(context).shape, source = PAD_SOURCES[mode];
  if (!source) throw unknownForm(context, `mode "${mode}"`);
  const own = stridesOf(shape), params: Record<string, number> = {};
  const terms = shape.map((size, d) => {
    Object.assign(params, { [`from${d}`]: before[d], [`size${d}`]: size, [`step${d}`]: own[d] });
    return `${source(`(i${d} - from${d})`, `size${d}`)} * step${d}`;
  });
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [{ operand: input(context, 0), offset: 0, strides: to.map(() => 0) }],
      write: whole(output(context), to),
      expression: `ld(p0[${["o0", ...terms].join(" + ")}])`,
      params,
    }],
  };
}

function trilu(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), [row, column] = [shape.length - 2, shape.length - 1];
  const k = context.inputs[1] ? intsOf(context, 1)[0]! : 0;
  const keep = (intOf(context.attributes, "upper") ?? 1) === 1 ? ">=" : "<=";
  return {
    steps: [{
      kind: "map",
      shape,
      reads: [whole(input(context, 0), shape)],
      write: whole(output(context), shape),
      expression: `i${column} - i${row} ${keep} k ? x0 : 0 * x0`,
      params: { k },
    }],
  };
}

function range(context: KernelContext): Lowered {
  const { shape } = outputOf(context);
  const scalar = (i: number): Access => ({ operand: input(context, i), offset: 0, strides: [0] });
  return {
    steps: [{
      kind: "map",
      shape,
      reads: [scalar(0), scalar(2)],
      write: whole(output(context), shape),
      expression: "x0 + i0 * x1",
    }],
  };
}

function oneHot(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), to = outputOf(context).shape;
  const axis = axisOf(intOf(context.attributes, "axis") ?? -1, to.length), own = stridesOf(shape);
  const strides = [...own.slice(0, axis), 0, ...own.slice(axis)];
  return {
    steps: [{
      kind: "map",
      shape: to,
      reads: [{ operand: input(context, 0), offset: 0, strides }, {
        operand: input(context, 2),
        offset: 0,
        strides: to.map(() => 0),
      }],
      write: whole(output(context), to),
      expression: `ld(p1[((long long)x0 < 0 ? (long long)x0 + depth : (long long)x0) == i${axis}])`,
      params: { depth: to[axis]! },
    }],
  };
}

function constantOfShape(context: KernelContext): Lowered {
  const { shape, dtype } = outputOf(context), value = tensorOf(context.attributes, "value");
  // The output may be held in another dtype than the attribute's.
  const given = value ? toNumbers(hostTensorFromBytes(value.dtype, [1], value.bytes().slice()))[0]! : 0;
  const fill = isShortFloat(dtype) ? saturated(given, dtype) : given;
  return {
    steps: [{
      kind: "map",
      shape,
      reads: [],
      write: whole(output(context), shape),
      expression: "fill",
      params: { fill: dtypeInfo(dtype).float ? { float: fill } : fill },
    }],
  };
}

function eyeLike(context: KernelContext): Lowered {
  const { shape } = outputOf(context);
  const expression = "i1 - i0 == k ? 1 : 0", params = { k: intOf(context.attributes, "k") ?? 0 };
  return { steps: [{ kind: "map", shape, reads: [], write: whole(output(context), shape), expression, params }] };
}

/** All lowerings that move, by op. */
export const MOVES: Readonly<Record<string, Lowering>> = {
  Concat: concat,
  ConstantOfShape: constantOfShape,
  Expand: expand,
  EyeLike: eyeLike,
  Flatten: alias,
  OneHot: oneHot,
  Pad: pad,
  Range: range,
  Reshape: alias,
  Slice: slice,
  Split: split,
  Squeeze: alias,
  Tile: tile,
  Transpose: transpose,
  Trilu: trilu,
  Unsqueeze: alias,
};
