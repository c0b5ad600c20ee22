/**
 * CUDA C of all-reduces over peer memory, one text for a number of ranks, a dtype and a reduction.
 *
 * NCCL passes a message from rank to rank; small ones take as many hops as there are ranks, however few bytes they have. Where every GPU reaches
 * the memory of every other, a rank instead writes its values into a place that each other rank keeps for it, and raises a flag there:
 *
 *     one-shot   all values to all ranks; each sums all of them            one hop, (ranks - 1) times the message
 *     two-shot   a part of the values to each rank, which sums that part   two hops, about twice the message
 *                and sends the sum to all
 *
 * **What a rank's area holds.** For each block of the grid a sequence number and flags, one a source rank and hop; and for each block two banks of
 * slots, one a source rank. Values are written there by others, and read by their owner only: a flag and what it stands for lie in the reader's own
 * memory, so that waiting costs no traffic, and the way from rank to rank is one write.
 *
 * **Blocks never wait for each other.** Block b of a rank exchanges with block b of the others, and its sequence number counts its own calls. It lies in
 * device memory, as a launch that is recorded in a graph has the same arguments every time. All ranks make the same calls, so the numbers agree.
 *
 * **Two banks, one wait.** Bank n % 2 takes the values of call n. A rank writes call n into a peer's bank when it has seen the flags of call n-1,
 * which that peer raised in its kernel of n-1, so after its kernel of n-2, the last that read this bank, had ended. (In shared memory of a CPU the
 * same holds of barriers: ARCHITECTURE.md, "Zero-copy collectives".)
 *
 * **Order of memory.** All threads of a block write; then a barrier; then one thread a peer stores the flag with release order at the scope of the
 * system. The reader's thread loads it with acquire order; then a barrier; then all threads read. Flags only grow, and are compared by their difference:
 * a peer may be one call ahead, and numbers may wrap.
 *
 * **The same bits everywhere.** Values are summed in the order of ranks, 16-bit floats in 32 bits, and rounded once.
 *
 * **Nobody waits for ever.** A wait ends when the host says so (it sees a dead peer first), or after a time in cycles of the clock. Then the kernel
 * tells the host which ranks were missing and marks the area as lost, at which all later calls return at once.
 */
import type { DType } from "../../core/dtype.ts";
import type { Reduction } from "../../graph/placement.ts";
import type { NamedText } from "./kernel_texts.ts";
import { cType } from "./prelude.ts";

/** How ranks exchange: in one hop, or in two. */
export type Shots = "one-shot" | "two-shot";

/** Bytes of a value of the kernels: what a thread moves at once. */
export const UNIT_BYTES = 16;
/** Blocks of a grid at most: enough for the links, and all of them run at once on any GPU. */
export const PEER_BLOCKS = 32;
/** Threads of a block at most. */
export const PEER_THREADS = 256;
/** Bytes that a block takes of a message in one shot. */
export const CHUNK_BYTES: number = 16 * 1024;
/** Bytes between the flags of two blocks: lines of their own. */
const FLAG_STRIDE = 256;
/** Ranks at most: two hops' flags of a block fit into its lines. */
export const PEER_RANKS: number = FLAG_STRIDE / 8;
/** Where the sequence numbers, the mark of a lost area and the banks begin. */
const SEQUENCES_AT = PEER_BLOCKS * FLAG_STRIDE, LOST_AT = SEQUENCES_AT + 4 * PEER_BLOCKS;
const BANKS_AT = SEQUENCES_AT + 4096;

/** Bytes of a rank's area. */
export function areaBytes(ranks: number): number {
  return BANKS_AT + 2 * PEER_BLOCKS * ranks * CHUNK_BYTES;
}

/** Bytes of a message at most: in two shots a bank holds a part of each rank's values, and as much of sums. */
export function largestMessage(shots: Shots, ranks: number): number {
  const chunk = shots === "one-shot" ? CHUNK_BYTES : ranks * Math.floor(CHUNK_BYTES / 2 / UNIT_BYTES) * UNIT_BYTES;
  return PEER_BLOCKS * chunk;
}

/** Bytes of what the host and the kernels tell each other: whether to end, and which ranks were missing. */
export const STATUS_BYTES: number = 4 + 4 * PEER_RANKS;

const SIZES: Partial<Record<DType, number>> = {
  ...{ f64: 8, i64: 8, u64: 8, f32: 4, i32: 4, u32: 4, f16: 2, bf16: 2, i16: 2, u16: 2, i8: 1, u8: 1 },
};
const SUMS: Partial<Record<DType, string>> = { f32: "float", f16: "float", bf16: "float" };
const COMBINE: Readonly<Record<Reduction, string>> = {
  sum: "a + b",
  // As NCCL: a NaN counts only where all are.
  max: "a != a ? b : b != b ? a : a > b ? a : b",
  min: "a != a ? b : b != b ? a : a < b ? a : b",
};

/** Whether there is a kernel for `dtype`. */
export function canPeerReduce(dtype: DType): boolean {
  return SIZES[dtype] !== undefined;
}

/** Which kernel. */
export interface PeerKernel {
  readonly shots: Shots;
  readonly ranks: number;
  readonly dtype: DType;
  readonly reduction: Reduction;
}

/** The kernel's text; its argument is `{ in, out, areas by rank, status, elements, units of a block, rank, cycles to wait }`. Pure. */
export function peerText({ shots, ranks, dtype, reduction }: PeerKernel): NamedText {
  const T = cType(dtype), name = `peer_${shots.replace("-", "_")}_${ranks}_${dtype}_${reduction}`;
  const load = SUMS[dtype] === undefined ? "x" : "ld(x)";
  const text = `namespace n_${name} {
typedef ${T} T;
typedef ${SUMS[dtype] ?? T} A;
enum { RANKS = ${ranks}, EACH = ${UNIT_BYTES} / sizeof(T) };
typedef long long I;
struct P {
  const T* in; T* out;
  unsigned char* areas[RANKS];
  unsigned int* status;
  I elements, per, rank, patience;
};
union Unit { words4 all; T each[EACH]; };
static __device__ __forceinline__ A combine(A a, A b) { return (A)(${COMBINE[reduction]}); }
${FLAGS}
${shots === "one-shot" ? ONE_SHOT : TWO_SHOT}
}
extern "C" __global__ void __launch_bounds__(${PEER_THREADS}) ${name}(const __grid_constant__ n_${name}::P p) { n_${name}::run(p); }
`;
  return { name, text: text.replaceAll("LOAD(x)", load) };
}

/** What both kinds share: the area, flags, and units of a message whose ends and alignment are any. */
const FLAGS = `#ifdef __CUDACC__
static __device__ __forceinline__ void raise(unsigned int* flag, unsigned int n) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" :: "l"(flag), "r"(n) : "memory");
}
static __device__ __forceinline__ unsigned int look(const unsigned int* flag) {
  unsigned int n;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(n) : "l"(flag) : "memory");
  return n;
}
#else
static __device__ __forceinline__ void raise(unsigned int* flag, unsigned int n) { __atomic_store_n(flag, n, __ATOMIC_RELEASE); }
static __device__ __forceinline__ unsigned int look(const unsigned int* flag) { return __atomic_load_n(flag, __ATOMIC_ACQUIRE); }
#endif
static __device__ __forceinline__ unsigned int* flag_of(unsigned char* area, int hop, int source) {
  return (unsigned int*)(area + blockIdx.x * ${FLAG_STRIDE}) + hop * RANKS + source;
}
static __device__ __forceinline__ unsigned int* sequence_of(unsigned char* area) {
  return (unsigned int*)(area + ${SEQUENCES_AT}) + blockIdx.x;
}
static __device__ __forceinline__ unsigned int* lost_mark(unsigned char* area) { return (unsigned int*)(area + ${LOST_AT}); }
static __device__ __forceinline__ words4* bank_of(unsigned char* area, unsigned int n) {
  return (words4*)(area + ${BANKS_AT} + ((I)(n & 1) * ${PEER_BLOCKS} + blockIdx.x) * (RANKS * ${CHUNK_BYTES}));
}
static __device__ bool arrived(const unsigned int* flag, unsigned int n, const P& p) {
  for (int i = 0; i < 4096; i++) if ((int)(look(flag) - n) >= 0) return true;
  for (const I start = clock64();;) {
    for (int i = 0; i < 64; i++) {
      if ((int)(look(flag) - n) >= 0) return true;
      __nanosleep(100);
    }
    if (look(p.status) != 0 || clock64() - start > p.patience) return false;
  }
}
// Tells all peers that what this block wrote for them is there, and waits for what they wrote. False, on all threads, if that does not come.
static __device__ bool exchange(int hop, unsigned int n, const P& p) {
  __shared__ int missing;
  if (threadIdx.x == 0) missing = 0;
  __syncthreads();
  const int peer = threadIdx.x;
  if (peer < RANKS && peer != p.rank) {
    raise(flag_of(p.areas[peer], hop, (int)p.rank), n);
    if (!arrived(flag_of(p.areas[p.rank], hop, peer), n, p)) {
      raise(p.status + 1 + peer, 1);
      missing = 1;
    }
  }
  __syncthreads();
  const bool all = missing == 0;
  if (!all && threadIdx.x == 0) raise(lost_mark(p.areas[p.rank]), 1);
  __syncthreads(); // missing is used again
  return all;
}
// The number of this call; 0 when the area is lost.
static __device__ unsigned int begun(const P& p) {
  __shared__ unsigned int number;
  if (threadIdx.x == 0) {
    number = *sequence_of(p.areas[p.rank]) + 1;
    if (number == 0) number = 2; // 0 is what means lost; parity stays
    if (*lost_mark(p.areas[p.rank]) != 0) number = 0;
  }
  __syncthreads();
  return number;
}
static __device__ __forceinline__ void ended(unsigned int n, const P& p) {
  if (threadIdx.x == 0) *sequence_of(p.areas[p.rank]) = n;
}
static __device__ __forceinline__ bool whole(const void* at, I unit, I elements) {
  return (unsigned long long)at % ${UNIT_BYTES} == 0 && (unit + 1) * EACH <= elements;
}
static __device__ __forceinline__ Unit read(const T* from, I unit, I elements) {
  Unit u;
  if (whole(from, unit, elements)) u.all = *(const words4*)(from + unit * EACH);
  else {
    u.all = {{0, 0, 0, 0}};
    for (int e = 0; e < EACH; e++) if (unit * EACH + e < elements) u.each[e] = from[unit * EACH + e];
  }
  return u;
}
static __device__ __forceinline__ void write(T* to, I unit, I elements, const Unit& u) {
  if (whole(to, unit, elements)) *(words4*)(to + unit * EACH) = u.all;
  else for (int e = 0; e < EACH; e++) if (unit * EACH + e < elements) to[unit * EACH + e] = u.each[e];
}
// The reduction, in the order of ranks, of this rank's unit and of what lies in the slots of the others.
static __device__ __forceinline__ Unit reduced(const Unit& own, const words4* slots, I slot, int rank) {
  A sum[EACH];
  #pragma unroll
  for (int r = 0; r < RANKS; r++) {
    Unit u;
    if (r == rank) u = own;
    else u.all = slots[r * slot];
    #pragma unroll
    for (int e = 0; e < EACH; e++) {
      const T x = u.each[e];
      const A v = LOAD(x);
      sum[e] = r == 0 ? v : combine(sum[e], v);
    }
  }
  Unit out;
  #pragma unroll
  for (int e = 0; e < EACH; e++) st(&out.each[e], sum[e]);
  return out;
}`;

const ONE_SHOT = `static __device__ void run(const P& p) {
  const unsigned int n = begun(p);
  if (n == 0) return;
  const int rank = (int)p.rank;
  const I first = blockIdx.x * p.per, units = (p.elements + EACH - 1) / EACH;
  const I end = first + p.per < units ? first + p.per : units;
  for (I u = first + threadIdx.x; u < end; u += blockDim.x) {
    const Unit own = read(p.in, u, p.elements);
    for (int peer = 0; peer < RANKS; peer++) if (peer != rank) bank_of(p.areas[peer], n)[rank * p.per + u - first] = own.all;
  }
  if (!exchange(0, n, p)) return;
  const words4* slots = bank_of(p.areas[rank], n);
  for (I u = first + threadIdx.x; u < end; u += blockDim.x) {
    write(p.out, u, p.elements, reduced(read(p.in, u, p.elements), slots + u - first, p.per, rank));
  }
  ended(n, p);
}`;

const TWO_SHOT = `static __device__ void run(const P& p) {
  const unsigned int n = begun(p);
  if (n == 0) return;
  const int rank = (int)p.rank;
  const I first = blockIdx.x * p.per, units = (p.elements + EACH - 1) / EACH;
  const I end = first + p.per < units ? first + p.per : units;
  const I part = (p.per + RANKS - 1) / RANKS; // rank r sums the units of this block from first + r * part on
  for (I u = first + threadIdx.x; u < end; u += blockDim.x) {
    const int peer = (int)((u - first) / part);
    if (peer != rank) bank_of(p.areas[peer], n)[rank * part + (u - first) % part] = read(p.in, u, p.elements).all;
  }
  if (!exchange(0, n, p)) return;
  const words4* slots = bank_of(p.areas[rank], n);
  const I mine = first + rank * part, last = mine + part < end ? mine + part : end;
  for (I u = mine + threadIdx.x; u < last; u += blockDim.x) {
    const Unit sum = reduced(read(p.in, u, p.elements), slots + u - mine, part, rank);
    write(p.out, u, p.elements, sum);
    for (int peer = 0; peer < RANKS; peer++) {
      if (peer != rank) bank_of(p.areas[peer], n)[(RANKS + rank) * part + u - mine] = sum.all;
    }
  }
  if (!exchange(1, n, p)) return;
  for (I u = first + threadIdx.x; u < end; u += blockDim.x) {
    const int peer = (int)((u - first) / part);
    if (peer == rank) continue;
    Unit sum;
    sum.all = slots[RANKS * part + u - first];
    write(p.out, u, p.elements, sum);
  }
  ended(n, p);
}`;
