/**
 * Attention of many queries without tensor cores: for 32-bit floats, whose products they would round, and for heads that they do not take. A
 * block has 64 queries of a head and goes through keys 64 at a time; a thread has 4 × 4 scores, and 4 queries' sums of 4 columns of each 64
 * values. Queries and keys come by 32 elements of a head, values by 64 columns, so that shared memory suffices for heads of any size.
 */
import { type AttentionStream, keyAndValue, loads, pointers, strided, used } from "./attention_stream.ts";
import type { CodeStep } from "./kernel.ts";

/** Queries and keys of a tile; threads for 4 × 4 of their scores each. */
const TILE = 64, ACROSS = TILE / 4, THREADS = ACROSS * ACROSS;
/** Elements of a head at a time. */
const DEPTH = 32;
/** From row to row in shared memory: what is read together lies in other banks, and at multiples of 16 bytes. */
const PITCH = TILE + 4;

/** The kernel of an attention. */
export function blockedAttention(attention: AttentionStream): CodeStep {
  const { sizes: { batch, heads, kvHeads, queries, keys, size, valueSize } } = attention;
  const chunks = Math.ceil(valueSize / TILE), turns = Math.ceil(queries / TILE), units = batch * heads * turns;
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
  const body = `  // Queries and keys, element by element of the head; then values, key by key.
  __shared__ __align__(16) float tiles[2 * ${DEPTH * PITCH}], weights[${TILE * PITCH}];
  float* const qs = tiles;
  float* const ks = tiles + ${DEPTH * PITCH};
  const int tx = threadIdx.x % ${ACROSS}, ty = threadIdx.x / ${ACROSS};
  auto fewer = [](long long a, long long b) -> long long { return a < b ? a : b; };
  auto more = [](long long a, long long b) -> long long { return a > b ? a : b; };
  for (I unit = blockIdx.x; unit < n_units; unit += gridDim.x) {
    // The last queries first: with causal masks they have most to do.
    const long long turn = n_turns - 1 - unit % n_turns, i1 = unit / n_turns % n_heads, i0 = unit / n_turns / n_heads;
    const long long kv = i1 / ${heads / kvHeads}, last = n_queries - 1, row = turn * ${TILE} + 4 * ty;
    long long from[4], until[4], low = n_keys, high = 0, sure_from = 0, sure_until = n_keys;
    for (int i = 0; i < 4; i++) {
      const long long i2 = fewer(row + i, last);
      ${once}
      from[i] = more(${attention.from ?? "0"}, 0);
      until[i] = fewer(${attention.until ?? "n_keys"}, n_keys);
      low = fewer(low, from[i]); high = more(high, until[i]);
      sure_from = more(sure_from, from[i]); sure_until = fewer(sure_until, until[i]);
    }
    low = f_block(low, 0x7fffffffffffffffLL, fewer) / ${TILE} * ${TILE};
    high = f_block(high, 0LL, more);
    // Between these, all queries attend to all keys.
    sure_from = f_block(sure_from, 0LL, more);
    sure_until = f_block(sure_until, 0x7fffffffffffffffLL, fewer);
    float sum[${chunks}][4][4] = {}, most[4], total[4];
    #pragma unroll
    for (int i = 0; i < 4; i++) { most[i] = -INFINITY; total[i] = 0.f; }
    for (long long first = low; first < high; first += ${TILE}) {
      float score[4][4] = {};
      for (int begin = 0; begin < ${size}; begin += ${DEPTH}) {
        const int depth = ${size} - begin < ${DEPTH} ? ${size} - begin : ${DEPTH};
        __syncthreads();
        for (int e = threadIdx.x; e < ${TILE * DEPTH}; e += ${THREADS}) {
          const int r = e / ${DEPTH}, d = e % ${DEPTH};
          if (d >= depth) continue;
          const long long i2 = turn * ${TILE} + r, at = first + r;
          qs[d * ${PITCH} + r] = i2 <= last ? (float)ld(q[${query} + begin + d]) : 0.f;
          ks[d * ${PITCH} + r] = at < n_keys ? (float)ld(k[${key} + begin + d]) : 0.f;
        }
        __syncthreads();
        #pragma unroll 8
        for (int d = 0; d < depth; d++) {
          float a[4], b[4];
          ld4(qs + d * ${PITCH} + 4 * ty, a);
          ld4(ks + d * ${PITCH} + 4 * tx, b);
          #pragma unroll
          for (int i = 0; i < 4; i++) {
            #pragma unroll
            for (int j = 0; j < 4; j++) score[i][j] += a[i] * b[j];
          }
        }
      }
      auto judge = [&](auto guarded) {
        #pragma unroll
        for (int i = 0; i < 4; i++) {
          const long long i2 = fewer(row + i, last);
          #pragma unroll
          for (int j = 0; j < 4; j++) {
            const long long r0 = first + 4 * tx + j;
            float s = -INFINITY;
            if (!guarded.value || (r0 >= from[i] && r0 < until[i])) {
              const float dot = score[i][j];
              ${once} ${each}
              s = (float)(${attention.score});
            }
            score[i][j] = s;
          }
        }
      };
      if (first >= sure_from && first + ${TILE} <= sure_until) judge(no());
      else judge(yes());
      #pragma unroll
      for (int i = 0; i < 4; i++) {
        float larger = most[i];
        #pragma unroll
        for (int j = 0; j < 4; j++) larger = score[i][j] > larger ? score[i][j] : larger;
        for (int o = 1; o < ${ACROSS}; o *= 2) {
          const float other = __shfl_xor_sync(0xffffffffu, larger, o);
          larger = other > larger ? other : larger;
        }
        // A row that has seen nothing yet stays at nothing.
        const float top = larger == -INFINITY ? 0.f : larger, old = f_exp(most[i] - top);
        most[i] = larger;
        total[i] *= old;
        #pragma unroll
        for (int j = 0; j < 4; j++) {
          score[i][j] = f_exp(score[i][j] - top);
          total[i] += score[i][j];
        }
        #pragma unroll
        for (int c = 0; c < ${chunks}; c++) for (int j = 0; j < 4; j++) sum[c][i][j] *= old;
        st4(weights + (4 * ty + i) * ${PITCH} + 4 * tx, score[i]);
      }
      #pragma unroll
      for (int c = 0; c < ${chunks}; c++) {
        __syncthreads();
        for (int e = threadIdx.x; e < ${TILE * TILE}; e += ${THREADS}) {
          const int r = e / ${TILE}, column = c * ${TILE} + e % ${TILE};
          const long long at = first + r;
          tiles[r * ${PITCH} + e % ${TILE}] = at < n_keys && column < ${valueSize} ? (float)ld(v[${value} + column]) : 0.f;
        }
        __syncthreads();
        #pragma unroll 4
        for (int r = 0; r < ${TILE}; r += 4) {
          float w[4][4];
          #pragma unroll
          for (int i = 0; i < 4; i++) ld4(weights + (4 * ty + i) * ${PITCH} + r, w[i]);
          #pragma unroll
          for (int m = 0; m < 4; m++) {
            float b[4];
            ld4(tiles + (r + m) * ${PITCH} + 4 * tx, b);
            #pragma unroll
            for (int i = 0; i < 4; i++) {
              #pragma unroll
              for (int j = 0; j < 4; j++) sum[c][i][j] += w[i][m] * b[j];
            }
          }
        }
      }
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) {
      for (int o = 1; o < ${ACROSS}; o *= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], o);
      const float scaled = total[i] == 0.f ? 0.f : 1.f / total[i];
      const long long i2 = row + i;
      if (i2 > last) continue;
      #pragma unroll
      for (int c = 0; c < ${chunks}; c++) {
        #pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = c * ${TILE} + 4 * tx + j;
          if (column < ${valueSize}) st(y + ${to} + column, sum[c][i][j] * scaled);
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
    threads: THREADS,
  };
}
