/** The state that a model carries from step to step: KV caches, each rank its shard, where the rank computes. */
import { type DType } from "../core/dtype.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { InputError } from "../core/errors.ts";
import { dimEquals } from "../core/dim.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { printType, type TensorType } from "../graph/types.ts";

/** A carried tensor: the names of its ends, and their local types. */
export interface CarriedTensor {
  /** The input's name. */
  readonly input: string;
  /** The output's name. */
  readonly output: string;
  readonly from: TensorType;
  readonly to: TensorType;
}

/** Carried tensors of one sequence (or batch of sequences). Made by `ParallelModel.start()`. */
export abstract class ModelState implements Disposable {
  /** Sequences that the state holds. */
  abstract readonly batch: number;

  /** This rank's part of the carried input `name`; of a tensor that grows in place its shape only. */
  abstract get(name: string): HostTensor;

  /** Gives memory of a GPU back at once; without it, that happens when the model is disposed, or some time after the last use. */
  [Symbol.dispose](): void {}
}

/** The carried tensors of a rank's graph. */
export function carriedTensors(graph: Graph<"local">): CarriedTensor[] {
  const output = outputOf(graph);
  return graph.carried.map(({ input, output: index }) => ({
    input,
    output: output.names[index]!,
    from: valueOf(graph, input).type,
    to: valueOf(graph, output.inputs[index]!).type,
  }));
}

/** dtype and shape before the first step: empty along the dim that grows. @throws {InputError} If none does. */
export function emptyShape(
  { input: name, from, to }: CarriedTensor,
  batch: number,
): { readonly dtype: DType; readonly shape: readonly number[] } {
  if (!from.shape || !to.shape || !from.dtype || from.shape.every((d, i) => dimEquals(d, to.shape![i] ?? 0))) {
    throw new InputError(
      `Cannot start with an empty "${name}": no dim of ${printType(from)} grows to ${printType(to)}`,
      { hint: "give the state as an input to run()" },
    );
  }
  const shape = from.shape.map((d, i) => !dimEquals(d, to.shape![i] ?? 0) ? 0 : typeof d === "number" ? d : batch);
  return { dtype: from.dtype, shape };
}
