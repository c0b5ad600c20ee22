/** Ops whose every element depends on those before it, a block a row: running sums, and the places of what is not zero. */
import { intOf } from "../../graph/attributes.ts";
import { axisOf, count, input, inputOf, intsOf, output, outputOf } from "./access.ts";
import type { CodeStep, KernelContext, Lowered, Lowering } from "./kernel.ts";

const THREADS = 256, WARPS = THREADS / 32;

/** Running sums along one dim. Blocks take rows, and of a row a piece after another, whose sum is carried on. */
function cumSum(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), axis = axisOf(intsOf(context, 1)[0]!, shape.length);
  const size = shape[axis]!, stride = count(shape.slice(axis + 1)), rows = size === 0 ? 0 : count(shape) / size;
  const exclusive = intOf(context.attributes, "exclusive") === 1, reverse = intOf(context.attributes, "reverse") === 1;
  const step: CodeStep = {
    kind: "code",
    body: `  typedef decltype(ld(x[0])) V;
  __shared__ V sums[${WARPS}];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
    const long long base = row / stride * stride * size + row % stride;
    V carried = (V)0;
    for (long long from = 0; from < size; from += ${THREADS}) {
      const long long e = from + threadIdx.x, at = base + ${reverse ? "(size - 1 - e)" : "e"} * stride;
      const V own = e < size ? ld(x[at]) : (V)0;
      V sum = own;
      for (int o = 1; o < 32; o *= 2) {
        const V other = __shfl_up_sync(0xffffffffu, sum, o);
        if (lane >= o) sum += other;
      }
      const V last = __shfl_up_sync(0xffffffffu, sum, 1), before = lane == 0 ? (V)0 : last;
      if (lane == 31) sums[warp] = sum;
      __syncthreads();
      V lower = carried, total = carried;
      for (int w = 0; w < ${WARPS}; w++) {
        if (w < warp) lower += sums[w];
        total += sums[w];
      }
      if (e < size) st(y + at, lower + ${exclusive ? "before" : "sum"});
      carried = total;
      __syncthreads();
    }
  }
`,
    reads: { x: { operand: input(context, 0) } },
    writes: { y: { operand: output(context) } },
    params: { rows, size, stride },
    blocks: Math.min(65_535, rows),
    threads: THREADS,
  };
  return { steps: [step] };
}

/**
 * What stands in the place of an index for which there is no element: so far outside of every tensor that sums of indices stay outside.
 * Reading with it gives any element, scattering with it does nothing.
 */
export const NO_INDEX = -(2 ** 40);

/** As many columns as there could be; those after the last have `NO_INDEX`. */
function nonZero(context: KernelContext): Lowered {
  const { shape } = inputOf(context, 0), all = count(shape), room = outputOf(context).shape[1]!;
  const sizes = Object.fromEntries(shape.map((size, d) => [`size${d}`, size]));
  const coordinates = shape.map((_, d) => d).reverse()
    .map((d) => `y[${d} * room + to] = rest % size${d}; rest /= size${d};`).join(" ");
  const step: CodeStep = {
    kind: "code",
    body: `  __shared__ int counts[${WARPS}];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  long long found = 0;
  for (long long from = 0; from < all; from += ${THREADS}) {
    const long long e = from + threadIdx.x;
    const bool isFound = e < all && ld(x[e]) != 0;
    const unsigned int vote = __ballot_sync(0xffffffffu, isFound);
    if (lane == 0) counts[warp] = __popc(vote);
    __syncthreads();
    long long to = found + __popc(vote & ((1u << lane) - 1)), total = 0;
    for (int w = 0; w < ${WARPS}; w++) {
      if (w < warp) to += counts[w];
      total += counts[w];
    }
    if (isFound) { long long rest = e; ${coordinates} }
    found += total;
    __syncthreads();
  }
  for (long long to = found + threadIdx.x; to < room; to += ${THREADS}) {
    for (int d = 0; d < ${shape.length}; d++) y[d * room + to] = none;
  }
`,
    reads: { x: { operand: input(context, 0) } },
    writes: { y: { operand: output(context) } },
    params: { all, room, none: NO_INDEX, ...sizes },
    blocks: room === 0 ? 0 : 1,
    threads: THREADS,
  };
  return { steps: [step] };
}

/** All lowerings that scan, by op. */
export const SCANS: Readonly<Record<string, Lowering>> = { CumSum: cumSum, NonZero: nonZero };
