/**
 * CUDA C for attention of few queries. Keys of one key/value head and query are shared out among blocks, a block's among its warps; a warp
 * holds the queries of all heads that share the keys, and for each a sum of values that is scaled anew when a larger score comes. A second
 * kernel joins what the blocks found.
 */
import type { AttendStep } from "../../ops/kernels/kernel.ts";
import { Arguments, declareParams, isWide, type Launch, offset } from "./kernel_arguments.ts";
import { KernelTexts } from "./kernel_texts.ts";

/** Warps of a block, and elements of queries and sums that a thread of one holds. */
const WARPS = 4, HELD = 32;

/** The kernels of an attention: of the parts, and of their sum. */
export function attendLaunches(step: AttendStep, texts: KernelTexts = new KernelTexts()): Launch[] {
  return [partsLaunch(step, texts), joinLaunch(step, texts)];
}

function partsLaunch(step: AttendStep, texts: KernelTexts): Launch {
  const { batch, heads, kvHeads, queries, keys, size, valueSize } = step.sizes, group = heads / kvHeads;
  const own = Math.ceil(size / 32), values = Math.ceil(valueSize / 32);
  const together = Math.max(1, Math.min(group, Math.floor(HELD / Math.max(own, values)))),
    turns = Math.ceil(group / together);
  const args = new Arguments();
  const limits = [step.from ?? "", step.until ?? ""], expressions = [step.score, ...limits];
  const q = args.address("q", step.query.operand, true), k = args.address("k", step.key.operand, true);
  const v = args.address("v", step.value.operand, true), y = args.address("y", step.partial, false);
  const params = declareParams(args, step.params ?? {}, (name) => texts.mentions(expressions, name));
  const count = {
    keys: args.int("n_keys", keys),
    queries: args.int("n_queries", queries),
    kv: args.int("n_kv", kvHeads),
  };
  const parts = args.int("n_parts", step.parts),
    rows = args.int("n_rows", batch * kvHeads * turns * queries * step.parts);
  const stride = (name: string, strides: readonly number[]) =>
    strides.slice(0, 3).map((s, d) => args.int(`${name}${d}`, s));
  const [qb, qh, qs] = stride("sq", step.query.strides), [kb, kh, ks] = stride("sk", step.key.strides);
  const [vb, vh, vs] = stride("sv", step.value.strides);
  const offsets = {
    q: args.int("oq", step.query.offset),
    k: args.int("ok", step.key.offset),
    v: args.int("ov", step.value.offset),
  };
  // Reads that no key moves are read once for a head, the others once for a key.
  const names = step.reads.map((read, r) => {
    const wanted = texts.mentions(expressions, `x${r}`);
    if (!wanted) return { once: "", each: "" };
    args.address(`p${r}`, read.operand, true);
    const base = args.int(`b${r}`, read.offset);
    const at = offset(`${r}`, args, { prefix: "i", strides: read.strides.slice(0, 3) });
    const step3 = read.strides[3]!;
    const moving = step3 === 0 ? "" : ` + r0 * ${args.int(`sr${r}`, step3)}`;
    const load = `const auto x${r} = ld(p.p${r}[${base} + ${at}${moving}]);`;
    return step3 === 0 ? { once: load, each: "" } : { once: "", each: load };
  });
  const once = names.map((n) => n.once).join(" "), each = names.map((n) => n.each).join(" ");
  const inside = (of: number, width: number) => (of * 32 === width ? "" : `e * 32 + lane < ${width} && `);
  const sumsOf = (of: string) => `for (int e = 0; e < ${of}; e++)`;
  const body = `  ${params}
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (I row = blockIdx.x; row < (I)${rows}; row += gridDim.x) {
    I rest = row;
    const long long part = rest % (I)${parts}; rest /= (I)${parts};
    const long long i2 = rest % (I)${count.queries}; rest /= (I)${count.queries};
    const long long turn = rest % ${turns}; rest /= ${turns};
    const long long kv = rest % (I)${count.kv}, i0 = rest / (I)${count.kv};
    const long long first = kv * ${group} + turn * ${together};
    const int heads = ${group} - turn * ${together} < ${together} ? ${group} - turn * ${together} : ${together};
    float query[${together}][${own}], sum[${together}][${values}], most[${together}], total[${together}];
    long long from[${together}], until[${together}], low = ${count.keys}, high = 0;
    for (int g = 0; g < ${together}; g++) {
      const long long i1 = first + (g < heads ? g : 0);
      most[g] = -INFINITY; total[g] = 0.f;
      ${sumsOf(`${own}`)} query[g][e] = ${
    inside(own, size)
  }g < heads ? ld(${q}[${offsets.q} + i0 * ${qb} + i1 * ${qh} + i2 * ${qs} + e * 32 + lane]) : 0.f;
      ${sumsOf(`${values}`)} sum[g][e] = 0.f;
      ${once}
      from[g] = ${step.from ?? "0"}; until[g] = ${step.until ?? count.keys};
      if (from[g] < 0) from[g] = 0;
      if (until[g] > ${count.keys}) until[g] = ${count.keys};
      if (from[g] < low) low = from[g];
      if (until[g] > high) high = until[g];
    }
    const long long share = high > low ? (high - low + ${parts} - 1) / ${parts} : 0;
    const long long begin = low + part * share, end = begin + share < high ? begin + share : high;
    for (long long r0 = begin + warp; r0 < end; r0 += ${WARPS}) {
      float key[${own}], value[${values}];
      ${sumsOf(`${own}`)} key[e] = ${
    inside(own, size)
  }true ? ld(${k}[${offsets.k} + i0 * ${kb} + kv * ${kh} + r0 * ${ks} + e * 32 + lane]) : 0.f;
      ${sumsOf(`${values}`)} value[e] = ${
    inside(values, valueSize)
  }true ? ld(${v}[${offsets.v} + i0 * ${vb} + kv * ${vh} + r0 * ${vs} + e * 32 + lane]) : 0.f;
      for (int g = 0; g < ${together}; g++) {
        const long long i1 = first + (g < heads ? g : 0);
        float dot = 0.f;
        ${sumsOf(`${own}`)} dot += query[g][e] * key[e];
        for (int o = 16; o > 0; o >>= 1) dot += __shfl_xor_sync(0xffffffffu, dot, o);
        ${once} ${each}
        const float score = r0 < from[g] || r0 >= until[g] ? -INFINITY : (float)(${step.score});
        if (score == -INFINITY) continue;
        const float larger = f_max(most[g], score), old = f_exp(most[g] - larger), weight = f_exp(score - larger);
        most[g] = larger;
        total[g] = total[g] * old + weight;
        ${sumsOf(`${values}`)} sum[g][e] = sum[g][e] * old + weight * value[e];
      }
    }
    __shared__ float tops[${WARPS}][${together}], totals[${WARPS}][${together}], sums[${WARPS}][${together}][${
    values * 32
  }];
    for (int g = 0; g < ${together}; g++) {
      if (lane == 0) { tops[warp][g] = most[g]; totals[warp][g] = total[g]; }
      ${sumsOf(`${values}`)} sums[warp][g][e * 32 + lane] = sum[g][e];
    }
    __syncthreads();
    for (int g = warp; g < heads; g += ${WARPS}) {
      float larger = -INFINITY, all = 0.f;
      for (int w = 0; w < ${WARPS}; w++) larger = f_max(larger, tops[w][g]);
      const long long to = (((i0 * ${count.kv} * ${group} + first + g) * ${count.queries} + i2) * ${parts} + part) * ${
    valueSize + 2
  };
      for (int w = 0; w < ${WARPS}; w++) all += tops[w][g] == -INFINITY ? 0.f : totals[w][g] * f_exp(tops[w][g] - larger);
      for (int e = lane; e < ${valueSize}; e += 32) {
        float mixed = 0.f;
        for (int w = 0; w < ${WARPS}; w++) mixed += tops[w][g] == -INFINITY ? 0.f : sums[w][g][e] * f_exp(tops[w][g] - larger);
        ${y}[to + e] = mixed;
      }
      if (lane == 0) { ${y}[to + ${valueSize}] = larger; ${y}[to + ${valueSize + 1}] = all; }
    }
    __syncthreads();
  }
`;
  return args.launch(body, {
    blocks: batch * kvHeads * turns * queries * step.parts,
    threads: 32 * WARPS,
    wide: isWide(batch * heads * queries * step.parts),
    texts,
  });
}

/** Rows of the parts' results become one; a row that attends to nothing is zeros. */
function joinLaunch(step: AttendStep, texts: KernelTexts): Launch {
  const { batch, heads, queries, valueSize } = step.sizes, args = new Arguments();
  const x = args.address("x", step.partial, true), y = args.address("y", step.result.operand, false);
  const rows = batch * heads * queries, count = args.int("n_rows", rows), parts = args.int("n_parts", step.parts);
  const sizes = [args.int("n_heads", heads), args.int("n_queries", queries)];
  const [b, h, s] = step.result.strides.slice(0, 3).map((stride, d) => args.int(`sy${d}`, stride));
  const base = args.int("oy", step.result.offset);
  const body = `  for (I row = blockIdx.x; row < (I)${count}; row += gridDim.x) {
    const long long i2 = row % (I)${sizes[1]}, i1 = row / (I)${sizes[1]} % (I)${sizes[0]}, i0 = row / (I)${
    sizes[1]
  } / (I)${sizes[0]};
    const float* from = ${x} + (long long)row * ${parts} * ${valueSize + 2};
    float larger = -INFINITY, total = 0.f;
    for (int part = 0; part < ${parts}; part++) larger = f_max(larger, from[part * ${valueSize + 2} + ${valueSize}]);
    for (int part = 0; part < ${parts}; part++) {
      const float* of = from + part * ${valueSize + 2};
      total += of[${valueSize}] == -INFINITY ? 0.f : of[${valueSize + 1}] * f_exp(of[${valueSize}] - larger);
    }
    for (int e = threadIdx.x; e < ${valueSize}; e += blockDim.x) {
      float mixed = 0.f;
      for (int part = 0; part < ${parts}; part++) {
        const float* of = from + part * ${valueSize + 2};
        mixed += of[${valueSize}] == -INFINITY ? 0.f : of[e] * f_exp(of[${valueSize}] - larger);
      }
      st(${y} + ${base} + i0 * ${b} + i1 * ${h} + i2 * ${s} + e, total == 0.f ? 0.f : mixed / total);
    }
  }
`;
  return args.launch(body, {
    blocks: rows,
    threads: Math.min(128, 32 * Math.ceil(valueSize / 32)),
    wide: isWide(rows),
    texts,
  });
}
