/**
 * CUDA C for attention of few queries. Keys of one key/value head and query are shared out among blocks, a block's among its warps; a warp
 * holds the queries of all heads that share the keys, and for each a sum of values that is scaled anew when a larger score comes. A second
 * kernel joins what the blocks found.
 */
import { type AttentionStream, keyAndValue, loads, pointers, strided, used } from "./attention_stream.ts";
import type { CodeStep, Operand } from "./kernel.ts";

/** Warps of a block, and elements of queries and sums that a thread of one holds. */
const WARPS = 4, HELD = 32;

/** An attention of few queries. */
export interface StreamedAttention extends AttentionStream {
  /** In how many parts keys are shared out; their results, f32 of `[batch, heads, queries, parts, valueSize + 2]`, lie in `partial`. */
  readonly parts: number;
  readonly partial: Operand;
}

/** The kernels of an attention: of the parts, and of their sum. */
export function streamedAttention(attention: StreamedAttention): CodeStep[] {
  return [partsStep(attention), joinStep(attention)];
}

function partsStep(attention: StreamedAttention): CodeStep {
  const { sizes, parts } = attention, { batch, heads, kvHeads, queries, keys, size, valueSize } = sizes;
  const group = heads / kvHeads, own = Math.ceil(size / 32), values = Math.ceil(valueSize / 32);
  const together = Math.max(1, Math.min(group, Math.floor(HELD / Math.max(own, values))));
  const turns = Math.ceil(group / together), blocks = batch * kvHeads * turns * queries * parts;
  const reads = pointers(attention);
  const params: Record<string, number> = {
    n_keys: keys,
    n_queries: queries,
    n_kv: kvHeads,
    n_parts: parts,
    n_rows: blocks,
  };
  const query = strided("sq", attention.query, params);
  const [key, value] = keyAndValue(attention, "r0", params);
  const { once, each } = loads(attention, { reads, params });
  /** Whether lane and `e` are within a row of `width`. */
  const inside = (of: number, width: number) => (of * 32 === width ? "" : `e * 32 + lane < ${width} && `);
  const all = (of: number) => `#pragma unroll\n      for (int e = 0; e < ${of}; e++)`;
  const body = `
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  __shared__ float tops[${WARPS}][${together}], totals[${WARPS}][${together}], sums[${WARPS}][${together}][${
    values * 32
  }];
  for (I row = blockIdx.x; row < n_rows; row += gridDim.x) {
    long long rest = row;
    const long long part = rest % n_parts; rest /= n_parts;
    const long long i2 = rest % n_queries; rest /= n_queries;
    const long long turn = rest % ${turns}; rest /= ${turns};
    const long long kv = rest % n_kv, i0 = rest / n_kv, first = kv * ${group} + turn * ${together};
    const int heads = ${group} - turn * ${together} < ${together} ? ${group} - turn * ${together} : ${together};
    float query[${together}][${own}], sum[${together}][${values}], most[${together}], total[${together}];
    long long from[${together}], until[${together}], low = n_keys, high = 0;
    for (int g = 0; g < ${together}; g++) {
      const long long i1 = first + (g < heads ? g : 0);
      most[g] = -INFINITY; total[g] = 0.f;
      ${all(own)} query[g][e] = ${inside(own, size)}g < heads ? ld(q[${query} + e * 32 + lane]) : 0.f;
      ${all(values)} sum[g][e] = 0.f;
      ${once}
      from[g] = ${attention.from ?? "0"}; until[g] = ${attention.until ?? "n_keys"};
      if (from[g] < 0) from[g] = 0;
      if (until[g] > n_keys) until[g] = n_keys;
      if (from[g] < low) low = from[g];
      if (until[g] > high) high = until[g];
    }
    const long long share = high > low ? (high - low + n_parts - 1) / n_parts : 0;
    const long long begin = low + part * share, end = begin + share < high ? begin + share : high;
    for (long long r0 = begin + warp; r0 < end; r0 += ${WARPS}) {
      float key[${own}], value[${values}];
      ${all(own)} key[e] = ${inside(own, size)}true ? ld(k[${key} + e * 32 + lane]) : 0.f;
      ${all(values)} value[e] = ${inside(values, valueSize)}true ? ld(v[${value} + e * 32 + lane]) : 0.f;
      #pragma unroll
      for (int g = 0; g < ${together}; g++) {
        const long long i1 = first + (g < heads ? g : 0);
        float dot = 0.f;
        ${all(own)} dot += query[g][e] * key[e];
        for (int o = 16; o > 0; o >>= 1) dot += __shfl_xor_sync(0xffffffffu, dot, o);
        ${once} ${each}
        const float score = r0 < from[g] || r0 >= until[g] ? -INFINITY : (float)(${attention.score});
        if (score == -INFINITY) continue;
        const float larger = f_max(most[g], score), old = f_exp(most[g] - larger), weight = f_exp(score - larger);
        most[g] = larger;
        total[g] = total[g] * old + weight;
        ${all(values)} sum[g][e] = sum[g][e] * old + weight * value[e];
      }
    }
    for (int g = 0; g < ${together}; g++) {
      if (lane == 0) { tops[warp][g] = most[g]; totals[warp][g] = total[g]; }
      ${all(values)} sums[warp][g][e * 32 + lane] = sum[g][e];
    }
    __syncthreads();
    for (int g = warp; g < heads; g += ${WARPS}) {
      float larger = -INFINITY, whole = 0.f, share[${WARPS}];
      for (int w = 0; w < ${WARPS}; w++) larger = f_max(larger, tops[w][g]);
      for (int w = 0; w < ${WARPS}; w++) {
        share[w] = tops[w][g] == -INFINITY ? 0.f : f_exp(tops[w][g] - larger);
        whole += share[w] * totals[w][g];
      }
      float* to = y + (((i0 * n_kv * ${group} + first + g) * n_queries + i2) * n_parts + part) * ${valueSize + 2};
      for (int e = lane; e < ${valueSize}; e += 32) {
        float mixed = 0.f;
        for (int w = 0; w < ${WARPS}; w++) mixed += share[w] * sums[w][g][e];
        to[e] = mixed;
      }
      if (lane == 0) { to[${valueSize}] = larger; to[${valueSize + 1}] = whole; }
    }
    __syncthreads();
  }
`;
  return {
    kind: "code",
    body,
    reads,
    writes: { y: { operand: attention.partial } },
    params: { ...used(attention), ...params },
    blocks,
    threads: 32 * WARPS,
  };
}

/** Rows of the parts' results become one; a row that attends to nothing is zeros. */
function joinStep(
  { sizes: { batch, heads, queries, valueSize }, parts, partial, result }: StreamedAttention,
): CodeStep {
  const rows = batch * heads * queries, width = valueSize + 2;
  const params: Record<string, number> = { n_rows: rows, n_parts: parts, n_heads: heads, n_queries: queries };
  const to = strided("sy", result, params);
  return {
    kind: "code",
    body: `  for (I row = blockIdx.x; row < n_rows; row += gridDim.x) {
    const long long i2 = row % n_queries, i1 = row / n_queries % n_heads, i0 = row / n_queries / n_heads;
    const float* of = x + row * n_parts * ${width};
    float larger = -INFINITY, total = 0.f;
    for (int part = 0; part < n_parts; part++) larger = f_max(larger, of[part * ${width} + ${valueSize}]);
    for (int part = 0; part < n_parts; part++) {
      const float most = of[part * ${width} + ${valueSize}];
      total += most == -INFINITY ? 0.f : of[part * ${width} + ${valueSize + 1}] * f_exp(most - larger);
    }
    for (int e = threadIdx.x; e < ${valueSize}; e += blockDim.x) {
      float mixed = 0.f;
      for (int part = 0; part < n_parts; part++) {
        const float most = of[part * ${width} + ${valueSize}];
        mixed += most == -INFINITY ? 0.f : of[part * ${width} + e] * f_exp(most - larger);
      }
      st(y + ${to} + e, total == 0.f ? 0.f : mixed / total);
    }
  }
`,
    reads: { x: { operand: partial } },
    writes: { y: { operand: result.operand } },
    params,
    blocks: Math.min(65_535, rows),
    threads: Math.min(128, 32 * Math.ceil(valueSize / 32)),
  };
}
