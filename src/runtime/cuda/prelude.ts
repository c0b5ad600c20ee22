/**
 * What every kernel text begins with: element types, and functions for float, double and integers under one name. Free of headers, so that
 * NVRTC needs no toolkit.
 */
import type { DType } from "../../core/dtype.ts";
import { GraphError } from "../../core/errors.ts";
import { FLOAT8, FLOAT8_TYPES } from "./float8.ts";
import { TENSOR_CORES } from "./tensor_cores.ts";
import { VECTORS } from "./vectors.ts";

const C_TYPES: Partial<Record<DType, string>> = {
  f32: "float",
  f64: "double",
  f16: "f16",
  bf16: "bf16",
  i64: "long long",
  i32: "int",
  i16: "short",
  i8: "signed char",
  u64: "unsigned long long",
  u32: "unsigned int",
  u16: "unsigned short",
  u8: "unsigned char",
  bool: "bool",
  ...FLOAT8_TYPES,
};

/** The C type of an element. @throws {GraphError} For dtypes that no kernel reads. */
export function cType(dtype: DType): string {
  const name = C_TYPES[dtype];
  if (name === undefined) {
    throw new GraphError(`Cannot use ${dtype} tensors on a GPU: no kernel reads them`, {
      hint: "run this model on the CPU",
    });
  }
  return name;
}

const UNARY = ["acos", "asin", "atan", "ceil", "cos", "cosh", "erf", "exp", "floor", "log", "log1p", "rint", "sin"];
const MORE = ["sinh", "sqrt", "tan", "tanh"];

/** Text before all kernels of a module. */
export const PRELUDE: string = `
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
struct alignas(2) bf16 { unsigned short x; };
struct alignas(2) f16 { unsigned short x; };
static __device__ __forceinline__ float ld(float v) { return v; }
static __device__ __forceinline__ double ld(double v) { return v; }
static __device__ __forceinline__ bool ld(bool v) { return v; }
static __device__ __forceinline__ long long ld(long long v) { return v; }
static __device__ __forceinline__ long long ld(unsigned long long v) { return (long long)v; }
static __device__ __forceinline__ long long ld(int v) { return v; }
static __device__ __forceinline__ long long ld(unsigned int v) { return v; }
static __device__ __forceinline__ long long ld(short v) { return v; }
static __device__ __forceinline__ long long ld(unsigned short v) { return v; }
static __device__ __forceinline__ long long ld(signed char v) { return v; }
static __device__ __forceinline__ long long ld(unsigned char v) { return v; }
static __device__ __forceinline__ float ld(bf16 v) { return __uint_as_float((unsigned int)v.x << 16); }
template <class T, class V> static __device__ __forceinline__ void st(T* p, V v) { *p = (T)v; }
template <class V> static __device__ __forceinline__ void st(bool* p, V v) { *p = v != 0; }
template <class V> static __device__ __forceinline__ void st(bf16* p, V w) { // nearest even; a NaN stays one
  float v = (float)w;
  unsigned int b = __float_as_uint(v);
  p->x = v != v ? 0x7fff : (unsigned short)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
#ifdef __CUDACC__
static __device__ __forceinline__ float ld(f16 v) { float r; asm("cvt.f32.f16 %0,%1;" : "=f"(r) : "h"(v.x)); return r; }
template <class V> static __device__ __forceinline__ void st(f16* p, V w) {
  unsigned short r;
  asm("cvt.rn.f16.f32 %0,%1;" : "=h"(r) : "f"((float)w));
  p->x = r;
}
#else
static __device__ __forceinline__ float ld(f16 v) { return (float)__builtin_bit_cast(_Float16, v.x); }
template <class V> static __device__ __forceinline__ void st(f16* p, V v) { p->x = __builtin_bit_cast(unsigned short, (_Float16)(float)v); }
#endif
${FLOAT8}${VECTORS}${TENSOR_CORES}${
  [...UNARY, ...MORE].map((f) =>
    `static __device__ __forceinline__ float f_${f}(float x) { return ${f}f(x); }\n` +
    `static __device__ __forceinline__ double f_${f}(double x) { return ${f}(x); }`
  ).join("\n")
}
static __device__ __forceinline__ float f_rsqrt(float x) { return 1.f / sqrtf(x); }
static __device__ __forceinline__ double f_rsqrt(double x) { return 1. / sqrt(x); }
static __device__ __forceinline__ float f_sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
static __device__ __forceinline__ double f_sigmoid(double x) { return 1. / (1. + exp(-x)); }
static __device__ __forceinline__ bool f_isinf(double x) { return x == INFINITY || x == -INFINITY; }
template <class A, class B> static __device__ __forceinline__ auto f_max(A a, B b) -> decltype(a + b) { return a != a ? a : a > b ? a : b; }
template <class A, class B> static __device__ __forceinline__ auto f_min(A a, B b) -> decltype(a + b) { return a != a ? a : a < b ? a : b; }
static __device__ __forceinline__ float f_pow(float a, float b) { return b == 2.f ? a * a : powf(a, b); }
static __device__ __forceinline__ double f_pow(double a, double b) { return pow(a, b); }
static __device__ __forceinline__ float f_pow(float a, long long b) { return f_pow(a, (float)b); }
static __device__ __forceinline__ double f_pow(double a, long long b) { return pow(a, (double)b); }
static __device__ __forceinline__ double f_pow(double a, float b) { return pow(a, (double)b); }
static __device__ __forceinline__ float f_pow(float a, double b) { return powf(a, (float)b); }
static __device__ __forceinline__ long long f_pow(long long a, long long b) {
  long long r = 1;
  for (; b > 0; b >>= 1, a *= a) if (b & 1) r *= a;
  return r;
}
static __device__ __forceinline__ long long f_pow(long long a, float b) { return f_pow(a, (long long)b); }
static __device__ __forceinline__ float f_fmod(float a, float b) { return fmodf(a, b); }
static __device__ __forceinline__ double f_fmod(double a, double b) { return fmod(a, b); }
static __device__ __forceinline__ long long f_fmod(long long a, long long b) { return a % b; }
static __device__ __forceinline__ long long f_mod(long long a, long long b) { // the sign is b's
  long long r = a % b;
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
static __device__ __forceinline__ long long f_wrap(long long i, long long size) { // never outside of [0, size)
  i = i < 0 ? i + size : i;
  return i < 0 ? 0 : i >= size ? size - 1 : i;
}
static __device__ __forceinline__ bool f_inside(long long i, long long size) { return i >= -size && i < size; }
static __device__ __forceinline__ bool f_own(long long i, long long size, long long wanted) { return i == wanted || i + size == wanted; }
static __device__ __forceinline__ long long f_mirror(long long i, long long size) { // back and forth between the ends
  const long long period = 2 * (size - 1), at = period == 0 ? 0 : f_mod(i, period);
  return at < size ? at : period - at;
}
template <class T> static __device__ __forceinline__ bool t_before(T a, int i, bool isNan, T b, int j, bool otherNan) { // in order of size, then of index
  return isNan != otherNan ? isNan : !isNan && a != b ? a > b : i < j;
}
template <class A, class F> static __device__ A f_block(A v, A init, F join) { // the join of all threads' v, on all threads
  __shared__ A part[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  for (int o = 16; o > 0; o >>= 1) v = join(v, __shfl_xor_sync(0xffffffffu, v, o));
  if (lane == 0) part[warp] = v;
  __syncthreads();
  if (warp == 0) {
    v = lane < warps ? part[lane] : init;
    for (int o = 16; o > 0; o >>= 1) v = join(v, __shfl_xor_sync(0xffffffffu, v, o));
    if (lane == 0) part[0] = v;
  }
  __syncthreads();
  v = part[0];
  __syncthreads(); // part is used again
  return v;
}
`;
