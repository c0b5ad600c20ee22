/**
 * 16-bit floats as their bits, to and from float32. Rounding is to nearest, ties to even; overflow gives infinity; subnormals and
 * the sign of zero are kept; a NaN stays a NaN (its payload's upper bits are kept, and it is made quiet when narrowed).
 *
 * `f16` is IEEE 754 binary16; `bf16` is the upper half of a float32.
 */

const F32 = new Float32Array(1);
const U32 = new Uint32Array(F32.buffer);

/** The float32 nearest to `value`, as the bits of a binary16. */
export function f32ToF16(value: number): number {
  F32[0] = value;
  return narrowF16(U32[0]!);
}

/** The value of a binary16 given by its bits; exact. */
export function f16ToF32(bits: number): number {
  U32[0] = widenF16(bits);
  return F32[0]!;
}

/** The float32 nearest to `value`, as the bits of a bfloat16. */
export function f32ToBf16(value: number): number {
  F32[0] = value;
  return narrowBf16(U32[0]!);
}

/** The value of a bfloat16 given by its bits; exact. */
export function bf16ToF32(bits: number): number {
  U32[0] = bits << 16;
  return F32[0]!;
}

/** The bits of each element of `values` as binary16, into `out` (same length, or longer) if given. */
export function f32ArrayToF16(values: Float32Array, out = new Uint16Array(values.length)): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) out[i] = narrowF16(bits[i]!);
  return out;
}

/** The values of binary16 bits, into `out` (same length, or longer) if given. */
export function f16ArrayToF32(halves: Uint16Array, out = new Float32Array(halves.length)): Float32Array {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < halves.length; i++) bits[i] = widenF16(halves[i]!);
  return out;
}

/** The bits of each element of `values` as bfloat16, into `out` (same length, or longer) if given. */
export function f32ArrayToBf16(values: Float32Array, out = new Uint16Array(values.length)): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) out[i] = narrowBf16(bits[i]!);
  return out;
}

/** The values of bfloat16 bits, into `out` (same length, or longer) if given. */
export function bf16ArrayToF32(halves: Uint16Array, out = new Float32Array(halves.length)): Float32Array {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16;
  return out;
}

function narrowF16(x: number): number {
  const sign = (x >>> 16) & 0x8000;
  const exponent = (x >>> 23) & 0xff;
  const mantissa = x & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (mantissa === 0 ? 0 : 0x200 | (mantissa >>> 13));
  if (exponent >= 113) {
    // Normal in binary16, unless rounding carries past the largest: then the carry makes exactly the bits of infinity.
    const rounded = ((exponent - 112) << 10) + roundShift(mantissa, 13);
    return sign | (rounded > 0x7c00 ? 0x7c00 : rounded);
  }
  // Subnormal: the implicit one is shifted in. Below half of the smallest subnormal everything is zero.
  const shift = 126 - exponent;
  return shift > 24 ? sign : sign | roundShift(mantissa | 0x800000, shift);
}

function widenF16(h: number): number {
  const sign = (h & 0x8000) << 16;
  const exponent = (h >>> 10) & 0x1f;
  const mantissa = h & 0x3ff;
  if (exponent === 0x1f) return sign | 0x7f800000 | (mantissa << 13);
  if (exponent !== 0) return sign | ((exponent + 112) << 23) | (mantissa << 13);
  if (mantissa === 0) return sign;
  const lead = Math.clz32(mantissa) - 21; // places until bit 10 is set
  return sign | ((113 - lead) << 23) | (((mantissa << lead) & 0x3ff) << 13);
}

function narrowBf16(x: number): number {
  if ((x & 0x7fffffff) > 0x7f800000) return (x >>> 16) | 0x40;
  return ((x + 0x7fff + ((x >>> 16) & 1)) >>> 16) & 0xffff;
}

/** `value / 2^shift` rounded to nearest, ties to even. */
function roundShift(value: number, shift: number): number {
  const kept = value >>> shift;
  const rest = value & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  return rest > half || (rest === half && (kept & 1) === 1) ? kept + 1 : kept;
}
