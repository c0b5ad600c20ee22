/**
 * Floats of 8 bits: E4M3FN (no infinity, largest 448) and E5M2 (as f16 cut short). Rounded to nearest, ties to even; what is
 * too large becomes NaN in E4M3FN and infinity in E5M2, as PyTorch and ONNX without saturation have it.
 *
 * Source: Micikevicius et al., FP8 Formats for Deep Learning, 2022; ONNX, "Float stored in 8 bits".
 */

/** Their dtypes. */
export type F8 = "f8e4m3fn" | "f8e5m2";

interface Format {
  readonly mantissaBits: number;
  readonly bias: number;
  /** Largest finite value, and the bits of what is larger, without the sign. */
  readonly largest: number;
  readonly overflow: number;
  readonly nan: number;
}

const FORMATS: Readonly<Record<F8, Format>> = {
  f8e4m3fn: { mantissaBits: 3, bias: 7, largest: 448, overflow: 0x7f, nan: 0x7f },
  f8e5m2: { mantissaBits: 2, bias: 15, largest: 57344, overflow: 0x7c, nan: 0x7e },
};

/** The value of one float of 8 bits. */
export function f8ToNumber(dtype: F8, bits: number): number {
  const { mantissaBits, bias } = FORMATS[dtype];
  const sign = bits & 0x80 ? -1 : 1, rest = bits & 0x7f;
  const exponent = rest >> mantissaBits, mantissa = rest & ((1 << mantissaBits) - 1), one = 1 << mantissaBits;
  if (dtype === "f8e4m3fn" ? rest === 0x7f : exponent === 31 && mantissa > 0) return NaN;
  if (dtype === "f8e5m2" && exponent === 31) return sign * Infinity;
  if (exponent === 0) return sign * (mantissa / one) * 2 ** (1 - bias);
  return sign * (1 + mantissa / one) * 2 ** (exponent - bias);
}

/** The bits of `value`, rounded. */
export function numberToF8(dtype: F8, value: number): number {
  const { mantissaBits, bias, largest, overflow, nan } = FORMATS[dtype];
  if (Number.isNaN(value)) return nan;
  const sign = value < 0 || Object.is(value, -0) ? 0x80 : 0, size = Math.abs(value);
  if (size === Infinity) return sign | overflow;
  const exponent = size === 0 ? 1 - bias : Math.max(1 - bias, Math.floor(Math.log2(size)));
  // Both are exact: a power of two, and numbers of f32.
  const unit = 2 ** (exponent - mantissaBits), rounded = roundEven(size / unit) * unit;
  if (rounded > largest) return sign | overflow;
  if (rounded < 2 ** (1 - bias)) return sign | (rounded / unit);
  const found = Math.floor(Math.log2(rounded)); // rounding may have carried into the exponent
  return sign | ((found + bias) << mantissaBits) | ((rounded / 2 ** found - 1) * (1 << mantissaBits));
}

const TABLES: Readonly<Record<F8, Float32Array>> = { f8e4m3fn: table("f8e4m3fn"), f8e5m2: table("f8e5m2") };

/** Values of `bits` into `out`. */
export function decodeF8(dtype: F8, bits: Uint8Array, out: Float32Array): void {
  const values = TABLES[dtype];
  for (let i = 0; i < bits.length; i++) out[i] = values[bits[i]!]!;
}

/** Bits of `values` into `out`, as many as that holds. */
export function encodeF8(dtype: F8, values: Float32Array, out: Uint8Array): void {
  for (let i = 0; i < out.length; i++) out[i] = numberToF8(dtype, values[i]!);
}

function table(dtype: F8): Float32Array {
  return Float32Array.from({ length: 256 }, (_, bits) => f8ToNumber(dtype, bits));
}

function roundEven(value: number): number {
  const down = Math.floor(value), rest = value - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}
