/** Types of tensors in a graph, and small integer contents that are known symbolically. */
import { type Dim, dimKey, dimProduct } from "../core/dim.ts";
import type { DType } from "../core/dtype.ts";

/** The sizes of a tensor, outermost first. */
export type Shape = readonly Dim[];

/** What is known of a tensor. An op that nobody described leaves dtype or shape open: it still runs, replicated. */
export interface TensorType {
  /** Of the elements; undefined where nobody knows. */
  readonly dtype: DType | undefined;
  /** Undefined where not even the number of dims is known. */
  readonly shape: Shape | undefined;
}

/**
 * The content of an integer tensor of rank 0 or 1, as sizes: what `Shape → Gather → Concat` chains compute. A bool is
 * 0 or 1. Elements are row-major; `dims` is the tensor's own shape.
 */
export interface KnownInts {
  /** The tensor's own shape. */
  readonly dims: readonly number[];
  /** The content, row-major. */
  readonly elements: readonly Dim[];
}

/** A tensor's name in graph text: `f32[batch,seq,48]`; `?` for what is open. */
export function printType(type: TensorType): string {
  return `${type.dtype ?? "?"}${type.shape ? `[${type.shape.map(dimKey).join(",")}]` : "[?]"}`;
}

/** Element count. */
export function numel(shape: Shape): Dim {
  return dimProduct(shape);
}
