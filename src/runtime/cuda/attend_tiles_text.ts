/**
 * CUDA C for attention of many queries in 16-bit floats: a block has 64 queries of a head, 16 a warp, and goes through keys and values a
 * tile at a time, of which the next is on its way to shared memory while the present one is multiplied. Scores live in registers; sums are
 * scaled anew when a larger score comes.
 */
import type { AttendTilesStep } from "../../ops/kernels/kernel.ts";
import { Arguments, declareParams, type Launch, offset } from "./kernel_arguments.ts";
import { KernelTexts } from "./kernel_texts.ts";
import { cType } from "./prelude.ts";

const WARPS = 4, QUERIES = 16 * WARPS;

/** The kernel of an attention; none where there is nothing to compute. */
export function attendTilesLaunch(step: AttendTilesStep, texts: KernelTexts = new KernelTexts()): Launch[] {
  const { batch, heads, kvHeads, queries, keys, size, valueSize } = step.sizes;
  if (batch * heads * queries === 0) return [];
  const type = cType(step.query.operand.dtype), wide = Math.max(size, valueSize);
  // Two stages of keys and values take at most 40 KiB of shared memory.
  const tile = wide <= 64 ? 64 : 32, blocksOf = (n: number) => Math.ceil(n / 16);
  const dims = blocksOf(size), values = blocksOf(valueSize);
  // Rows 16 bytes longer than their elements begin in other banks.
  const keyRow = dims * 16 + 8, valueRow = values * 16 + 8;
  const args = new Arguments(), expressions = [step.score, step.from ?? "", step.until ?? ""];
  const q = args.address("q", step.query.operand, true), k = args.address("k", step.key.operand, true);
  const v = args.address("v", step.value.operand, true), y = args.address("y", step.result.operand, false);
  const params = declareParams(args, step.params ?? {}, (name) => texts.mentions(expressions, name));
  const n = {
    keys: args.int("n_keys", keys),
    queries: args.int("n_queries", queries),
    heads: args.int("n_heads", heads),
    group: heads / kvHeads,
    tiles: args.int("n_tiles", Math.ceil(queries / QUERIES)),
    units: args.int("n_units", batch * heads * Math.ceil(queries / QUERIES)),
  };
  const at = (name: string, { offset: first, strides }: { offset: number; strides: readonly number[] }) => {
    const [b, h, s] = strides.map((stride, d) => (d < 3 ? args.int(`${name}${d}`, stride) : ""));
    return { base: (head: string) => `${args.int(`o${name}`, first)} + i0 * ${b} + ${head} * ${h}`, row: s! };
  };
  const query = at("sq", step.query),
    key = at("sk", step.key),
    value = at("sv", step.value),
    to = at("sy", step.result);
  const reads = step.reads.map((read, r) => {
    if (!texts.mentions(expressions, `x${r}`)) return { once: "", each: "" };
    const from = args.address(`p${r}`, read.operand, true), base = args.int(`b${r}`, read.offset);
    const row = offset(`${r}`, args, { prefix: "i", strides: read.strides.slice(0, 3) }), step3 = read.strides[3]!;
    const moving = step3 === 0 ? "" : ` + r0 * ${args.int(`sr${r}`, step3)}`;
    const load = `const auto x${r} = ld(${from}[${base} + ${row}${moving}]);`;
    return step3 === 0 ? { once: load, each: "" } : { once: "", each: load };
  });
  const once = reads.map((r) => r.once).join(" "), each = reads.map((r) => r.each).join(" ");
  const copyTile = (
    name: string,
    from: { base: string; row: string },
    o: { row: number; blocks: number; size: number },
  ) => `
      for (int at = threadIdx.x; at < ${tile * o.blocks * 2}; at += ${32 * WARPS}) {
        const int row = at / ${o.blocks * 2}, column = at % ${o.blocks * 2} * 8;
        const bool wanted = first + row < ${n.keys} && column < ${o.size};
        copy16(&${name}[stage][row][column], ${from.base} + (wanted ? (first + row) * ${from.row} + column : 0), wanted);
      }`;
  const body = `  typedef ${type} T;
  ${params}
  __shared__ __align__(16) T ks[2][${tile}][${keyRow}];
  __shared__ __align__(16) T vs[2][${tile}][${valueRow}];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (I unit = blockIdx.x; unit < (I)${n.units}; unit += gridDim.x) {
    // The last queries first: with causal masks they have most to do.
    const long long turn = ${n.tiles} - 1 - unit % (I)${n.tiles}, i1 = unit / (I)${n.tiles} % (I)${n.heads};
    const long long i0 = unit / (I)${n.tiles} / (I)${n.heads}, kv = i1 / ${n.group};
    const T* const queries = ${q} + ${query.base("i1")};
    const T* const keys = ${k} + ${key.base("kv")};
    const T* const values = ${v} + ${value.base("kv")};
    const long long last = ${n.queries} - 1;
    long long row[2], from[2], until[2];
    for (int h = 0; h < 2; h++) {
      row[h] = turn * ${QUERIES} + warp * 16 + (lane >> 2) + 8 * h;
      const long long i2 = row[h] < last ? row[h] : last;
      ${once}
      from[h] = ${step.from ?? "0"};
      until[h] = ${step.until ?? n.keys};
      if (from[h] < 0) from[h] = 0;
      if (until[h] > ${n.keys}) until[h] = ${n.keys};
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
        a[d][m] = ${
    dims * 16 === size ? "" : `column >= ${size} ? 0u : `
  }*(const unsigned int*)(queries + i2 * ${query.row} + column);
      }
    }
    float sum[${2 * values}][4], most[2] = {-INFINITY, -INFINITY}, total[2] = {0.f, 0.f};
    #pragma unroll
    for (int d = 0; d < ${2 * values}; d++) for (int e = 0; e < 4; e++) sum[d][e] = 0.f;
    auto fetch = [&](long long first, int stage) {${
    copyTile("ks", { base: "keys", row: key.row }, { row: keyRow, blocks: dims, size })
  }${copyTile("vs", { base: "values", row: value.row }, { row: valueRow, blocks: values, size: valueSize })}
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
              s = (float)(${step.score});
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
      T* const out = ${y} + ${to.base("i1")} + row[h] * ${to.row};
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
  return [args.launch(body, {
    blocks: batch * heads * Math.ceil(queries / QUERIES),
    threads: 32 * WARPS,
    bound: 32 * WARPS,
    wide: false,
    texts,
  })];
}
