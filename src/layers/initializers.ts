/**
 * Initial values of parameters, the same at any number of ranks.
 *
 * Each element is a function of the seed, the parameter's name and the element's index in the whole tensor (a
 * counter-based generator, as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011). So a rank draws
 * just the elements of its slice, and they are the ones that a single process would have drawn. The mixing is the 32-bit
 * finaliser of MurmurHash3, twice.
 */
import { type DType, dtypeInfo } from "../core/dtype.ts";
import { ShapeError } from "../core/errors.ts";
import { f32ArrayToBf16, f32ArrayToF16 } from "../core/half.ts";
import type { TensorData } from "../graph/graph.ts";

/** A distribution of initial values. `zeroRow` makes one row of a table zero: padding. */
export type Initializer =
  | { readonly kind: "constant"; readonly value: number }
  /** Uniform in [-bound, bound). */
  | { readonly kind: "uniform"; readonly bound: number }
  | { readonly kind: "normal"; readonly mean: number; readonly deviation: number; readonly zeroRow?: number };

/** Zeros: biases of norms. */
export const ZEROS: Initializer = { kind: "constant", value: 0 };

/** Ones: scales of norms. */
export const ONES: Initializer = { kind: "constant", value: 1 };

/** What `torch.nn.Linear` draws weights and biases from: uniform within 1/√inFeatures. */
export function linearInitializer(inFeatures: number): Initializer {
  return { kind: "uniform", bound: inFeatures > 0 ? 1 / Math.sqrt(inFeatures) : 0 };
}

/** Which tensor is drawn. */
export interface DrawOptions {
  readonly name: string;
  readonly seed: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/**
 * The initial values as lazy data: bytes are computed when they are asked for, and by slices.
 *
 * @throws {ShapeError} If the dtype is none of f32, f16, bf16 and f64.
 */
export function initialData(initializer: Initializer, options: DrawOptions): TensorData {
  const { dtype, shape } = options;
  if (!["f32", "f16", "bf16", "f64"].includes(dtype)) {
    throw new ShapeError(`Cannot initialize "${options.name}" as ${dtype}: expected f32, f64, f16 or bf16`);
  }
  const draw = elementDrawer(initializer, options);
  const slice: TensorData["slice"] = (dim, ranges) => {
    const inner = shape.slice(dim + 1).reduce((a, b) => a * b, 1), row = inner * shape[dim]!;
    const outer = shape.slice(0, dim).reduce((a, b) => a * b, 1);
    const kept = ranges.reduce((n, [a, b]) => n + b - a, 0);
    const out = dtype === "f64" ? new Float64Array(outer * kept * inner) : new Float32Array(outer * kept * inner);
    let at = 0;
    for (let o = 0; o < outer; o++) {
      for (const [a, b] of ranges) {
        for (let i = o * row + a * inner; i < o * row + b * inner; i++) out[at++] = draw(i);
      }
    }
    return bytesAs(dtype, out);
  };
  return {
    dtype,
    shape,
    slice,
    bytes: () => {
      if (shape.length > 0) return slice(0, [[0, shape[0]!]]);
      return bytesAs(dtype, dtype === "f64" ? Float64Array.of(draw(0)) : Float32Array.of(draw(0)));
    },
  };
}

/** The function from an element's index to its value. */
function elementDrawer(initializer: Initializer, { name, seed, shape }: DrawOptions): (index: number) => number {
  if (initializer.kind === "constant") return () => initializer.value;
  const key = nameKey(name, seed);
  if (initializer.kind === "uniform") {
    const { bound } = initializer;
    return (i) => (2 * unit(key, i, 0) - 1) * bound;
  }
  const { mean, deviation, zeroRow } = initializer;
  const row = shape.slice(1).reduce((a, b) => a * b, 1);
  return (i) => {
    if (zeroRow !== undefined && Math.floor(i / row) === zeroRow) return 0;
    // Box-Muller; 1 - u lies in (0, 1], whose logarithm is finite.
    const radius = Math.sqrt(-2 * Math.log(1 - unit(key, i, 1)));
    return mean + deviation * radius * Math.cos(2 * Math.PI * unit(key, i, 2));
  };
}

/** Draw number `draw` for element `index`: uniform in [0, 1) with 32 bits. */
function unit(key: number, index: number, draw: number): number {
  const low = index >>> 0, high = Math.floor(index / 2 ** 32) * 4 + draw;
  const mixed = finalise((key + Math.imul(low, 0x9e3779b1)) | 0);
  return finalise((mixed ^ Math.imul(high + 1, 0x85ebca6b) ^ key) | 0) / 2 ** 32;
}

/** A key from a name and a seed, whose halves both count. */
function nameKey(name: string, seed: number): number {
  if (!Number.isSafeInteger(seed)) {
    throw new RangeError(`Cannot initialize with seed ${seed}: expected a whole number up to 2^53`);
  }
  let key = finalise(seed | 0) ^ finalise((Math.floor(seed / 2 ** 32) | 0) + 0x9e3779b9);
  for (const byte of new TextEncoder().encode(name)) key = finalise((Math.imul(key, 31) + byte) | 0);
  return key;
}

/** MurmurHash3's fmix32. */
function finalise(x: number): number {
  x ^= x >>> 16;
  x = Math.imul(x, 0x85ebca6b);
  x ^= x >>> 13;
  x = Math.imul(x, 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

function bytesAs(dtype: DType, values: Float32Array | Float64Array): Uint8Array {
  const array = dtypeInfo(dtype).bits === 16
    ? (dtype === "f16" ? f32ArrayToF16 : f32ArrayToBf16)(values as Float32Array)
    : values;
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
