/** Concat and Split. Source: ONNX Concat-13, Split-18 (`num_outputs`), Split-13 (`split` as input), Split-11. */
import { type Dim, dimAdd } from "../core/dim.ts";
import { ShapeError } from "../core/errors.ts";
import { int, intOf, ints as intsAttribute, intsOf } from "../graph/attributes.ts";
import { isStateDim } from "./carried.ts";
import type { InferContext, OpDef, TypedContext } from "./def.ts";
import { at, type Factor, type FactorRule } from "./factors.ts";
import { isIntegral, known } from "./known_ints.ts";
import { movedNumbers, numbersAlong, type RowNumber, type RowNumbers, type RowsContext } from "./rows.ts";
import { emitUnchanged, normalizeAxis, unifyDim, unknownShape } from "./shapes.ts";
import { otherDims } from "./windows.ts";

export const CONCAT: OpDef = {
  op: "Concat",
  domain: "",
  since: 11,
  inputs: ["...inputs"],
  infer: (context) => {
    const { inputs } = context;
    const first = inputs[0]!;
    if (inputs.some((i) => !i?.shape)) return [unknownShape(first)];
    const shapes = inputs.map((i) => i!.shape!);
    const rank = shapes[0]!.length;
    const axis = normalizeAxis(intOf(context.attributes, "axis") ?? 0, rank);
    if (shapes.some((s) => s.length !== rank)) {
      throw new ShapeError(`Cannot concatenate ${shapes.map((s) => `[${s}]`).join(" and ")}: their ranks differ`);
    }
    const shape = shapes.reduce((a, b) => a.map((d, i) => (i === axis ? dimAdd(d, b[i]!) : unifyConcat(d, b[i]!, i))));
    const ints = rank === 1 && isIntegral(first.dtype) ? concatKnown(context) : undefined;
    return [{ dtype: first.dtype, shape, ...(ints ? { ints } : {}) }];
  },
  factors: (context) => {
    const { inputs, outputs } = context;
    const shape = outputs[0]?.shape;
    const linear = [inputs.map((_, i) => i)];
    if (!shape || inputs.some((i) => !i?.shape)) return { factors: [], linear };
    const axis = normalizeAxis(intOf(context.attributes, "axis") ?? 0, shape.length);
    const arity = { inputs: inputs.length, outputs: 1, data: linear[0]! };
    return { factors: [...otherDims(shape, axis, arity), ...concatWindows(context, axis)], linear };
  },
  numbers: joinedNumbers,
  carries: (context) => {
    const axis = intOf(context.attributes, "axis") ?? 0;
    return isStateDim(context, axis) ? [[0, 0]] : [];
  },
  examples: [
    { inputs: [{ dtype: "f32", shape: [2, 3] }, { dtype: "f32", shape: [2, 4] }], attributes: { axis: int(1) } },
    { inputs: [{ dtype: "f32", shape: [2, 3] }, { dtype: "f32", shape: [1, 3] }], attributes: { axis: int(0) } },
    { inputs: [{ dtype: "f32", shape: [2, 3, 4] }, { dtype: "f32", shape: [2, 3, 4] }], attributes: { axis: int(-1) } },
  ],
};

/** Dims beside the axis must agree; only numbers can be told to differ. */
function unifyConcat(x: Dim, y: Dim, dim: number): Dim {
  if (typeof x === "number" && typeof y === "number" && x !== y) {
    throw new ShapeError(`Cannot concatenate sizes ${x} and ${y} in dim ${dim}: only the axis may differ`);
  }
  return unifyDim(x, y);
}

/** The contents of all operands; one that is not known but has a known size stands for data-dependent sizes. */
function concatKnown(context: InferContext) {
  const elements: Dim[] = [];
  if (!context.ints.some((i) => i !== undefined)) return undefined;
  for (let i = 0; i < context.inputs.length; i++) {
    const content = context.ints[i];
    const size = context.inputs[i]!.shape![0];
    if (content) elements.push(...content.elements);
    else if (typeof size === "number" && size <= 8) {
      for (let k = 0; k < size; k++) elements.push(context.fresh(`concat_${elements.length}`));
    } else return undefined;
  }
  return known([elements.length], elements);
}

/** Coordinates: numbers of tensors of a known size along the axis, one after the other. */
function joinedNumbers(context: RowsContext): readonly (RowNumbers | undefined)[] {
  const { inputs, facts, attributes, outputs } = context, rank = outputs[0]?.shape?.length ?? 0;
  const axis = normalizeAxis(intOf(attributes, "axis") ?? 0, rank);
  const of: (RowNumber | undefined)[] = [];
  for (const [i, input] of inputs.entries()) {
    const size = input!.shape?.[axis], numbers = facts[i]!.numbers;
    if (typeof size !== "number" || (numbers?.along !== undefined && numbers.along !== axis)) return [undefined];
    for (let k = 0; k < size; k++) of.push(numbers?.along === undefined ? numbers?.of[0] : numbers.of[k]);
  }
  return [numbersAlong(axis, of, of.length)];
}

function concatWindows({ inputs }: TypedContext, axis: number): Factor[] {
  const factors: Factor[] = [];
  let offset = 0;
  const sizes = inputs.map((i) => i!.shape![axis]!);
  if (sizes.some((s) => typeof s !== "number")) return [];
  (sizes as number[]).forEach((size, which) => {
    if (size > 0) {
      factors.push({
        name: `w${offset}`,
        size,
        inputs: inputs.map((_, i) => (i === which ? at(axis) : null)),
        outputs: [at(axis, { offset })],
      });
    }
    offset += size;
  });
  return factors;
}

/** The sizes of the outputs of a Split along its axis. */
function splitSizes(context: InferContext | TypedContext, size: Dim, outputs: number): Dim[] | undefined {
  const attribute = intsOf(context.attributes, "split");
  if (attribute) return [...attribute];
  if (context.inputs[1]) {
    const content = context.ints[1];
    return content ? [...content.elements] : undefined;
  }
  if (typeof size !== "number") return undefined;
  const each = Math.ceil(size / outputs);
  return Array.from({ length: outputs }, (_, i) => Math.max(0, Math.min(each, size - i * each)));
}

function splitFactors(context: TypedContext): FactorRule {
  const { inputs, outputs } = context;
  const shape = inputs[0]?.shape;
  if (!shape) return { factors: [], linear: [[0]] };
  const axis = normalizeAxis(intOf(context.attributes, "axis") ?? 0, shape.length);
  const arity = { inputs: inputs.length, outputs: outputs.length };
  const factors = otherDims(shape, axis, arity);
  const sizes = splitSizes(context, shape[axis]!, outputs.length);
  if (sizes?.every((s) => typeof s === "number")) {
    let offset = 0;
    (sizes as number[]).forEach((size, which) => {
      if (size > 0) {
        factors.push({
          name: `w${offset}`,
          size,
          inputs: inputs.map((_, i) => (i === 0 ? at(axis, { offset }) : null)),
          outputs: outputs.map((_, o) => (o === which ? at(axis) : null)),
        });
      }
      offset += size;
    });
  }
  return { factors, linear: [[0]] };
}

export const SPLIT: OpDef = {
  op: "Split",
  domain: "",
  since: 11,
  inputs: ["input", "split"],
  infer: (context) => {
    const [x] = context.inputs;
    const none = Array.from({ length: context.outputCount }, () => unknownShape(x));
    if (!x?.shape) return none;
    const axis = normalizeAxis(intOf(context.attributes, "axis") ?? 0, x.shape.length);
    const sizes = splitSizes(context, x.shape[axis]!, context.outputCount) ??
      Array.from({ length: context.outputCount }, (_, i) => context.fresh(`split_${i}`));
    const total = sizes.reduce(dimAdd, 0);
    if (typeof total === "number" && typeof x.shape[axis] === "number" && total !== x.shape[axis]) {
      throw new ShapeError(`Cannot split dim ${axis} of [${x.shape}] into [${sizes}]: they add up to ${total}`);
    }
    const content = context.ints[0];
    let start = 0;
    return sizes.map((s) => {
      const type = { dtype: x.dtype, shape: x.shape!.map((d, i) => (i === axis ? s : d)) };
      if (!content || content.dims.length !== 1 || typeof s !== "number") return type;
      const ints = { dims: [s], elements: content.elements.slice(start, start += s) };
      return { ...type, ints };
    });
  },
  factors: splitFactors,
  numbers: (context) => movedNumbers(context, splitFactors(context).factors),
  shapedBy: [1],
  localize: (context) => {
    const shape = context.inputs[0]?.shape;
    if (!shape) return emitUnchanged(context);
    const axis = normalizeAxis(intOf(context.attributes, "axis") ?? 0, shape.length);
    const placement = context.inputTensors[0]?.placement;
    const sizes = context.outputTensors.map((o) => o?.localShape?.[axis]);
    if (placement?.kind !== "S" || placement.dim !== axis || sizes.some((s) => s === undefined)) {
      return emitUnchanged(context);
    }
    const { emit, names, node, opset } = context;
    const outputs = node.outputs.length;
    if (opset < 13) {
      const split = intsAttribute(sizes as number[]);
      return emit.ops("Split", [names[0]!], { axis: int(axis), split }, { outputs });
    }
    return emit.ops("Split", [names[0]!, emit.sizes(sizes as Dim[])], { axis: int(axis) }, { outputs });
  },
  examples: [
    {
      inputs: [{ dtype: "f32", shape: [2, 12] }, { dtype: "i64", shape: [3] }],
      constants: { 1: [6, 3, 3] },
      attributes: { axis: int(-1) },
      outputs: 3,
      opset: 13,
    },
    { inputs: [{ dtype: "f32", shape: [2, 6] }], attributes: { axis: int(1) }, outputs: 2, opset: 13 },
    {
      inputs: [{ dtype: "f32", shape: [7, 2] }],
      attributes: { axis: int(0), num_outputs: int(3) },
      outputs: 3,
      opset: 18,
    },
  ],
};
