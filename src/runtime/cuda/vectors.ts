/** Several elements at once: one access to memory for 4 of them, or for up to 4 words. Addresses must be multiples of what is accessed. */
export const VECTORS = `
struct alignas(8) words2 { unsigned int w[2]; };
struct alignas(16) words4 { unsigned int w[4]; };
template <int N> static __device__ __forceinline__ void ldw(const unsigned int* p, unsigned int* to);
template <> __device__ __forceinline__ void ldw<1>(const unsigned int* p, unsigned int* to) { to[0] = *p; }
template <> __device__ __forceinline__ void ldw<2>(const unsigned int* p, unsigned int* to) {
  const words2 v = *(const words2*)p;
  to[0] = v.w[0]; to[1] = v.w[1];
}
template <> __device__ __forceinline__ void ldw<4>(const unsigned int* p, unsigned int* to) {
  const words4 v = *(const words4*)p;
  to[0] = v.w[0]; to[1] = v.w[1]; to[2] = v.w[2]; to[3] = v.w[3];
}
template <class T> static __device__ __forceinline__ T half_of(unsigned int word, int which) {
  T v;
  v.x = (unsigned short)(word >> (16 * which));
  return v;
}
static __device__ __forceinline__ void ld4(const float* p, float* to) {
  const words4 v = *(const words4*)p;
  for (int e = 0; e < 4; e++) to[e] = __uint_as_float(v.w[e]);
}
template <class T> static __device__ __forceinline__ void ld4(const T* p, float* to) { // f16, bf16
  const words2 v = *(const words2*)p;
  for (int e = 0; e < 4; e++) to[e] = ld(half_of<T>(v.w[e >> 1], e & 1));
}
static __device__ __forceinline__ void st4(float* p, const float* from) {
  words4 v;
  for (int e = 0; e < 4; e++) v.w[e] = __float_as_uint(from[e]);
  *(words4*)p = v;
}
template <class T> static __device__ __forceinline__ void st4(T* p, const float* from) {
  T h[4];
  for (int e = 0; e < 4; e++) st(h + e, from[e]);
  words2 v;
  for (int e = 0; e < 2; e++) v.w[e] = h[2 * e].x | (unsigned int)h[2 * e + 1].x << 16;
  *(words2*)p = v;
}
`;
