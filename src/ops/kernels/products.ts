/** Matrix products: cuBLAS where the batch is regular, sums over rows for the rest. */
import { floatOf, intOf } from "../../graph/attributes.ts";
import { dtypeInfo } from "../../core/dtype.ts";
import { broadcast, count, input, inputOf, output, outputOf, stridesOf, unknownForm, whole } from "./access.ts";
import { withEpilogue } from "./epilogue.ts";
import type { Access, GemmStep, KernelContext, KernelStep, Lowered, Lowering, Matrix, Operand } from "./kernel.ts";

/** A tensor as a batch of matrices: dims of the batch, rows and columns. */
interface Batch {
  readonly operand: Operand;
  readonly lead: readonly number[];
  readonly rows: number;
  readonly columns: number;
  /** Elements from one row to the next; `columns` by default. */
  readonly stride?: number;
  /** Elements from one matrix to the next; `rows · stride` by default. */
  readonly pitch?: number;
}

function batchOf(operand: Operand, shape: readonly number[], strides?: readonly number[]): Batch {
  const batch = { operand, lead: shape.slice(0, -2), rows: shape.at(-2)!, columns: shape.at(-1)! };
  return strides && shape.length > 1
    ? { ...batch, stride: strides.at(-2)!, ...(shape.length > 2 ? { pitch: strides.at(-3)! } : {}) }
    : batch;
}

function matrix({ operand, columns, stride = columns }: Batch, transposed = false): Matrix {
  return { operand, offset: 0, stride, batch: 0, transposed };
}

/**
 * `c = alpha · a · b` over batches that broadcast. Where `b` is one matrix, all rows of `a` are one product; where batches step evenly it is
 * one batched product; else one for each index of the dims in which a and b differ.
 */
export function matmulSteps(
  [a, b, c]: readonly [Batch, Batch, Batch],
  { transposeA = false, transposeB = false, alpha = 1, beta = 0 }: {
    readonly transposeA?: boolean;
    readonly transposeB?: boolean;
    readonly alpha?: number;
    readonly beta?: number;
  } = {},
): KernelStep[] {
  const m = transposeA ? a.columns : a.rows, k = transposeA ? a.rows : a.columns;
  const n = transposeB ? b.rows : b.columns;
  const lead = c.lead, batches = count(lead);
  if (batches * m * n === 0) return [];
  const step = { kind: "gemm" as const, n, k, alpha, beta };
  const am = matrix(a, transposeA), bm = matrix(b, transposeB), cm = matrix(c);
  const isDense = ({ rows, columns, stride = columns, pitch = rows * stride }: Batch) => pitch === rows * stride;
  if (count(b.lead) === 1 && count(a.lead) === batches && !transposeA && (batches === 1 || isDense(a))) {
    return [{ ...step, m: batches * m, batches: 1, a: am, b: bm, c: cm }];
  }
  const pitch = (x: Batch) => x.pitch ?? x.rows * (x.stride ?? x.columns);
  const sizes = { a: pitch(a), b: pitch(b), c: m * n };
  const own = (batch: Batch, size: number): number[] => {
    const strides = stridesOf(batch.lead), skip = lead.length - batch.lead.length;
    return lead.map((_, d) => (d < skip || batch.lead[d - skip] === 1 ? 0 : strides[d - skip]! * size));
  };
  const strides = { a: own(a, sizes.a), b: own(b, sizes.b), c: stridesOf(lead).map((s) => s * sizes.c) };
  // The longest tail of batch dims over which all three step evenly.
  let first = lead.length;
  const even = (s: readonly number[], from: number) => {
    const moving = lead.map((size, d) => ({ size, stride: s[d]! })).slice(from).filter((x) => x.size > 1);
    return moving.every((x, i) => i === moving.length - 1 || x.stride === moving[i + 1]!.size * moving[i + 1]!.stride);
  };
  while (first > 0 && even(strides.a, first - 1) && even(strides.b, first - 1)) first--;
  const inner = lead.slice(first), outer = lead.slice(0, first);
  const evenly = (s: readonly number[]) => s.slice(first).filter((_, i) => inner[i]! > 1).at(-1) ?? 0;
  return Array.from({ length: count(outer) }, (_, index): GemmStep => {
    const offset = (s: readonly number[]) => {
      let rest = index, sum = 0;
      for (let d = outer.length - 1; d >= 0; d--) {
        sum += (rest % outer[d]!) * s[d]!;
        rest = Math.floor(rest / outer[d]!);
      }
      return sum;
    };
    return {
      ...step,
      m,
      batches: count(inner),
      a: { ...am, offset: offset(strides.a), batch: evenly(strides.a) },
      b: { ...bm, offset: offset(strides.b), batch: evenly(strides.b) },
      c: { ...cm, offset: offset(strides.c), batch: evenly(strides.c) },
    };
  });
}

function requireFloat(context: KernelContext): void {
  const { dtype } = inputOf(context, 0);
  if (!dtypeInfo(dtype).float) throw unknownForm(context, `products of ${dtype}`);
}

/** `MatMul` of inputs 0 and 1: a vector is a matrix of one row (at the left) or one column. */
export function matmul(context: KernelContext, flags: { a?: boolean; b?: boolean; alpha?: number } = {}): Lowered {
  requireFloat(context);
  const { shape: left, strides: own } = inputOf(context, 0), { shape: right, strides: other } = inputOf(context, 1);
  const to = outputOf(context).shape;
  const a = left.length === 1 ? [1, ...left] : left, b = right.length === 1 ? [...right, 1] : right;
  const lead = to.slice(0, to.length - (left.length > 1 ? 1 : 0) - (right.length > 1 ? 1 : 0));
  const rows = flags.a ? a.at(-1)! : a.at(-2)!, columns = flags.b ? b.at(-2)! : b.at(-1)!;
  return {
    steps: matmulSteps([
      batchOf(input(context, 0), a, own),
      batchOf(input(context, 1), b, other),
      { operand: output(context), lead, rows, columns },
    ], { transposeA: flags.a ?? false, transposeB: flags.b ?? false, alpha: flags.alpha ?? 1 }),
  };
}

function fusedMatmul(context: KernelContext): Lowered {
  const { attributes } = context;
  if (intOf(attributes, "transBatchA") || intOf(attributes, "transBatchB")) throw unknownForm(context, "transBatch");
  return matmul(context, {
    a: intOf(attributes, "transA") === 1,
    b: intOf(attributes, "transB") === 1,
    alpha: floatOf(attributes, "alpha") ?? 1,
  });
}

function gemm(context: KernelContext): Lowered {
  requireFloat(context);
  const { attributes } = context, to = outputOf(context).shape;
  const beta = floatOf(attributes, "beta") ?? 1, c = context.inputs[2];
  const bias: KernelStep[] = c
    ? [{
      kind: "map",
      shape: to,
      reads: [broadcast(input(context, 2), c.shape, to)],
      write: whole(output(context), to),
      expression: "x0",
    }]
    : [];
  const sizes = c?.shape ?? [], columns = to.at(-1)!;
  const isBias = c && beta === 1 && sizes.at(-1) === columns && count(sizes) === columns;
  const product = matmulSteps([
    batchOf(input(context, 0), inputOf(context, 0).shape),
    batchOf(input(context, 1), inputOf(context, 1).shape),
    batchOf(output(context), to),
  ], {
    transposeA: intOf(attributes, "transA") === 1,
    transposeB: intOf(attributes, "transB") === 1,
    alpha: floatOf(attributes, "alpha") ?? 1,
    beta: c ? beta : 0,
  });
  const fused = isBias ? withEpilogue(product, { bias: input(context, 2) }) : undefined;
  return { steps: fused ? [fused] : [...bias, ...product] };
}

/** `Σ (a - a0) · (b - b0)` in integers; zero points of a per row or for all, of b per column or for all. */
function matmulInteger(context: KernelContext): Lowered {
  const a = inputOf(context, 0).shape, b = inputOf(context, 1).shape, to = outputOf(context).shape;
  const k = a.at(-1)!, own = stridesOf(a), last = to.length - 1, rowDim = last - 1, other = stridesOf(b);
  const skip = to.length - b.length;
  const reads: Access[] = [
    { operand: input(context, 0), offset: 0, strides: [...own.slice(0, -1), 0, 1] },
    {
      operand: input(context, 1),
      offset: 0,
      strides: [...to.map((_, d) => (d === last ? 1 : d < skip || d === rowDim ? 0 : other[d - skip]!)), other.at(-2)!],
    },
  ];
  const zero = (index: number, dim: number): string => {
    const tensor = context.inputs[index];
    if (!tensor) return "";
    const each = count(tensor.shape) > 1;
    reads.push({
      operand: input(context, index),
      offset: 0,
      strides: [...to.map((_, d) => (each && d === dim ? 1 : 0)), 0],
    });
    return ` - x${reads.length - 1}`;
  };
  const value = `(x0${zero(2, rowDim)}) * (x1${zero(3, last)})`;
  return {
    steps: [{
      kind: "rows",
      outer: to,
      inner: [k],
      reads,
      reductions: [{ name: "r", init: "0", combine: "a + b", value }],
      writes: [{
        access: { operand: output(context), offset: 0, strides: [...stridesOf(to), 0] },
        expression: "r",
        each: false,
      }],
    }],
  };
}

/** All lowerings of products, by op. */
export const PRODUCTS: Readonly<Record<string, Lowering>> = {
  Gemm: gemm,
  MatMul: (context) => matmul(context),
  MatMulInteger: matmulInteger,
  "com.microsoft.FusedMatMul": fusedMatmul,
};
