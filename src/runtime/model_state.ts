/** The state that a model carries from step to step: KV caches, each rank its shard, where the rank computes. */
import type { DType } from "../core/dtype.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { InputError } from "../core/errors.ts";
import { dimEquals } from "../core/dim.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { printType, type TensorType } from "../graph/types.ts";

/** A carried input: its name, and the local types of both ends; without `to` it stays as it is. */
export interface CarriedTensor {
  readonly input: string;
  readonly from: TensorType;
  readonly to: TensorType | undefined;
}

/** Carried tensors of one sequence (or batch of sequences). Made by `ParallelModel.start()`. */
export abstract class ModelState implements Disposable {
  /** Sequences that the state holds. */
  abstract readonly batch: number;

  /** This rank's part of the carried input `name`; of a tensor that grows in place its shape only. */
  abstract get(name: string): HostTensor;

  /** The shape of this rank's part of the carried input `name`. */
  abstract shapeOf(name: string): readonly number[];

  /**
   * Row i becomes what row `rows[i]` was. States that steps leave as they are move only with `kept`.
   *
   * @throws {InputError} If a row does not exist, or a state has no dim for them.
   */
  abstract reorder(rows: readonly number[], o: { readonly kept: boolean }): void;

  /** Gives memory of a GPU back at once; without it, that happens when the model is disposed, or some time after the last use. */
  [Symbol.dispose](): void {}
}

/** @throws {InputError} Unless `rows` names one of `batch` rows for each. */
export function requireRows(rows: readonly number[], batch: number): void {
  if (rows.length === batch && rows.every((r) => Number.isInteger(r) && r >= 0 && r < batch)) return;
  throw new InputError(`Cannot reorder a state of ${batch} rows by [${rows}]`);
}

/** How many blocks of a state lie before its dim of the batch. @throws {InputError} If there is no such dim. */
export function blocksBefore(
  dim: number | undefined,
  { name, shape, batch }: { readonly name: string; readonly shape: readonly number[]; readonly batch: number },
): number {
  if (dim === undefined || shape[dim]! % batch !== 0) {
    throw new InputError(`Cannot reorder the rows of state "${name}" of shape [${shape}]: no dim of it is the batch`);
  }
  return shape.slice(0, dim).reduce((a, b) => a * b, 1);
}

/** The carried tensors that a rank's graph reads. */
export function carriedTensors(graph: Graph<"local">): CarriedTensor[] {
  const { inputs } = outputOf(graph),
    given = new Set(graph.nodes.flatMap((n) => n.kind === "placeholder" ? n.outputs : []));
  return graph.carried.filter((c) => given.has(c.input)).map(({ input, output }) => ({
    input,
    from: valueOf(graph, input).type,
    to: output === undefined ? undefined : valueOf(graph, inputs[output]!).type,
  }));
}

/** The first open dim that does not grow. */
export function batchDim(from: TensorType, to: TensorType | undefined): number | undefined {
  const at = from.shape?.findIndex((d, i) => typeof d !== "number" && (!to?.shape || dimEquals(d, to.shape[i] ?? 0)));
  return at === undefined || at < 0 ? undefined : at;
}

/** dtype and shape before the first step: empty along the dim that grows, or along all open dims where none does. @throws {InputError} If none grows. */
export function emptyShape(
  { input: name, from, to }: CarriedTensor,
  batch: number,
): { readonly dtype: DType; readonly shape: readonly number[] } {
  if (to === undefined && from.shape && from.dtype) {
    const shape = from.shape.map((d) => typeof d === "number" ? d : 0);
    return { dtype: from.dtype, shape };
  }
  if (!from.shape || !to?.shape || !from.dtype || from.shape.every((d, i) => dimEquals(d, to.shape![i] ?? 0))) {
    throw new InputError(
      `Cannot start with an empty "${name}": no dim of ${printType(from)} grows${to ? ` to ${printType(to)}` : ""}`,
      { hint: "give the state as an input to run()" },
    );
  }
  const shape = from.shape.map((d, i) => {
    const next = to.shape![i] ?? 0;
    // A size that the input leaves open, and the result does not: a head's.
    if (typeof d === "number" || typeof next === "number") {
      return typeof d === "number" && !dimEquals(d, next) ? 0 : Number(next);
    }
    return dimEquals(d, next) ? batch : 0;
  });
  return { dtype: from.dtype, shape };
}
