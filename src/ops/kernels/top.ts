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

/** `count` elements of each last row of input 0: values (output 0, f32) and indices (output 1, i32), `[rows, count]`. */
export function topOfLastRows(tensor: KernelTensor, count: number): Lowered {
  const { rows, columns } = lastRowsOf(tensor.shape), elements = tensor.shape.reduce((a, b) => a * b, 1);
  const parts = Math.max(1, Math.min(128, Math.ceil(columns / ELEMENTS))), found = [rows, parts, count];
  const share = Math.ceil(columns / parts);
  const values = (index: number) => ({ operand: { of: "scratch", index, dtype: "f32" } as const });
  const ids = (index: number) => ({ operand: { of: "scratch", index, dtype: "i32" } as const });
  const params = { rows, columns, stride: elements / rows, share, parts, count };
  const first: CodeStep = {
    kind: "code",
    body: `  for (I block = blockIdx.x; block < rows * parts; block += gridDim.x) {
    const long long row = block / parts, part = block % parts, begin = part * share;
    const long long end = begin + share < columns ? begin + share : columns;
    const auto* from = x + (row + 1) * stride - columns;
    ${searched("ld(from[e])", "(int)e", "begin", "end", "block * count")}
  }
`,
    reads: { x: { operand: { of: "input", index: 0, dtype: tensor.dtype } } },
    writes: { y: values(0), at: ids(1) },
    params,
    blocks: rows * parts,
    threads: THREADS,
  };
  const second: CodeStep = {
    kind: "code",
    body: `  for (I row = blockIdx.x; row < rows; row += gridDim.x) {
    ${searched("x[row * parts * count + e]", "ids[row * parts * count + e]", "0", "parts * count", "row * count")}
  }
`,
    reads: { x: values(0), ids: ids(1) },
    writes: {
      y: { operand: { of: "output", index: 0, dtype: "f32" } },
      at: { operand: { of: "output", index: 1, dtype: "i32" } },
    },
    params: { rows, parts, count },
    blocks: rows,
    threads: THREADS,
  };
  return { steps: [first, second], scratch: [{ dtype: "f32", shape: found }, { dtype: "i32", shape: found }] };
}

/** Statements that write the largest `count` of the elements `begin` to `end` behind `to`; where there are fewer, -∞ with index -1. */
function searched(value: string, id: string, begin: string, end: string, to: string): string {
  return `float last = INFINITY; int lastId = -2; bool isNan = true; // what was found before: nothing
    for (long long k = 0; k < count; k++) {
      float best = -INFINITY; int bestId = -1; bool bestNan = false;
      for (long long e = ${begin} + threadIdx.x; e < ${end}; e += blockDim.x) {
        const float v = (float)${value}; const int id = ${id}; const bool nan = v != v;
        if (id < 0 || (lastId != -2 && !t_before(last, lastId, isNan, v, id, nan))) continue;
        if (bestId == -1 || t_before(v, id, nan, best, bestId, bestNan)) { best = v; bestId = id; bestNan = nan; }
      }
      __shared__ float bests[32]; __shared__ int bestIds[32];
      for (int o = 16; o > 0; o >>= 1) {
        const float v = __shfl_xor_sync(0xffffffffu, best, o); const int id = __shfl_xor_sync(0xffffffffu, bestId, o);
        if (id >= 0 && (bestId == -1 || t_before(v, id, v != v, best, bestId, best != best))) { best = v; bestId = id; }
      }
      if ((threadIdx.x & 31) == 0) { bests[threadIdx.x >> 5] = best; bestIds[threadIdx.x >> 5] = bestId; }
      __syncthreads();
      for (int w = 0; w < (int)(blockDim.x >> 5); w++) {
        const float v = bests[w]; const int id = bestIds[w];
        if (id >= 0 && (bestId == -1 || t_before(v, id, v != v, best, bestId, best != best))) { best = v; bestId = id; }
      }
      __syncthreads();
      last = best; lastId = bestId; isNan = best != best;
      if (threadIdx.x == 0) { y[${to} + k] = best; at[${to} + k] = bestId; }
      if (bestId == -1) lastId = 0x7fffffff, last = -INFINITY; // nothing is left: nothing comes after this
    }`;
}
