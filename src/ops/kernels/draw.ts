/**
 * Drawing a token where its logits are, from the distribution that they are at a temperature. Not an op of a model.
 *
 * ```text
 * w = exp((x - largest) / temperature), in doubles; 0 where it is below min-p
 * the token: the first e with w[0] + … + w[e] > u · Σ w
 * ```
 * as the host's sampler does it, with the number `u` that it would take. Sums are made in an order that does not depend on timing, so that
 * all ranks draw the same; it is another one than the host's, so that a draw within some 1e-13 of a border may fall on its other side.
 */
import type { CodeStep, KernelTensor, Lowered } from "./kernel.ts";
import { lastRowsOf, logit, type PickReads, pickReads, seenWords } from "./top.ts";

/** Threads of a block, elements of a thread, and elements of a block. */
const THREADS = 256, EACH = 16, SHARE = THREADS * EACH;

/** What a token is drawn by: a largest element (NaN before all), sums of blocks, and of all. */
export interface Drawing extends PickReads {
  /** Also picks: value (output 0, f32) and index (output 1, i32), `[rows, 1]`. Else gives Σ w (output 0, f64), `[rows]`, without min-p. */
  readonly draws: boolean;
}

/** The steps; `numbers` and `seen` are as {@linkcode PickReads} says. */
export function drawOfLastRows(tensor: KernelTensor, { draws, penalised }: Drawing): Lowered {
  const { rows, columns } = lastRowsOf(tensor.shape), stride = tensor.shape.reduce((a, b) => a * b, 1) / rows;
  const parts = Math.max(1, Math.ceil(columns / SHARE)),
    params = {
      rows,
      columns,
      stride,
      parts,
      ...(penalised ? { words: seenWords(columns) } : {}),
    };
  const scratch = (index: number) => ({ operand: { of: "scratch", index, dtype: "f64" } as const });
  const reads = { x: { operand: { of: "input", index: 0, dtype: tensor.dtype } } as const, ...pickReads(penalised) };
  const read = logit("double", penalised);
  const largest: CodeStep = {
    kind: "code",
    body: `  for (I block = blockIdx.x; block < rows * parts; block += gridDim.x) {
    const long long row = block / parts, begin = block % parts * ${SHARE};
    const auto* from = x + (row + 1) * stride - columns;
    double most = -INFINITY;
    for (long long e = begin + threadIdx.x; e < columns && e < begin + ${SHARE}; e += blockDim.x) { ${read} ${
      larger("v")
    } }
    most = f_block(most, (double)-INFINITY, [](double most, double v) { ${larger("v")} return most; });
    if (threadIdx.x == 0) y[block] = most;
  }
`,
    reads,
    writes: { y: scratch(0) },
    params,
    blocks: rows * parts,
    threads: THREADS,
  };
  // A thread has elements one after the other, so that sums of threads are sums up to an element.
  const weighed = `const auto* from = x + (row + 1) * stride - columns;
    double most = -INFINITY;
    for (long long p = 0; p < parts; p++) { const double v = largest[row * parts + p]; ${larger("v")} }`;
  const weight = `${read} double w = exp((v - most) / numbers[1]); ${draws ? "if (w < numbers[2]) w = 0;" : ""}`;
  const sums: CodeStep = {
    kind: "code",
    body: `  for (I block = blockIdx.x; block < rows * parts; block += gridDim.x) {
    const long long row = block / parts, begin = block % parts * ${SHARE} + threadIdx.x * ${EACH};
    ${weighed}
    double sum = 0;
    for (long long e = begin; e < columns && e < begin + ${EACH}; e++) { ${weight} sum += w; }
    sum = f_block(sum, 0., [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) y[block] = sum;
  }
`,
    reads: { ...reads, largest: scratch(0) },
    writes: { y: scratch(1) },
    params,
    blocks: rows * parts,
    threads: THREADS,
  };
  const drawn: CodeStep = {
    kind: "code",
    body: `  for (I row = blockIdx.x; row < rows; row += gridDim.x) {
    ${weighed}
    __shared__ double parted[${THREADS}], left; __shared__ long long part, slot, found, lastWith;
    if (threadIdx.x == 0) {
      double sum = 0;
      for (long long p = 0; p < parts; p++) sum += sums[row * parts + p];
      left = numbers[3 + row] * sum;
      // What rounding leaves above the last one is the last one's.
      part = -1;
      for (long long p = 0; p < parts && part < 0; p++) {
        if (left < sums[row * parts + p]) part = p; else left -= sums[row * parts + p];
      }
      lastWith = -1;
      if (part < 0) { for (long long p = 0; p < parts; p++) if (sums[row * parts + p] > 0) part = p; left = INFINITY; }
      if (part < 0) part = 0;
    }
    __syncthreads();
    const long long begin = part * ${SHARE} + threadIdx.x * ${EACH};
    double sum = 0;
    for (long long e = begin; e < columns && e < begin + ${EACH}; e++) { ${weight} sum += w; }
    parted[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      slot = -1;
      for (int t = 0; t < ${THREADS} && slot < 0; t++) {
        if (parted[t] > 0) lastWith = t;
        if (left < parted[t]) slot = t; else left -= parted[t];
      }
      if (slot < 0) { slot = lastWith < 0 ? 0 : lastWith; left = INFINITY; }
      found = -1;
      const long long start = part * ${SHARE} + slot * ${EACH};
      for (long long e = start; e < columns && e < start + ${EACH}; e++) {
        ${weight}
        if (w > 0) found = e;
        if (left < w) break;
        left -= w;
      }
      // Of a NaN the host tells.
      if (found < 0 || most != most) found = 0;
      value[row] = most != most ? (float)most : (float)ld(from[found]);
      id[row] = (int)found;
    }
    __syncthreads();
  }
`,
    reads: { ...reads, largest: scratch(0), sums: scratch(1) },
    writes: {
      value: { operand: { of: "output", index: 0, dtype: "f32" } },
      id: { operand: { of: "output", index: 1, dtype: "i32" } },
    },
    params,
    blocks: rows,
    threads: THREADS,
  };
  const total: CodeStep = {
    kind: "code",
    body: `  for (I row = blockIdx.x * blockDim.x + threadIdx.x; row < rows; row += (I)gridDim.x * blockDim.x) {
    double sum = 0;
    for (long long p = 0; p < parts; p++) sum += sums[row * parts + p];
    y[row] = sum;
  }
`,
    reads: { sums: scratch(1) },
    writes: { y: { operand: { of: "output", index: 0, dtype: "f64" } } },
    params: { rows, parts },
    blocks: Math.ceil(rows / THREADS),
    threads: THREADS,
  };
  const kept: KernelTensor = { dtype: "f64", shape: [rows, parts] };
  return { steps: [largest, sums, draws ? drawn : total], scratch: [kept, kept] };
}

/** Keeps the largest in `most`; a NaN stays. */
function larger(v: string): string {
  return `if (${v} > most || ${v} != ${v}) most = most != most ? most : ${v};`;
}
