/**
 * Rounding the numbers of a block to 4 or 8 bits.
 *
 * A block has a scale `s` and a zero point `z`, and holds `q = clamp(round(x / s) + z)`, which stands for `(q - z)·s`. With 4 bits:
 * symmetric, `z` is 8, and `s` such that the value of largest magnitude becomes 0 of 0…15, as the range reaches further on that side
 * (`s` is negative where that value is positive); asymmetric, the range from the least to the largest value, 0 included, becomes
 * 0…15. Source: ONNX Runtime, mlas/lib/q4_dq.cpp; llama.cpp's Q4_0 and Q4_1 round alike.
 *
 * A value moves by half a scale at most, and by a whole one where it lies beyond the last step: at the far end of a symmetric block,
 * at both ends where a zero point was rounded.
 */
import { f16ToF32, f32ToF16 } from "../../core/half.ts";
import type { WeightFormat } from "./weight_format.ts";

/** The dtype of scales, to which they are rounded before anything is divided by them. */
export type ScaleDType = "f32" | "f16";

/** Which elements of an array make up a block. */
export interface BlockAt {
  /** Index of the first. */
  readonly first: number;
  /** Distance of two. */
  readonly step: number;
  /** How many; fewer than a block has in the last block of a row. */
  readonly length: number;
}

/** Turns blocks into scale, zero point and bytes. */
export class BlockCoder {
  /** Of the block that was measured last. */
  scale = 0;
  /** Of the block that was measured last. */
  zero = 0;
  readonly #format: WeightFormat;
  readonly #dtype: ScaleDType;
  readonly #most: number;

  constructor(format: WeightFormat, dtype: ScaleDType) {
    this.#format = format;
    this.#dtype = dtype;
    this.#most = 2 ** format.bits - 1;
  }

  /** Sets {@linkcode scale} and {@linkcode zero} to those of a block. */
  measure(values: Float32Array, { first, step, length }: BlockAt): void {
    let least = 0, largest = 0;
    for (let i = first, end = first + step * length; i < end; i += step) {
      const x = values[i]!;
      if (x < least) least = x;
      else if (x > largest) largest = x;
    }
    const { symmetric } = this.#format, most = this.#most, half = (most + 1) / 2;
    const exact = symmetric ? (largest > -least ? largest : least) / -half : (largest - least) / most;
    this.scale = this.#dtype === "f32" ? Math.fround(exact) : f16ToF32(f32ToF16(exact));
    if (symmetric) this.zero = half;
    else this.zero = this.scale === 0 ? 0 : Math.min(most, Math.max(0, Math.round(-least / this.scale)));
  }

  /** Measures a block and writes its bytes to `out` from `to` on, the lower half of a byte first; what it lacks is 0. */
  pack(values: Float32Array, at: BlockAt, out: Uint8Array, to: number): void {
    this.measure(values, at);
    const { first, step, length } = at, { bits, block } = this.#format, most = this.#most;
    const inverse = this.scale === 0 ? 0 : 1 / this.scale, shift = this.zero + 0.5;
    if (bits === 8) {
      for (let i = 0, from = first; i < length; i++, from += step) {
        const q = (values[from]! * inverse + shift) | 0;
        out[to + i] = q > most ? most : q;
      }
      out.fill(this.zero, to + length, to + block);
      return;
    }
    const pairs = length >> 1;
    for (let i = 0, from = first; i < pairs; i++, from += 2 * step) {
      const low = (values[from]! * inverse + shift) | 0, high = (values[from + step]! * inverse + shift) | 0;
      out[to + i] = (low > most ? most : low) | (high > most ? most : high) << 4;
    }
    if (length === block) return;
    out.fill(this.zero | this.zero << 4, to + pairs, to + block / 2);
    if (length % 2 === 1) {
      const low = (values[first + (length - 1) * step]! * inverse + shift) | 0;
      out[to + pairs] = (low > most ? most : low) | this.zero << 4;
    }
  }
}
