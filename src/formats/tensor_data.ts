/** Tensors of files as constant data of graphs. */
import type { DType } from "../core/dtype.ts";
import type { TensorData } from "../graph/graph.ts";
import type { IndexRanges, TensorSource } from "./tensor_source.ts";

/** The tensor as a graph's data; read when it is asked for. */
export function tensorData(source: TensorSource): TensorData {
  return new SourceData(source);
}

class SourceData implements TensorData {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly #source: TensorSource;

  constructor(source: TensorSource) {
    this.dtype = source.dtype;
    this.shape = source.shape;
    this.#source = source;
  }

  get location(): TensorData["location"] {
    const { location } = this.#source;
    return location.kind === "file"
      ? { file: location.path, offset: location.offset, length: location.length }
      : undefined;
  }

  bytes(): Uint8Array {
    return this.#source.bytes();
  }

  slice(dim: number, ranges: IndexRanges): Uint8Array {
    return this.#source.slice(dim, ranges);
  }
}
