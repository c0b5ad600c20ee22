/**
 * Products with weights of a few bits, in blocks that share a scale. Source: com.microsoft.MatMulNBits, ContribOperators.md.
 *
 * Few rows, as in decoding: the time is that of reading the weights, so they are restored in registers as they are read (`vectorProduct`).
 * Many rows: the time is that of multiplying, so they are restored once, some columns at a time, for cuBLAS's tensor cores.
 */
import { intOf } from "../../graph/attributes.ts";
import type { DType } from "../../core/dtype.ts";
import { broadcast, count, input, inputOf, output, outputOf, unknownForm, whole } from "./access.ts";
import type {
  Access,
  CodeStep,
  KernelContext,
  KernelStep,
  Lowered,
  Lowering,
  MapStep,
  Operand,
  Pointer,
} from "./kernel.ts";
import { bitsAt } from "./packed.ts";

/** Rows of `b[n,k]` as bytes: element j of row i is the j-th of its `bits`, block j / `block` has a scale and a zero point. */
export interface BlockedWeight {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly block: number;
  readonly data: Operand;
  readonly scales: Operand;
  /** Packed like data, each row beginning with a byte, or of the scales' dtype; half the range by default. */
  readonly zeros?: Operand | undefined;
  /** The block of each column, where it is not the column's own. */
  readonly groups?: Operand | undefined;
}

const blocksOf = (w: BlockedWeight) => Math.ceil(w.columns / w.block);
const bytesOf = (w: BlockedWeight) => (blocksOf(w) * w.block * w.bits) / 8;
const zeroBytesOf = (w: BlockedWeight) => Math.ceil((blocksOf(w) * w.bits) / 8);

/** Restores rows `[first, first + count)` into `to`, contiguous `[count, columns]`; any form, an element a thread. */
function restoredOneByOne(w: BlockedWeight, first: number, rows: number, to: Operand): MapStep {
  const perByte = 8 / w.bits,
    none = [0, 0],
    blocks = blocksOf(w),
    reads: Access[] = [
      { operand: w.data, offset: 0, strides: none },
      { operand: w.scales, offset: 0, strides: none },
    ];
  if (w.groups) reads.push({ operand: w.groups, offset: 0, strides: [0, 1] });
  const block = w.groups ? "(long long)x2" : "i1 / block", row = "(i0 + first)";
  let zero = `${2 ** (w.bits - 1)}`;
  if (w.zeros) {
    const at = `p${reads.length}`, isPacked = w.zeros.dtype === "u8";
    reads.push({ operand: w.zeros, offset: 0, strides: none });
    zero = isPacked ? bitsAt(at, `${row} * zeroRow + ${block}`, w.bits) : `ld(${at}[${row} * blocks + ${block}])`;
  }
  const value = `((float)${bitsAt("p0", `${row} * dataRow + i1`, w.bits)} - (float)${zero})`;
  return {
    kind: "map",
    shape: [rows, w.columns],
    reads,
    write: whole(to, [rows, w.columns]),
    expression: `${value} * ld(p1[${row} * blocks + ${block}])`,
    params: { block: w.block, blocks, first, dataRow: bytesOf(w) * perByte, zeroRow: zeroBytesOf(w) * perByte },
  };
}

/** Statements that set `scale` and `zero` of block `block` of row `row`. */
function blockOf(w: BlockedWeight): string {
  const scale = `const float scale = ld(scales[row * blocks + block]);`;
  if (!w.zeros) return `${scale} const float zero = ${2 ** (w.bits - 1)}.f;`;
  const zero = w.zeros.dtype === "u8"
    ? bitsAt("zeros", `row * (zeroRow * ${8 / w.bits}) + block`, w.bits)
    : "ld(zeros[row * blocks + block])";
  return `${scale} const float zero = (float)${zero};`;
}

/** Expression: value `e` of a 32-bit word `word`, as a float. The exponent of 2^23 makes an integer of the mantissa's bits, which is faster than converting. */
const restoredValue = (bits: number) =>
  `(__uint_as_float(((word >> (${bits} * e)) & ${2 ** bits - 1}) | 0x4b000000u) - 8388608.f)`;

const pointersOf = (w: BlockedWeight): Record<string, Pointer> => ({
  data: { operand: w.data },
  scales: { operand: w.scales },
  ...(w.zeros ? { zeros: { operand: w.zeros } } : {}),
});

/** Whether rows can be read by words of 32 bits, each of one block. */
function isWide(w: BlockedWeight): boolean {
  return (w.bits === 4 || w.bits === 8) && !w.groups && w.block % 16 === 0 && w.columns % w.block === 0;
}

/** Like `restoredOneByOne`, a word a thread. */
function restoredByWords(w: BlockedWeight, first: number, rows: number, to: Operand): CodeStep {
  const values = 32 / w.bits, words = w.columns / values;
  return {
    kind: "code",
    body: `  for (long long at = blockIdx.x * 256LL + threadIdx.x; at < rows * words; at += gridDim.x * 256LL) {
    const long long row = at / words + first, column = at % words, block = column * ${values} / blockSize;
    ${blockOf(w)}
    const unsigned int word = ((const unsigned int*)data)[row * words + column];
    float value[${values}];
    #pragma unroll
    for (int e = 0; e < ${values}; e++) value[e] = (${restoredValue(w.bits)} - zero) * scale;
    #pragma unroll
    for (int e = 0; e < ${values}; e += 4) st4(y + at * ${values} + e, value + e);
  }
`,
    reads: pointersOf(w),
    writes: { y: { operand: to } },
    params: { rows, words, first, blockSize: w.block, blocks: blocksOf(w), zeroRow: zeroBytesOf(w) },
    blocks: Math.min(65_535, Math.ceil((rows * words) / 256)),
    threads: 256,
  };
}

/** Restores rows of a weight. */
export function restored(w: BlockedWeight, first: number, rows: number, to: Operand): KernelStep {
  return isWide(w) ? restoredByWords(w, first, rows, to) : restoredOneByOne(w, first, rows, to);
}

/** Warps of a block, and rows of the weight that a warp takes at once: they share what it reads of x. */
const WARPS = 4, TOGETHER = 2;

/** The weight of each row of x, where there are several: `experts[row]` counts weights. */
export interface Chosen {
  readonly experts: Operand;
  /** Rows of x for each choice: row r of the result reads row r / `times` of x. */
  readonly times: number;
}

/**
 * `y[r,n] = x[r,·] · w[n,·] (+ bias[n])` for few rows r: a warp has two rows of the weight, whose bytes its lanes read side by side, 16 each.
 * `dot` and `sum` are of one block, so that `Σ x (q - zero) scale` costs one multiplication by the scale.
 */
export function vectorProduct(
  w: BlockedWeight,
  o: {
    readonly x: Operand;
    readonly rows: number;
    readonly y: Operand;
    readonly bias?: Operand | undefined;
    readonly chosen?: Chosen;
  },
): CodeStep {
  // Rows that choose a weight each are apart, others share what is read of the one.
  const { chosen } = o, shared = chosen ? 1 : o.rows, values = 32 / w.bits;
  const words = w.block % (4 * values) === 0 ? 4 : 2, lanes = w.columns / (values * words);
  const body = `  const int lane = threadIdx.x & 31;
  const long long perRow = (n + ${TOGETHER - 1}) / ${TOGETHER}, units = perRow * ${chosen ? "chosenRows" : 1};
  for (long long unit = blockIdx.x * ${WARPS}LL + (threadIdx.x >> 5); unit < units; unit += gridDim.x * ${WARPS}LL) {
  const long long first = unit % perRow * ${TOGETHER}, r0 = unit / perRow;
  ${
    chosen
      ? "const long long expert = ld(experts[r0]), base = expert * n, from = r0 / times;"
      : "const long long base = 0, from = 0;"
  }
  float total[${TOGETHER}][${shared}];
  #pragma unroll
  for (int c = 0; c < ${TOGETHER}; c++) for (int r = 0; r < ${shared}; r++) total[c][r] = 0.f;
  for (long long part = lane; part < ${lanes}; part += 32) {
    unsigned int packed[${TOGETHER}][${words}];
    #pragma unroll
    for (int c = 0; c < ${TOGETHER}; c++) {
      const long long row = base + (first + c < n ? first + c : first);
      ldw<${words}>((const unsigned int*)data + (row * ${lanes} + part) * ${words}, packed[c]);
    }
    float dot[${TOGETHER}][${shared}], sum[${shared}];
    #pragma unroll
    for (int r = 0; r < ${shared}; r++) { sum[r] = 0.f; for (int c = 0; c < ${TOGETHER}; c++) dot[c][r] = 0.f; }
    #pragma unroll
    for (int i = 0; i < ${words}; i++) {
      float value[${TOGETHER}][${values}];
      #pragma unroll
      for (int c = 0; c < ${TOGETHER}; c++) {
        const unsigned int word = packed[c][i];
        #pragma unroll
        for (int e = 0; e < ${values}; e++) value[c][e] = ${restoredValue(w.bits)};
      }
      #pragma unroll
      for (int r = 0; r < ${shared}; r++) {
        float of[${values}];
        #pragma unroll
        for (int e = 0; e < ${values}; e += 4) ld4(x + (from + r) * ${w.columns} + (part * ${words} + i) * ${values} + e, of + e);
        #pragma unroll
        for (int e = 0; e < ${values}; e++) {
          sum[r] += of[e];
          #pragma unroll
          for (int c = 0; c < ${TOGETHER}; c++) dot[c][r] += of[e] * value[c][e];
        }
      }
    }
    #pragma unroll
    for (int c = 0; c < ${TOGETHER}; c++) {
      const long long row = base + (first + c < n ? first + c : first), block = part * ${words * values} / blockSize;
      ${blockOf(w)}
      #pragma unroll
      for (int r = 0; r < ${shared}; r++) total[c][r] += scale * (dot[c][r] - zero * sum[r]);
    }
  }
  #pragma unroll
  for (int c = 0; c < ${TOGETHER}; c++) {
    #pragma unroll
    for (int r = 0; r < ${shared}; r++) {
      float v = total[c][r];
      for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
      if (lane == 0 && first + c < n) st(y + (r0 + r) * n + first + c, v${
    o.bias ? " + ld(bias[base + first + c])" : ""
  });
    }
  }
  }
`;
  const units = Math.ceil(w.rows / TOGETHER) * (chosen ? o.rows : 1);
  return {
    kind: "code",
    body,
    reads: {
      x: { operand: o.x },
      ...pointersOf(w),
      ...(o.bias ? { bias: { operand: o.bias } } : {}),
      ...(chosen ? { experts: { operand: chosen.experts } } : {}),
    },
    writes: { y: { operand: o.y } },
    params: {
      n: w.rows,
      blockSize: w.block,
      blocks: blocksOf(w),
      zeroRow: zeroBytesOf(w),
      ...(chosen ? { chosenRows: o.rows, times: chosen.times } : {}),
    },
    blocks: Math.ceil(units / WARPS),
    threads: 32 * WARPS,
  };
}

/** Whether `vectorProduct` takes a weight. */
export const isVectorForm = isWide;

/** More rows than this are a product of matrices. */
export const FEW_ROWS = 8;
/** Elements of a weight that are restored at once. */
const MOST_RESTORED = 2 ** 25;

/** `y[rows,n] = x[rows,k] · wᵀ + beta · y`, with some rows of the weight restored at a time; `scratch` has room for them. */
export function matrixProduct(
  w: BlockedWeight,
  o: {
    readonly x: Operand;
    readonly rows: number;
    readonly y: Operand;
    readonly beta: number;
    readonly scratch: (dtype: DType, shape: readonly number[]) => Operand;
  },
): KernelStep[] {
  const at = Math.min(w.rows, Math.max(1, Math.floor(MOST_RESTORED / w.columns))), steps: KernelStep[] = [];
  const table = o.scratch(o.x.dtype, [at, w.columns]);
  for (let first = 0; first < w.rows; first += at) {
    const n = Math.min(at, w.rows - first);
    steps.push(restored(w, first, n, table), {
      kind: "gemm",
      m: o.rows,
      n,
      k: w.columns,
      batches: 1,
      a: { operand: o.x, offset: 0, stride: w.columns, batch: 0, transposed: false },
      b: { operand: table, offset: 0, stride: w.columns, batch: 0, transposed: true },
      c: { operand: o.y, offset: first, stride: w.rows, batch: 0, transposed: false },
      alpha: 1,
      beta: o.beta,
    });
  }
  return steps;
}

function matmulNbits(context: KernelContext): Lowered {
  const { attributes } = context, x = inputOf(context, 0), to = outputOf(context).shape;
  const given = (index: number) => (context.inputs[index] ? input(context, index) : undefined);
  const weight: BlockedWeight = {
    rows: intOf(attributes, "N")!,
    columns: intOf(attributes, "K")!,
    bits: intOf(attributes, "bits") ?? 4,
    block: intOf(attributes, "block_size")!,
    data: input(context, 1),
    scales: input(context, 2),
    zeros: given(3),
    groups: given(4),
  };
  if (![2, 4, 8].includes(weight.bits)) throw unknownForm(context, `${weight.bits} bits`);
  const rows = count(x.shape) / weight.columns, bias = given(5), y = output(context);
  if (rows === 0) return { steps: [] };
  if (rows <= FEW_ROWS && isWide(weight)) {
    return { steps: [vectorProduct(weight, { x: input(context, 0), rows, y, bias })] };
  }
  const scratch: { dtype: DType; shape: readonly number[] }[] = [];
  const take = (dtype: DType, shape: readonly number[]): Operand => {
    scratch.push({ dtype, shape });
    return { of: "scratch", index: scratch.length - 1, dtype };
  };
  const before: KernelStep[] = bias
    ? [{
      kind: "map",
      shape: to,
      reads: [broadcast(bias, inputOf(context, 5).shape, to)],
      write: whole(y, to),
      expression: "x0",
    }]
    : [];
  const product = matrixProduct(weight, { x: input(context, 0), rows, y, beta: bias ? 1 : 0, scratch: take });
  return { steps: [...before, ...product], scratch };
}

/** The lowering, by op. */
export const NBITS: Readonly<Record<string, Lowering>> = { "com.microsoft.MatMulNBits": matmulNbits };
