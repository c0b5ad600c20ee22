/**
 * Numbers that are given (weights, fills, inputs) in another float dtype than their own.
 *
 * They stay finite: exporters hide positions by the lowest number of 32 bits, which is beyond the others' range. As an infinity it
 * would not hide but spoil (times zero, in masks that are made by multiplication); the lowest number of the narrow dtype hides as well.
 */
import type { DType } from "./dtype.ts";
import { bf16ArrayToF32, f16ArrayToF32, f32ArrayToBf16, f32ArrayToF16 } from "./half.ts";

/** A float dtype of 16 or 32 bits. */
export type ShortFloat = "f32" | "f16" | "bf16";

/** The largest number of each. */
const LARGEST: Readonly<Record<ShortFloat, number>> = {
  f32: 3.4028234663852886e38,
  f16: 65504,
  bf16: 3.3895313892515355e38,
};

/** Whether a dtype is a {@linkcode ShortFloat}. */
export function isShortFloat(dtype: DType | undefined): dtype is ShortFloat {
  return dtype !== undefined && dtype in LARGEST;
}

/** `value`, or the finite number of `dtype` next to it where it is beyond its range. */
export function saturated(value: number, dtype: ShortFloat): number {
  return Number.isFinite(value) ? Math.max(-LARGEST[dtype], Math.min(LARGEST[dtype], value)) : value;
}

/** Elements of 16 or 32 bits as others, rounded to nearest, none of them to an infinity. Views or copies. */
export function convertFloats(
  data: Float32Array | Uint16Array,
  from: ShortFloat,
  to: ShortFloat,
): Float32Array | Uint16Array {
  if (from === to) return data;
  const wide = from === "f32"
    ? data as Float32Array
    : from === "f16"
    ? f16ArrayToF32(data as Uint16Array)
    : bf16ArrayToF32(data as Uint16Array);
  if (to === "f32") return wide;
  const largest = LARGEST[to];
  const within = wide.some((v) => Math.abs(v) > largest) ? wide.map((v) => saturated(v, to)) : wide;
  return to === "f16" ? f32ArrayToF16(within) : f32ArrayToBf16(within);
}
