/** Weights of several products as one, joined when they are loaded. */
import type { TensorData } from "../../graph/graph.ts";
import { sliceBytes } from "../../graph/builder.ts";

/** Weights one after another, each combination made once, so that graphs of one model share what they hold alike. */
export class JoinedWeights {
  readonly #known = new Map<TensorData, TensorData[]>();
  readonly #parts = new Map<TensorData, readonly TensorData[]>();

  /** `parts` one after another along dim 0; they differ in that dim only. */
  of(parts: readonly TensorData[]): TensorData {
    const made = this.#known.get(parts[0]!) ?? [];
    this.#known.set(parts[0]!, made);
    const known = made.find((data) => {
      const own = this.#parts.get(data)!;
      return own.length === parts.length && own.every((part, i) => part === parts[i]);
    });
    if (known) return known;
    const data = joined(parts);
    made.push(data);
    this.#parts.set(data, parts);
    return data;
  }
}

function joined(parts: readonly TensorData[]): TensorData {
  const [{ dtype, shape: first }] = parts as readonly [TensorData];
  const shape = first.with(0, parts.reduce((n, part) => n + part.shape[0]!, 0));
  const bytes = () => {
    const pieces = parts.map((part) => part.bytes());
    const all = new Uint8Array(pieces.reduce((n, piece) => n + piece.length, 0));
    let at = 0;
    for (const piece of pieces) {
      all.set(piece, at);
      at += piece.length;
    }
    return all;
  };
  return {
    dtype,
    shape,
    bytes,
    *chunks() {
      for (const part of parts) yield* part.chunks?.() ?? [part.bytes()];
    },
    slice: (dim, ranges) => sliceBytes(bytes(), dtype, shape, { dim, ranges }),
  };
}
