/**
 * Products of small matrices by a warp, for 16-bit floats: tensor cores where a GPU has them for a type, else sums by all lanes, which are
 * also what runs where no GPU is. A fragment is what a lane holds of a matrix; PTX says which elements these are ("Matrix Fragments for
 * mma.m16n8k16").
 */
export const TENSOR_CORES = `
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
#define HAS_MATRIX_LOADS
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define HAS_ASYNC_COPIES
#endif
struct yes { static constexpr bool value = true; };
struct no { static constexpr bool value = false; };
#ifdef __CUDA_ARCH__
static __device__ __forceinline__ unsigned int shared_address(const void* p) {
  unsigned long long at;
  asm("cvta.to.shared.u64 %0, %1;" : "=l"(at) : "l"(p));
  return (unsigned int)at;
}
#endif
// 16 bytes to shared memory, in the background; zeros unless they are wanted.
static __device__ __forceinline__ void copy16(void* to, const void* from, bool wanted) {
#ifdef HAS_ASYNC_COPIES
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(wanted ? 16 : 0) : "memory");
#else
  words4 v = {{0, 0, 0, 0}};
  if (wanted) v = *(const words4*)from;
  *(words4*)to = v;
#endif
}
static __device__ __forceinline__ void copies_begun() { // those so far are one group
#ifdef HAS_ASYNC_COPIES
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING> static __device__ __forceinline__ void copies_done() { // all but the last groups
#ifdef HAS_ASYNC_COPIES
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
// Fragments of b for two products, from 16 rows (n) of 16 elements (k) each, STRIDE elements apart.
template <class T> static __device__ __forceinline__ void rows_fragment(unsigned int (&b)[4], const T* tile, int stride) {
  const int lane = threadIdx.x & 31;
#ifdef HAS_MATRIX_LOADS
  const unsigned int at = shared_address(tile + ((lane & 7) + (lane >> 4) * 8) * stride + ((lane >> 3) & 1) * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(at) : "memory");
#else
  for (int m = 0; m < 4; m++) b[m] = *(const unsigned int*)(tile + ((lane >> 2) + (m >> 1) * 8) * stride + (m & 1) * 8 + 2 * (lane & 3));
#endif
}
// The same where rows are k and columns n.
template <class T> static __device__ __forceinline__ void columns_fragment(unsigned int (&b)[4], const T* tile, int stride) {
  const int lane = threadIdx.x & 31;
#ifdef HAS_MATRIX_LOADS
  const unsigned int at = shared_address(tile + ((lane & 7) + ((lane >> 3) & 1) * 8) * stride + (lane >> 4) * 8);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(at) : "memory");
#else
  for (int m = 0; m < 4; m++) {
    const T* p = tile + (2 * (lane & 3) + (m & 1) * 8) * stride + (lane >> 2) + (m >> 1) * 8;
    b[m] = p[0].x | (unsigned int)p[stride].x << 16;
  }
#endif
}
template <class T> static __device__ __forceinline__ unsigned int pair_of(float low, float high) {
  T h[2];
  st(h, low);
  st(h + 1, high);
  return h[0].x | (unsigned int)h[1].x << 16;
}
template <class T> static __device__ __forceinline__ void mma_by_lanes(float (&d)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1) {
  const int lane = threadIdx.x & 31;
  #pragma unroll 1 // not worth the text
  for (int k = 0; k < 8; k++) {
    const int own = (lane & ~3) + (k & 3), left = (lane & 3) * 8 + (k & 3);
    const bool half = k >= 4;
    const unsigned int low = __shfl_sync(0xffffffffu, half ? a[2] : a[0], own), high = __shfl_sync(0xffffffffu, half ? a[3] : a[1], own);
    const unsigned int b = half ? b1 : b0, first = __shfl_sync(0xffffffffu, b, left), second = __shfl_sync(0xffffffffu, b, left + 4);
    for (int e = 0; e < 2; e++) {
      const float x = ld(half_of<T>(low, e)), y = ld(half_of<T>(high, e)), u = ld(half_of<T>(first, e)), v = ld(half_of<T>(second, e));
      d[0] += x * u; d[1] += x * v; d[2] += y * u; d[3] += y * v;
    }
  }
}
// d[16,8] += a[16,16] b[16,8]
static __device__ __forceinline__ void mma(float (&d)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1, f16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[2]), "r"(a[3]), "r"(b1));
#else
  mma_by_lanes<f16>(d, a, b0, b1);
#endif
}
static __device__ __forceinline__ void mma(float (&d)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1, bf16) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
    : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  mma_by_lanes<bf16>(d, a, b0, b1);
#endif
}
`;
