/** Tensors of files as constant data of graphs. */
import type { TensorData } from "../graph/graph.ts";
import type { TensorSource } from "./tensor_source.ts";

/** The tensor as a graph's data; read when it is asked for. */
export function tensorData(source: TensorSource): TensorData {
  const { dtype, shape, location } = source;
  return {
    dtype,
    shape,
    location: location.kind === "file"
      ? { file: location.path, offset: location.offset, length: location.length }
      : undefined,
    bytes: () => source.bytes(),
    slice: (dim, ranges) => source.slice(dim, ranges),
  };
}
