/**
 * Weights for models that are measured, not asked: random, the same on every machine, different in every tensor.
 *
 * They are different because ONNX Runtime keeps equal initializers once, and small because twelve layers of them must not overflow.
 */
import type { TensorData } from "../../src/graph/graph.ts";
import { sliceBytes } from "../../src/graph/builder.ts";

/** What values a weight has: `around ± spread`, uniform. */
export interface Spread {
  readonly around: number;
  readonly spread: number;
}

/**
 * The values of the weight called `name`, by its rank: matrices as trained models begin (standard deviation 0.02), gains of norms about
 * 1, biases about 0.
 */
export function spreadOf(name: string, shape: readonly number[]): Spread {
  if (shape.length >= 2) return { around: 0, spread: 0.02 * Math.sqrt(3) };
  return /bias$/.test(name) ? { around: 0, spread: 0.02 } : { around: 1, spread: 0.2 };
}

/** A float32 tensor of random values, made anew at every read: nothing of it stays in memory. */
export function randomData(name: string, shape: readonly number[]): TensorData {
  const bytes = () => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    fillRandom(values, seedOf(name), spreadOf(name, shape));
    return new Uint8Array(values.buffer);
  };
  return {
    dtype: "f32",
    shape,
    bytes,
    slice: (dim, ranges) => sliceBytes(bytes(), "f32", shape, { dim, ranges }),
  };
}

/** Fills `into` from the stream of `seed`. Source: xorshift32 of Marsaglia 2003, (13, 17, 5); a hundred million a second. */
export function fillRandom(into: Float32Array, seed: number, { around, spread }: Spread): void {
  const scale = (2 * spread) / 2 ** 32, least = around - spread;
  let state = seed | 0 || 1;
  for (let i = 0; i < into.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    into[i] = least + (state >>> 0) * scale;
  }
}

/** A seed from a name. Source: FNV-1a, 32 bits. */
export function seedOf(name: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return hash >>> 0;
}
