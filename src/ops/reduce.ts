/** Reductions over dims. Source: ONNX ReduceSum-13 (`axes` as input), the others from 18; attributes before. */
import { type Dim, dimMul } from "../core/dim.ts";
import { int, intOf, ints as intsAttribute } from "../graph/attributes.ts";
import type { Reduction } from "../graph/placement.ts";
import type { InferContext, LocalizeContext, OpDef, TypedContext } from "./def.ts";
import { isFloat } from "./elementwise.ts";
import { at, type Factor } from "./factors.ts";
import { INT_FUNCTIONS, isIntegral, knownVector } from "./known_ints.ts";
import { axesOf, emitUnchanged, normalizeAxis, unknownShape } from "./shapes.ts";

interface Row {
  /** How results of shards combine; absent where they do not. */
  readonly reduce?: Reduction;
  readonly linear?: true;
  /** Integer function of two contents. */
  readonly fold?: string;
}

const ROWS: Readonly<Record<string, Row>> = {
  ReduceSum: { reduce: "sum", linear: true, fold: "Add" },
  ReduceMean: { reduce: "sum", linear: true },
  ReduceMax: { reduce: "max", fold: "Max" },
  ReduceMin: { reduce: "min", fold: "Min" },
  ReduceProd: { fold: "Mul" },
  ReduceSumSquare: { reduce: "sum" },
  ReduceL1: { reduce: "sum" },
  ReduceL2: {},
  ReduceLogSum: {},
  ReduceLogSumExp: {},
};

/** The reduced dims, or undefined where only data tells. */
function reducedDims(context: InferContext | TypedContext): readonly number[] | undefined {
  const rank = context.inputs[0]?.shape?.length;
  const axes = axesOf(context, 1);
  if (rank === undefined || axes === undefined) return undefined;
  if (axes !== "none" && axes.length > 0) return axes.map((a) => normalizeAxis(a, rank));
  const all = Array.from({ length: rank }, (_, i) => i);
  return intOf(context.attributes, "noop_with_empty_axes") === 1 ? [] : all;
}

function keepsDims(context: InferContext | TypedContext): boolean {
  return (intOf(context.attributes, "keepdims") ?? 1) === 1;
}

/** All reductions. */
export function reduceOps(): OpDef[] {
  return Object.entries(ROWS).map(([op, row]): OpDef => ({
    op,
    domain: "",
    since: 11,
    inputs: ["data", "axes"],
    infer: (context) => inferReduce(context, row),
    factors: (context) => ({
      factors: reduceFactors(context, op, row),
      ...(row.linear && sumsUp(op, context) ? { linear: [[0]] } : {}),
    }),
    flops: ({ inputs }) => (inputs[0]!.shape ?? []).reduce<Dim>(dimMul, 1),
    ...(op === "ReduceMean" ? { localize: localizeMean } : {}),
    examples: examplesOf(op),
  }));
}

function inferReduce(context: InferContext, row: Row) {
  const [x] = context.inputs;
  const dims = reducedDims(context);
  if (!x?.shape || !dims) return [unknownShape(x)];
  const keep = keepsDims(context);
  const shape = x.shape.flatMap((d, i): Dim[] => (!dims.includes(i) ? [d] : keep ? [1] : []));
  const type = { dtype: x.dtype, shape };
  const content = context.ints[0], fold = row.fold && INT_FUNCTIONS[row.fold];
  if (!content || !fold || !isIntegral(x.dtype) || content.dims.length !== 1 || dims.length !== 1) return [type];
  const [first, ...rest] = content.elements;
  const value = rest.reduce<Dim | undefined>((a, b) => (a === undefined ? a : fold(a, b)), first);
  if (value === undefined) return [type];
  return [{ ...type, ints: keep ? knownVector([value])! : { dims: [], elements: [value] } }];
}

function reduceFactors(context: TypedContext, op: string, row: Row): Factor[] {
  const shape = context.inputs[0]?.shape;
  const dims = reducedDims(context);
  if (!shape || !dims) return [];
  const keep = keepsDims(context);
  let to = 0;
  return shape.flatMap((size, dim): Factor[] => {
    const inputs = context.inputs.map((_, i) => (i === 0 ? at(dim) : null));
    if (!dims.includes(dim)) return size === 1 ? (to++, []) : [{ name: `d${dim}`, size, inputs, outputs: [at(to++)] }];
    if (keep) to++;
    // A mean divides by the size of the whole dim: it has to be known where shards are summed.
    const whole = dims.every((d) => typeof shape[d] === "number");
    if (size === 1 || !row.reduce || (op === "ReduceMean" && !whole) || !sumsUp(op, context)) return [];
    return [{ name: `r${dim}`, size, inputs, outputs: [null], reduce: row.reduce }];
  });
}

/** Whether results of parts combine exactly: a mean of integers is rounded. */
function sumsUp(op: string, { inputs }: TypedContext): boolean {
  return op !== "ReduceMean" || isFloat(inputs[0]?.dtype);
}

/** The mean over a sharded dim: each rank's sum divided by the whole count, so that the results add up. */
function localizeMean(context: LocalizeContext): readonly string[] {
  const [x] = context.inputTensors;
  const dims = reducedDims(context), shape = x?.type.shape;
  if (x?.placement.kind !== "S" || !dims?.includes(x.placement.dim) || !shape) return emitUnchanged(context);
  const count = dims.reduce((n, d) => n * (shape[d] as number), 1);
  const { emit, names } = context;
  const keepdims = int(keepsDims(context) ? 1 : 0);
  const sum = context.opset >= 13
    ? emit.op("ReduceSum", [names[0]!, emit.sizes(dims)], { keepdims })
    : emit.op("ReduceSum", [names[0]!], { keepdims, axes: intsAttribute(dims) });
  return [emit.op("Div", [sum, emit.scalar(x.type.dtype!, count)])];
}

function examplesOf(op: string): OpDef["examples"] {
  const x = { dtype: "f32", shape: [2, 3, 4] } as const;
  const opset = op === "ReduceSum" ? 13 : 18;
  const axes = (values: number[]) => ({
    inputs: [x, { dtype: "i64" as const, shape: [values.length] }],
    constants: { 1: values },
    opset,
  });
  return [
    { inputs: [x], opset },
    axes([-1]),
    { ...axes([0, 2]), attributes: { keepdims: int(0) } },
    { inputs: [x], attributes: { axes: intsAttribute([1]), keepdims: int(0) }, opset: 11 },
  ];
}
