/** Ops that reduce: sums, softmax, searches. One row is what is reduced together. */
import { intOf, intsOf as intsAttribute } from "../../graph/attributes.ts";
import { dtypeInfo } from "../../core/dtype.ts";
import { axisOf, count, input, inputOf, intsOf, output, stridesOf, unknownForm, whole } from "./access.ts";
import type { Access, KernelContext, Lowered, Lowering, Reduction, RowsStep } from "./kernel.ts";

/** The parts of a shape that stay and that are reduced, and how to reach elements of a tensor of it. */
interface Parted {
  readonly outer: readonly number[];
  readonly inner: readonly number[];
  /** Over outer dims, then inner ones. */
  readonly strides: readonly number[];
}

function parted(shape: readonly number[], reduced: readonly number[]): Parted {
  const dims = shape.map((_, d) => d), own = stridesOf(shape);
  const outer = dims.filter((d) => !reduced.includes(d)), inner = dims.filter((d) => reduced.includes(d));
  return {
    outer: outer.map((d) => shape[d]!),
    inner: inner.map((d) => shape[d]!),
    strides: [...outer, ...inner].map((d) => own[d]!),
  };
}

/** An access to one element a row, in the order of the rows. */
export function perRow(operand: Access["operand"], { outer, inner }: Pick<Parted, "outer" | "inner">): Access {
  return { operand, offset: 0, strides: [...stridesOf(outer), ...inner.map(() => 0)] };
}

/** A sum, without what is summed. */
export const SUM = { init: "0", combine: "a + b" };
const FLOAT_MAX = { init: "-INFINITY", combine: "f_max(a, b)" };

interface Reduce {
  readonly reduction: (isFloat: boolean) => Omit<Reduction, "name">;
  readonly result: string;
}

const plain = (value: string, result = "r"): Reduce => ({ reduction: () => ({ ...SUM, value }), result });
const LOWEST = "-0x7fffffffffffffffLL - 1", HIGHEST = "0x7fffffffffffffffLL";

const REDUCTIONS: Readonly<Record<string, Reduce>> = {
  ReduceSum: plain("x0"),
  ReduceMean: plain("x0", "r / (count)"),
  ReduceSumSquare: plain("x0 * x0"),
  ReduceL1: plain("x0 < 0 ? -x0 : x0"),
  ReduceL2: plain("x0 * x0", "f_sqrt(r)"),
  ReduceLogSum: plain("x0", "f_log(r)"),
  ReduceProd: { reduction: () => ({ init: "1", combine: "a * b", value: "x0" }), result: "r" },
  ReduceMax: {
    reduction: (float) => ({ init: float ? "-INFINITY" : LOWEST, combine: "f_max(a, b)", value: "x0" }),
    result: "r",
  },
  ReduceMin: {
    reduction: (float) => ({ init: float ? "INFINITY" : HIGHEST, combine: "f_min(a, b)", value: "x0" }),
    result: "r",
  },
};

function reducedDims(context: KernelContext): number[] {
  const { shape } = inputOf(context, 0);
  const axes = intsAttribute(context.attributes, "axes") ?? (context.inputs[1] ? intsOf(context, 1) : []);
  if (axes.length > 0) return axes.map((a) => axisOf(a, shape.length));
  return intOf(context.attributes, "noop_with_empty_axes") === 1 ? [] : shape.map((_, d) => d);
}

function reduce(context: KernelContext, { reduction, result }: Reduce): Lowered {
  const { shape, dtype } = inputOf(context, 0), { float } = dtypeInfo(dtype);
  const parts = parted(shape, reducedDims(context)), how = reduction(float);
  // Of booleans too, the neutral element is an integer.
  const value = dtype === "bool" ? how.value.replaceAll("x0", "(long long)x0") : how.value;
  return {
    steps: [{
      kind: "rows",
      ...parts,
      reads: [{ operand: input(context, 0), offset: 0, strides: parts.strides }],
      reductions: [{ name: "r", ...how, value }],
      writes: [{ access: perRow(output(context), parts), expression: result, each: false }],
      params: { count: float ? { float: count(parts.inner) } : count(parts.inner) },
    }],
  };
}

/** log Σ exp, with the largest element taken out. */
function logSumExp(context: KernelContext): Lowered {
  const parts = parted(inputOf(context, 0).shape, reducedDims(context));
  return {
    steps: [{
      kind: "rows",
      ...parts,
      reads: [{ operand: input(context, 0), offset: 0, strides: parts.strides }],
      reductions: [{ name: "m", ...FLOAT_MAX, value: "x0" }, { name: "s", ...SUM, value: "f_exp(x0 - m)" }],
      writes: [{ access: perRow(output(context), parts), expression: "m + f_log(s)", each: false }],
    }],
  };
}

/** The steps of a softmax over `inner`, of elements given by `value`. */
export function softmaxRows(
  rows: Pick<RowsStep, "outer" | "inner" | "reads" | "params">,
  write: Access,
  { value = "x0", log = false }: { readonly value?: string; readonly log?: boolean } = {},
): RowsStep {
  // A row of -∞ alone is a row of zeros: nothing is attended to.
  const shifted = `f_exp((${value}) - m)`;
  return {
    kind: "rows",
    ...rows,
    reductions: [{ name: "m", ...FLOAT_MAX, value }, {
      name: "s",
      ...SUM,
      value: `m == -INFINITY ? 0.f : ${shifted}`,
    }],
    writes: [{
      access: write,
      expression: log ? `(${value}) - m - f_log(s)` : `m == -INFINITY ? 0.f : ${shifted} / s`,
      each: true,
    }],
  };
}

function softmax(context: KernelContext, log: boolean): Lowered {
  const { shape } = inputOf(context, 0), coerced = context.opset < 13;
  const axis = axisOf(intOf(context.attributes, "axis") ?? (coerced ? 1 : -1), shape.length);
  const parts = parted(shape, shape.map((_, d) => d).filter((d) => (coerced ? d >= axis : d === axis)));
  const at = (operand: Access["operand"]): Access => ({ operand, offset: 0, strides: parts.strides });
  return { steps: [softmaxRows({ ...parts, reads: [at(input(context, 0))] }, at(output(context)), { log })] };
}

/** The first (or last) index of the largest or smallest element. */
function argOf(context: KernelContext, better: ">" | "<"): Lowered {
  const { shape, dtype } = inputOf(context, 0), axis = axisOf(intOf(context.attributes, "axis") ?? 0, shape.length);
  const parts = parted(shape, [axis]), { float } = dtypeInfo(dtype);
  const last = intOf(context.attributes, "select_last_index") === 1;
  const best = float
    ? { init: better === ">" ? "-INFINITY" : "INFINITY" }
    : { init: better === ">" ? LOWEST : HIGHEST };
  return {
    steps: [{
      kind: "rows",
      ...parts,
      reads: [{ operand: input(context, 0), offset: 0, strides: parts.strides }],
      reductions: [
        { name: "best", ...best, combine: better === ">" ? "f_max(a, b)" : "f_min(a, b)", value: "x0" },
        {
          name: "where",
          init: last ? "-1LL" : HIGHEST,
          combine: last ? "f_max(a, b)" : "f_min(a, b)",
          value: `x0 == best ? (long long)r0 : ${last ? "-1LL" : HIGHEST}`,
        },
      ],
      writes: [{ access: perRow(output(context), parts), expression: "where", each: false }],
    }],
  };
}

/** Each element's rank among its row is a count of those before it; the first k are written where they belong. */
function topK(context: KernelContext): Lowered {
  const { shape, dtype } = inputOf(context, 0), axis = axisOf(intOf(context.attributes, "axis") ?? -1, shape.length);
  const k = intsOf(context, 1)[0]!, size = shape[axis]!;
  const largest = (intOf(context.attributes, "largest") ?? 1) === 1 ? ">" : "<";
  const own = stridesOf(shape), to = stridesOf(shape.with(axis, k));
  const scratch = { of: "scratch", index: 0, dtype: "i64" } as const;
  const rank: RowsStep = {
    kind: "rows",
    outer: shape,
    inner: [size],
    reads: [
      { operand: input(context, 0), offset: 0, strides: [...own, 0] },
      { operand: input(context, 0), offset: 0, strides: [...own.with(axis, 0), own[axis]!] },
    ],
    reductions: [{
      name: "before",
      init: "0LL",
      combine: "a + b",
      value: `(long long)(x1 ${largest} x0 || (x1 == x0 && r0 < i${axis}))`,
    }],
    writes: [{ access: { operand: scratch, offset: 0, strides: [...own, 0] }, expression: "before", each: false }],
  };
  const place = (index: number, expression: string) =>
    context.outputs[index]
      ? [{
        kind: "map" as const,
        shape,
        reads: [whole(input(context, 0), shape), whole(scratch, shape)],
        write: { operand: output(context, index), offset: 0, strides: to.with(axis, 0) },
        expression,
        target: "o + (long long)x1 * stride",
        when: "x1 < k",
        params: { k, stride: to[axis]! },
      }]
      : [];
  if (!dtypeInfo(dtype).float && !dtype.startsWith("i")) throw unknownForm(context, `dtype ${dtype}`);
  return { steps: [rank, ...place(0, "x0"), ...place(1, `i${axis}`)], scratch: [{ dtype: "i64", shape }] };
}

/** All lowerings that reduce, by op. */
export const ROWS: Readonly<Record<string, Lowering>> = {
  ...Object.fromEntries(
    Object.entries(REDUCTIONS).map(([op, how]) => [op, (c: KernelContext) => reduce(c, how)] as const),
  ),
  ReduceLogSumExp: logSumExp,
  Softmax: (c) => softmax(c, false),
  LogSoftmax: (c) => softmax(c, true),
  ArgMax: (c) => argOf(c, ">"),
  ArgMin: (c) => argOf(c, "<"),
  TopK: topK,
};
