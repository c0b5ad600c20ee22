/**
 * The largest elements of the last rows of a tensor, in order: what picking a token needs of its logits. Not an op of a model.
 *
 * Blocks share the elements out and find the largest of theirs one by one, each as the largest that comes after the one before; one block
 * does the same with what they found. Of equal elements that with the smaller index comes first; a NaN comes before all others, so that
 * whoever looks at the first one sees it.
 */
import type { CodeStep, KernelTensor, Lowered } from "./kernel.ts";

/** Threads of a block, and elements that are worth one. */
const THREADS = 256, ELEMENTS = 4096;

/** Rows of a `[rows, …, columns]` tensor, or the one row of another. */
export function lastRowsOf(shape: readonly number[]): { readonly rows: number; readonly columns: number } {
  return { rows: shape.length === 3 ? shape[0]! : 1, columns: shape.at(-1)! };
}

/** What else a kernel of picking reads: see {@linkcode PICK_NUMBERS} and `seen`. */
export interface PickReads {
  /** Whether logits of tokens that the text holds are penalised: they have a bit each in `seen`, input 2. */
  readonly penalised: boolean;
}

/** What input 1 of a kernel of picking holds, f64: the penalty, the temperature, min-p, and behind them a number in [0, 1) for each row. */
export const PICK_NUMBERS = 3;

/** 32-bit words of a row of `seen`: a bit for each element. */
export function seenWords(columns: number): number {
  return Math.ceil(columns / 32);
}

/** The inputs of picking beside the logits. */
export function pickReads(penalised: boolean): CodeStep["reads"] {
  return {
    numbers: { operand: { of: "input", index: 1, dtype: "f64" } },
    ...(penalised ? { seen: { operand: { of: "input", index: 2, dtype: "u32" } } } : {}),
  };
}

/** A statement that makes `v` the logit at `e` of `row`, whose elements begin at `from`, penalised as the host does it. */
export function logit(type: "float" | "double", penalised: boolean): string {
  const plain = `${type} v = (${type})ld(from[e]);`;
  return penalised
    ? `${plain} if (seen[row * words + (e >> 5)] >> (e & 31) & 1) v = v < 0 ? v * numbers[0] : v / numbers[0];`
    : plain;
}

/**
 * `count` elements of each last row of input 0: values (output 0, f32) and indices (output 1, i32), `[rows, count]`. Where tokens are
 * penalised, in the order that this makes, in doubles; the values are still the logits.
 */
export function topOfLastRows(
  tensor: KernelTensor,
  count: number,
  { penalised }: PickReads = { penalised: false },
): Lowered {
  const { rows, columns } = lastRowsOf(tensor.shape), elements = tensor.shape.reduce((a, b) => a * b, 1);
  const parts = Math.max(1, Math.min(128, Math.ceil(columns / ELEMENTS))), found = [rows, parts, count];
  const share = Math.ceil(columns / parts), stride = elements / rows;
  const dtype = penalised ? "f64" : "f32", type = penalised ? "double" : "float";
  const values = (index: number) => ({ operand: { of: "scratch", index, dtype } as const });
  const ids = (index: number) => ({ operand: { of: "scratch", index, dtype: "i32" } as const });
  const logits = { operand: { of: "input", index: 0, dtype: tensor.dtype } } as const;
  const params = { rows, columns, stride, share, parts, count };
  const first: CodeStep = {
    kind: "code",
    body: `  for (I block = blockIdx.x; block < rows * parts; block += gridDim.x) {
    const long long row = block / parts, part = block % parts, begin = part * share;
    const long long end = begin + share < columns ? begin + share : columns;
    const auto* from = x + (row + 1) * stride - columns;
    ${searched(type, { read: `${logit(type, penalised)} const int id = (int)e;`, begin: "begin", end: "end" })}
      if (threadIdx.x == 0) { y[block * count + k] = best; at[block * count + k] = bestId; }
    }
  }
`,
    reads: { x: logits, ...(penalised ? pickReads(true) : {}) },
    writes: { y: values(0), at: ids(1) },
    params: { ...params, ...(penalised ? { words: seenWords(columns) } : {}) },
    blocks: rows * parts,
    threads: THREADS,
  };
  const second: CodeStep = {
    kind: "code",
    body: `  for (I row = blockIdx.x; row < rows; row += gridDim.x) {
    const long long own = row * parts * count;
    ${
      searched(type, {
        read: `const ${type} v = x[own + e]; const int id = ids[own + e];`,
        begin: "0",
        end: "parts * count",
      })
    }
      if (threadIdx.x == 0) {
        y[row * count + k] = bestId < 0 ? -INFINITY : (float)ld(logits[(row + 1) * stride - columns + bestId]);
        at[row * count + k] = bestId;
      }
    }
  }
`,
    reads: { x: values(0), ids: ids(1), logits },
    writes: {
      y: { operand: { of: "output", index: 0, dtype: "f32" } },
      at: { operand: { of: "output", index: 1, dtype: "i32" } },
    },
    params: { rows, columns, stride, parts, count },
    blocks: rows,
    threads: THREADS,
  };
  return { steps: [first, second], scratch: [{ dtype, shape: found }, { dtype: "i32", shape: found }] };
}

/**
 * Statements that find the largest `count` of the elements `begin` to `end`, which `read` makes `v` and `id` of `e`; a loop that is left
 * open, with `best` and `bestId` of the k-th. Where there are fewer, -∞ with index -1.
 */
function searched(
  type: "float" | "double",
  { read, begin, end }: { readonly read: string; readonly begin: string; readonly end: string },
): string {
  return `${type} last = INFINITY; int lastId = -2; bool isNan = true; // what was found before: nothing
    for (long long k = 0; k < count; k++) {
      ${type} best = -INFINITY; int bestId = -1; bool bestNan = false;
      for (long long e = ${begin} + threadIdx.x; e < ${end}; e += blockDim.x) {
        ${read} const bool nan = v != v;
        if (id < 0 || (lastId != -2 && !t_before(last, lastId, isNan, v, id, nan))) continue;
        if (bestId == -1 || t_before(v, id, nan, best, bestId, bestNan)) { best = v; bestId = id; bestNan = nan; }
      }
      __shared__ ${type} bests[32]; __shared__ int bestIds[32];
      for (int o = 16; o > 0; o >>= 1) {
        const ${type} v = __shfl_xor_sync(0xffffffffu, best, o); const int id = __shfl_xor_sync(0xffffffffu, bestId, o);
        if (id >= 0 && (bestId == -1 || t_before(v, id, v != v, best, bestId, best != best))) { best = v; bestId = id; }
      }
      if ((threadIdx.x & 31) == 0) { bests[threadIdx.x >> 5] = best; bestIds[threadIdx.x >> 5] = bestId; }
      __syncthreads();
      for (int w = 0; w < (int)(blockDim.x >> 5); w++) {
        const ${type} v = bests[w]; const int id = bestIds[w];
        if (id >= 0 && (bestId == -1 || t_before(v, id, v != v, best, bestId, best != best))) { best = v; bestId = id; }
      }
      __syncthreads();
      last = best; lastId = bestId; isNan = best != best;
      if (bestId == -1) lastId = 0x7fffffff, last = -INFINITY; // nothing is left: nothing comes after this`;
}
