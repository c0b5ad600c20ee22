/**
 * Attention of many queries in 16-bit floats: a block has 64 queries of a head, 16 a warp, and goes through keys and values a tile at a time,
 * of which the next is on its way to shared memory while the present one is multiplied. Scores live in registers; sums are scaled anew when a
 * larger score comes.
 */
import { type AttentionStream, keyAndValue, loads, pointers, strided, used } from "./attention_stream.ts";
import type { CodeStep } from "./kernel.ts";

const WARPS = 4, QUERIES = 16 * WARPS;

/** The kernel of an attention whose heads have sizes that are multiples of 8, and at most 256. */
export function tiledAttention(attention: AttentionStream): CodeStep {
  const { sizes: { batch, heads, kvHeads, queries, keys, size, valueSize } } = attention;
  // Two stages of keys and values take at most 40 KiB of shared memory.
  const largest = Math.max(size, valueSize), tile = largest <= 64 ? 64 : largest <= 128 ? 32 : 16;
  const dims = Math.ceil(size / 16), values = Math.ceil(valueSize / 16);
  // Rows 16 bytes longer than their elements begin in other banks.
  const keyRow = dims * 16 + 8, valueRow = values * 16 + 8;
  const turns = Math.ceil(queries / QUERIES), units = batch * heads * turns;
  const reads = pointers(attention);
  const params: Record<string, number> = {
    n_keys: keys,
    n_queries: queries,
    n_heads: heads,
    n_turns: turns,
    n_units: units,
  };
  const query = strided("sq", attention.query, params), to = strided("sy", attention.result, params);
  const [key, value] = keyAndValue(attention, "at", params);
  const { once, each } = loads(attention, { reads, params });
  const copyTile = (to: string, from: string, o: { readonly blocks: number; readonly size: number }) => `
      for (int e = threadIdx.x; e < ${tile} * ${o.blocks * 2}; e += ${32 * WARPS}) {
        const int row = e / ${o.blocks * 2}, column = e % ${o.blocks * 2} * 8;
        const bool wanted = first + row < n_keys && column < ${o.size};
        const long long at = wanted ? first + row : 0;
        copy16(&${to}[stage][row][column], ${from} + (wanted ? column : 0), wanted);
      }`;
  const body = `  typedef ${attention.query.operand.dtype} T;
  __shared__ __align__(16) T ks[2][${tile}][${keyRow}];
  __shared__ __align__(16) T vs[2][${tile}][${valueRow}];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (I unit = blockIdx.x; unit < n_units; unit += gridDim.x) {
    // The last queries first: with causal masks they have most to do.
    const long long turn = n_turns - 1 - unit % n_turns, i1 = unit / n_turns % n_heads, i0 = unit / n_turns / n_heads;
    const long long kv = i1 / ${heads / kvHeads};
    const long long last = n_queries - 1;
    long long row[2], from[2], until[2];
    for (int h = 0; h < 2; h++) {
      row[h] = turn * ${QUERIES} + warp * 16 + (lane >> 2) + 8 * h;
      const long long i2 = row[h] < last ? row[h] : last;
      ${once}
      from[h] = ${attention.from ?? "0"};
      until[h] = ${attention.until ?? "n_keys"};
      if (from[h] < 0) from[h] = 0;
      if (until[h] > n_keys) until[h] = n_keys;
    }
    auto fewer = [](long long a, long long b) -> long long { return a < b ? a : b; };
    auto more = [](long long a, long long b) -> long long { return a > b ? a : b; };
    const long long low = f_block(fewer(from[0], from[1]), 0x7fffffffffffffffLL, fewer) / ${tile} * ${tile};
    const long long high = f_block(more(until[0], until[1]), 0LL, more);
    // Between these, all queries attend to all keys.
    const long long sure_from = f_block(more(from[0], from[1]), 0LL, more), sure_until = f_block(fewer(until[0], until[1]), 0x7fffffffffffffffLL, fewer);
    unsigned int a[${dims}][4];
    #pragma unroll
    for (int d = 0; d < ${dims}; d++) {
      #pragma unroll
      for (int m = 0; m < 4; m++) {
        const long long i2 = row[m & 1] < last ? row[m & 1] : last;
        const int column = d * 16 + (m >> 1) * 8 + 2 * (lane & 3);
        a[d][m] = ${dims * 16 === size ? "" : `column >= ${size} ? 0u : `}*(const unsigned int*)(q + ${query} + column);
      }
    }
    float sum[${2 * values}][4], most[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
    #pragma unroll
    for (int d = 0; d < ${2 * values}; d++) for (int e = 0; e < 4; e++) sum[d][e] = 0.f;
    auto fetch = [&](long long first, int stage) {${copyTile("ks", `k + ${key}`, { blocks: dims, size })}${
    copyTile("vs", `v + ${value}`, { blocks: values, size: valueSize })
  }
      copies_begun();
    };
    if (low < high) fetch(low, 0);
    int stage = 0;
    for (long long first = low; first < high; first += ${tile}, stage ^= 1) {
      if (first + ${tile} < high) { fetch(first + ${tile}, stage ^ 1); copies_done<1>(); }
      else copies_done<0>();
      __syncthreads();
      float score[${tile / 8}][4];
      #pragma unroll
      for (int j = 0; j < ${tile / 8}; j++) for (int e = 0; e < 4; e++) score[j][e] = 0.f;
      #pragma unroll
      for (int d = 0; d < ${dims}; d++) {
        #pragma unroll
        for (int j = 0; j < ${tile / 16}; j++) {
          unsigned int b[4];
          rows_fragment(b, &ks[stage][j * 16][d * 16], ${keyRow});
          mma(score[2 * j], a[d], b[0], b[1], T());
          mma(score[2 * j + 1], a[d], b[2], b[3], T());
        }
      }
      float larger[2] = {most[0], most[1]};
      auto judge = [&](auto guarded) {
        #pragma unroll
        for (int j = 0; j < ${tile / 8}; j++) {
          #pragma unroll
          for (int e = 0; e < 4; e++) {
            const int h = e >> 1;
            const long long r0 = first + j * 8 + 2 * (lane & 3) + (e & 1), i2 = row[h] < last ? row[h] : last;
            float s = -INFINITY;
            if (!guarded.value || (r0 >= from[h] && r0 < until[h])) {
              const float dot = score[j][e];
              ${once} ${each}
              s = (float)(${attention.score});
            }
            score[j][e] = s;
            larger[h] = s > larger[h] ? s : larger[h];
          }
        }
      };
      if (first >= sure_from && first + ${tile} <= sure_until) judge(no());
      else judge(yes());
      #pragma unroll
      for (int h = 0; h < 2; h++) {
        for (int o = 1; o < 4; o *= 2) {
          const float other = __shfl_xor_sync(0xffffffffu, larger[h], o);
          larger[h] = other > larger[h] ? other : larger[h];
        }
        // A row that has seen nothing yet stays at nothing.
        const float top = larger[h] == -INFINITY ? 0.f : larger[h], old = __expf(most[h] - top);
        most[h] = larger[h];
        larger[h] = top;
        total[h] *= old;
        #pragma unroll
        for (int d = 0; d < ${2 * values}; d++) { sum[d][2 * h] *= old; sum[d][2 * h + 1] *= old; }
      }
      #pragma unroll
      for (int j = 0; j < ${tile / 8}; j++) {
        #pragma unroll
        for (int e = 0; e < 4; e++) {
          score[j][e] = __expf(score[j][e] - larger[e >> 1]);
          total[e >> 1] += score[j][e];
        }
      }
      #pragma unroll
      for (int j = 0; j < ${tile / 16}; j++) {
        const unsigned int weights[4] = {
          pair_of<T>(score[2 * j][0], score[2 * j][1]), pair_of<T>(score[2 * j][2], score[2 * j][3]),
          pair_of<T>(score[2 * j + 1][0], score[2 * j + 1][1]), pair_of<T>(score[2 * j + 1][2], score[2 * j + 1][3])};
        #pragma unroll
        for (int d = 0; d < ${values}; d++) {
          unsigned int b[4];
          columns_fragment(b, &vs[stage][j * 16][d * 16], ${valueRow});
          mma(sum[2 * d], weights, b[0], b[1], T());
          mma(sum[2 * d + 1], weights, b[2], b[3], T());
        }
      }
      __syncthreads();
    }
    #pragma unroll
    for (int h = 0; h < 2; h++) {
      for (int o = 1; o < 4; o *= 2) total[h] += __shfl_xor_sync(0xffffffffu, total[h], o);
      const float scaled = total[h] == 0.f ? 0.f : 1.f / total[h];
      if (row[h] > last) continue;
      const long long i2 = row[h];
      T* const out = y + ${to};
      #pragma unroll
      for (int d = 0; d < ${2 * values}; d++) {
        const int column = d * 8 + 2 * (lane & 3);
        if (${values * 16 === valueSize ? "true" : `column < ${valueSize}`}) {
          *(unsigned int*)(out + column) = pair_of<T>(sum[d][2 * h] * scaled, sum[d][2 * h + 1] * scaled);
        }
      }
    }
  }
`;
  return {
    kind: "code",
    body,
    reads,
    writes: { y: { operand: attention.result.operand } },
    params: { ...used(attention), ...params },
    blocks: units,
    threads: 32 * WARPS,
  };
}
