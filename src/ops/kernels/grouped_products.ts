/**
 * Products of rows with the matrix of the group that each belongs to, as experts need them: rows lie sorted by group, and where each group
 * begins only memory on the device tells. A block has 64 rows of one group and 64 columns; blocks that find no rows left do nothing.
 */
import type { CodeStep, Operand, Params, Pointer } from "./kernel.ts";

/** `y[slot] = x[row of slot] · weight[group of slot]ᵀ`. */
export interface GroupedProduct {
  readonly x: Operand;
  /** i32 of `[slots]`: the row of x that each slot is; its own by default. */
  readonly rowOf?: Operand | undefined;
  /** `[groups, rows, columns]`. */
  readonly weight: Operand;
  /** i32 of `[groups + 1]`: the first slot of each group, and the number of all. */
  readonly starts: Operand;
  readonly groups: number;
  readonly slots: number;
  readonly rows: number;
  readonly columns: number;
  /** `[slots, rows]`. */
  readonly y: Operand;
}

/** Rows and columns of a tile; elements of a row at a time. */
const TILE = 64, DEPTH = 32;

/** Whether a product of `columns` runs on tensor cores where its floats have 16 bits. */
export function isTensorForm({ dtype }: Operand, columns: number): boolean {
  return (dtype === "f16" || dtype === "bf16") && columns % 8 === 0;
}

/** The kernel of a product. */
export function groupedProduct(product: GroupedProduct): CodeStep {
  const { x, rowOf, weight, starts, groups, slots, rows, columns, y } = product;
  const across = Math.ceil(rows / TILE), tiles = (Math.ceil(slots / TILE) + groups) * across;
  const isTensor = isTensorForm(x, columns);
  const reads: Record<string, Pointer> = { x: { operand: x }, w: { operand: weight }, starts: { operand: starts } };
  if (rowOf) reads.row_of = { operand: rowOf };
  const params: Params = { n_groups: groups, n_rows: rows, n_columns: columns, n_across: across, n_tiles: tiles };
  const row = rowOf ? "row_of[slot]" : "slot";
  const body = `${isTensor ? `  typedef ${x.dtype} T;\n${TENSOR_TILES}` : PLAIN_TILES}
  for (I tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
    long long group = 0, at = tile / n_across;
    for (; group < n_groups; group++) {
      const long long own = (starts[group + 1] - starts[group] + ${TILE - 1}) / ${TILE};
      if (at < own) break;
      at -= own;
    }
    if (group == n_groups) continue;
    const long long first = starts[group] + at * ${TILE}, end = starts[group + 1], column = tile % n_across * ${TILE};
${isTensor ? tensorBody(row) : plainBody(row)}  }
`;
  return {
    kind: "code",
    body,
    reads,
    writes: { y: { operand: y } },
    params,
    blocks: tiles,
    threads: isTensor ? 128 : 256,
  };
}

/** Rows 16 bytes longer than their elements begin in other banks. */
const PITCH = DEPTH + 8;
const TENSOR_TILES = `  __shared__ __align__(16) T tiles[2][2][${TILE}][${PITCH}];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, down = (warp >> 1) * 32, right = (warp & 1) * 32;`;

/** A warp has 32 × 32 elements; the next tiles are on their way while the present ones are multiplied. */
function tensorBody(row: string): string {
  return `    float sum[2][4][4] = {};
    auto fetch = [&](long long begin, int stage) {
      for (int e = threadIdx.x; e < ${2 * TILE * (DEPTH / 8)}; e += 128) {
        const int which = e / ${TILE * (DEPTH / 8)}, r = e / ${DEPTH / 8} % ${TILE}, c = e % ${DEPTH / 8} * 8;
        const long long slot = first + r, own = column + r;
        const bool wanted = begin + c < n_columns && (which == 0 ? slot < end : own < n_rows);
        const void* from = which == 0 ? (const void*)(x + (wanted ? ${row} * n_columns + begin + c : 0))
                                      : (const void*)(w + (wanted ? (group * n_rows + own) * n_columns + begin + c : 0));
        copy16(&tiles[stage][which][r][c], from, wanted);
      }
      copies_begun();
    };
    fetch(0, 0);
    int stage = 0;
    for (long long begin = 0; begin < n_columns; begin += ${DEPTH}, stage ^= 1) {
      if (begin + ${DEPTH} < n_columns) { fetch(begin + ${DEPTH}, stage ^ 1); copies_done<1>(); }
      else copies_done<0>();
      __syncthreads();
      #pragma unroll
      for (int d = 0; d < ${DEPTH}; d += 16) {
        unsigned int a[2][4];
        #pragma unroll
        for (int i = 0; i < 2; i++) {
          unsigned int f[4];
          rows_fragment(f, &tiles[stage][0][down + 16 * i][d], ${PITCH});
          a[i][0] = f[0]; a[i][1] = f[2]; a[i][2] = f[1]; a[i][3] = f[3];
        }
        #pragma unroll
        for (int j = 0; j < 2; j++) {
          unsigned int b[4];
          rows_fragment(b, &tiles[stage][1][right + 16 * j][d], ${PITCH});
          #pragma unroll
          for (int i = 0; i < 2; i++) {
            mma(sum[i][2 * j], a[i], b[0], b[1], T());
            mma(sum[i][2 * j + 1], a[i], b[2], b[3], T());
          }
        }
      }
      __syncthreads();
    }
    #pragma unroll
    for (int i = 0; i < 2; i++) {
      #pragma unroll
      for (int j = 0; j < 4; j++) {
        #pragma unroll
        for (int e = 0; e < 4; e++) {
          const long long slot = first + down + 16 * i + (lane >> 2) + 8 * (e >> 1), to = column + right + 8 * j + 2 * (lane & 3) + (e & 1);
          if (slot < end && to < n_rows) st(y + slot * n_rows + to, sum[i][j][e]);
        }
      }
    }
`;
}

const PLAIN_TILES = `  __shared__ __align__(16) float xs[${DEPTH * (TILE + 4)}], ws[${DEPTH * (TILE + 4)}];
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;`;

/** A thread has 4 × 4 elements. */
function plainBody(row: string): string {
  const pitch = TILE + 4;
  return `    float sum[4][4] = {};
    for (long long begin = 0; begin < n_columns; begin += ${DEPTH}) {
      const int depth = n_columns - begin < ${DEPTH} ? n_columns - begin : ${DEPTH};
      __syncthreads();
      for (int e = threadIdx.x; e < ${TILE * DEPTH}; e += 256) {
        const int r = e / ${DEPTH}, d = e % ${DEPTH};
        if (d >= depth) continue;
        const long long slot = first + r, own = column + r;
        xs[d * ${pitch} + r] = slot < end ? (float)ld(x[${row} * n_columns + begin + d]) : 0.f;
        ws[d * ${pitch} + r] = own < n_rows ? (float)ld(w[(group * n_rows + own) * n_columns + begin + d]) : 0.f;
      }
      __syncthreads();
      #pragma unroll 8
      for (int d = 0; d < depth; d++) {
        float a[4], b[4];
        ld4(xs + d * ${pitch} + 4 * ty, a);
        ld4(ws + d * ${pitch} + 4 * tx, b);
        #pragma unroll
        for (int i = 0; i < 4; i++) {
          #pragma unroll
          for (int j = 0; j < 4; j++) sum[i][j] += a[i] * b[j];
        }
      }
    }
    #pragma unroll
    for (int i = 0; i < 4; i++) {
      #pragma unroll
      for (int j = 0; j < 4; j++) {
        const long long slot = first + 4 * ty + i, to = column + 4 * tx + j;
        if (slot < end && to < n_rows) st(y + slot * n_rows + to, sum[i][j]);
      }
    }
`;
}

/** Choices sorted by group. */
export interface SortedChoices {
  /** i32 of `[tokens, groups]`: the place of a group among those of a token; those below k are chosen. */
  readonly place: Operand;
  /** i32 of `[groups]`: how many choose each. */
  readonly counts: Operand;
  readonly tokens: number;
  readonly groups: number;
  readonly k: number;
  /** i32 of `[groups + 1]`, as in a grouped product. */
  readonly starts: Operand;
  /** i32 of `[tokens · k]`: token and group of each slot. */
  readonly tokenOf: Operand;
  readonly groupOf: Operand;
  /** i32 of `[tokens, k]`: the slot of each choice. */
  readonly slotOf: Operand;
}

/** The kernel that gives every choice its slot: a block a group, whose tokens stay in order. */
export function sortChoices(o: SortedChoices): CodeStep {
  const body = `  __shared__ int found[8];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (I group = blockIdx.x; group < n_groups; group += gridDim.x) {
    int next = 0;
    for (I g = 0; g < group; g++) next += counts[g];
    if (threadIdx.x == 0) {
      starts[group] = next;
      if (group == n_groups - 1) starts[n_groups] = next + counts[group];
    }
    for (long long first = 0; first < n_tokens; first += 256) {
      const long long token = first + threadIdx.x;
      const long long p = token < n_tokens ? ld(place[token * n_groups + group]) : k;
      const unsigned int chosen = __ballot_sync(0xffffffffu, p < k);
      if (lane == 0) found[warp] = __popc(chosen);
      __syncthreads();
      int slot = next + __popc(chosen & ((1u << lane) - 1));
      for (int v = 0; v < 8; v++) {
        if (v < warp) slot += found[v];
        next += found[v];
      }
      if (p < k) {
        token_of[slot] = (int)token;
        group_of[slot] = (int)group;
        slot_of[token * k + p] = slot;
      }
      __syncthreads();
    }
  }
`;
  return {
    kind: "code",
    body,
    reads: { place: { operand: o.place }, counts: { operand: o.counts } },
    writes: {
      starts: { operand: o.starts },
      token_of: { operand: o.tokenOf },
      group_of: { operand: o.groupOf },
      slot_of: { operand: o.slotOf },
    },
    params: { n_tokens: o.tokens, n_groups: o.groups, k: o.k },
    blocks: o.groups,
    threads: 256,
  };
}
