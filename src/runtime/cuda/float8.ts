/**
 * 8-bit floats in kernels: bytes that are restored and rounded by integer operations, as not every GPU has instructions for them.
 *
 * Source: ONNX, "Float stored in 8 bits". `FORM` 0 is that of IEEE (infinities), 1 has one NaN and no infinity ("fn"), 2 has its only NaN
 * where a negative zero would be ("fnuz").
 */
import type { DType } from "../../core/dtype.ts";

interface Float8 {
  /** Bits of the mantissa. */
  readonly mantissa: number;
  readonly bias: number;
  readonly form: 0 | 1 | 2;
  /** The code of the largest number. */
  readonly largest: number;
}

const FORMATS = {
  f8e4m3fn: { mantissa: 3, bias: 7, form: 1, largest: 0x7e },
  f8e4m3fnuz: { mantissa: 3, bias: 8, form: 2, largest: 0x7f },
  f8e5m2: { mantissa: 2, bias: 15, form: 0, largest: 0x7b },
  f8e5m2fnuz: { mantissa: 2, bias: 16, form: 2, largest: 0x7f },
} as const satisfies Partial<Record<DType, Float8>>;

/** C types by dtype. */
export const FLOAT8_TYPES: Partial<Record<DType, string>> = {
  ...Object.fromEntries(Object.keys(FORMATS).map((dtype) => [dtype, dtype])),
  f8e8m0: "f8e8m0",
};

/** Types and functions of the prelude. */
export const FLOAT8 = `
template <int M, int BIAS, int FORM> static __device__ __forceinline__ float f8_value(unsigned int v) {
  const unsigned int sign = (v & 0x80) << 24, e = (v & 0x7f) >> M, m = v & ((1 << M) - 1);
  if (FORM == 2 ? v == 0x80 : FORM == 1 ? (v & 0x7f) == 0x7f : e == 31) {
    return __uint_as_float(sign | 0x7f800000 | (FORM != 0 || m != 0 ? 0x400000 : 0));
  }
  if (e == 0) return __uint_as_float(sign | ((128 - BIAS - M) << 23)) * (float)m;
  return __uint_as_float(sign | ((e + 127 - BIAS) << 23) | (m << (23 - M)));
}
// The nearest, ties to even. What is too large is the largest where SATURATE says so, else infinity or NaN.
template <int M, int BIAS, int FORM, int LARGEST> static __device__ __forceinline__ unsigned char f8_code(float v, bool saturate) {
  const unsigned int bits = __float_as_uint(v), sign = (bits >> 24) & 0x80;
  if (v != v) return FORM == 2 ? 0x80 : 0x7f;
  int e = (int)((bits >> 23) & 0xff) - 127;
  e = e < 1 - BIAS ? 1 - BIAS : e;
  unsigned int code = 0xff; // infinity
  if (e < 100) {
    const unsigned int n = (unsigned int)rintf(__uint_as_float(bits & 0x7fffffff) * __uint_as_float((unsigned int)(127 + M - e) << 23));
    code = ((unsigned int)(e + BIAS) << M) + n - (1 << M);
  }
  if (code > LARGEST) {
    if (!saturate) return FORM == 2 ? 0x80 : sign | (FORM == 1 ? 0x7f : 0x7c);
    code = LARGEST;
  }
  return FORM == 2 && code == 0 ? 0 : sign | code;
}
${
  Object.entries(FORMATS).map(([name, { mantissa, bias, form, largest }]) =>
    `struct ${name} { unsigned char x; };\n` +
    `static __device__ __forceinline__ float ld(${name} v) { return f8_value<${mantissa}, ${bias}, ${form}>(v.x); }\n` +
    `template <class V> static __device__ __forceinline__ void st(${name}* p, V v) { ` +
    `p->x = f8_code<${mantissa}, ${bias}, ${form}, ${largest}>((float)v, true); }\n` +
    `static __device__ __forceinline__ unsigned char unsaturated_${name}(float v) { ` +
    `return f8_code<${mantissa}, ${bias}, ${form}, ${largest}>(v, false); }`
  ).join("\n")
}
struct f8e8m0 { unsigned char x; };
static __device__ __forceinline__ float ld(f8e8m0 v) {
  return v.x == 0xff ? __uint_as_float(0x7fc00000) : v.x == 0 ? __uint_as_float(0x400000) : __uint_as_float((unsigned int)v.x << 23);
}
`;
