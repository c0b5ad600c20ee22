/** The state that a model carries from step to step: KV caches, each rank its shard. */
import type { DType } from "../core/dtype.ts";
import { byteLength } from "../core/dtype.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import { InputError } from "../core/errors.ts";
import { dimEquals } from "../core/dim.ts";
import { printType, type TensorType } from "../graph/types.ts";
import type { CarriedMemory } from "./cpu/executor.ts";
import { GrowingTensor } from "./growing_tensor.ts";
import { count, elementsOf, GrowingBuffer } from "./cpu/tensors.ts";

/** A carried tensor with two buffers, of which one holds the present content and the other takes the next. */
interface Pair {
  readonly kind: "pair";
  current: HostTensor;
  readonly buffers: readonly [GrowingBuffer, GrowingBuffer];
  active: 0 | 1;
}

/** A carried tensor that the model extends where it lies. */
interface Growing {
  readonly kind: "growing";
  readonly tensor: GrowingTensor;
  /** Its length after the step that is running. */
  next: number;
}

/** A carried input: its name, the local types of both ends, and the dim along which it grows in place, if it does. */
export interface CarriedTensor {
  readonly input: string;
  readonly from: TensorType;
  readonly to: TensorType;
  readonly inPlace?: number | undefined;
}

/** Carried tensors of one sequence (or batch of sequences). Made by `ParallelModel.start()`. */
export class ModelState {
  /** Sequences that the state holds. */
  readonly batch: number;
  readonly #cells = new Map<string, Pair | Growing>();

  /** An empty state of `batch` sequences. @throws {InputError} If a tensor does not start empty. */
  constructor(batch: number, carried: readonly CarriedTensor[]) {
    this.batch = batch;
    for (const { input, from, to, inPlace } of carried) {
      const current = emptyTensor(input, { from, to, batch });
      this.#cells.set(
        input,
        inPlace !== undefined && current.shape[inPlace] === 0
          ? { kind: "growing", tensor: new GrowingTensor(current.dtype, current.shape, inPlace), next: 0 }
          : { kind: "pair", current, buffers: [new GrowingBuffer(), new GrowingBuffer()], active: 0 },
      );
    }
  }

  /**
   * This rank's part of the carried input `name`. Of a tensor in place its shape only, which a step needs, unless the program that
   * will read it takes it `whole`.
   */
  get(name: string, whole = false): HostTensor {
    const cell = this.#cells.get(name)!;
    if (cell.kind === "pair") return cell.current;
    return whole ? cell.tensor.compact() : { dtype: cell.tensor.dtype, shape: cell.tensor.shape, data: NOTHING };
  }

  /**
   * Memory for the next content of `name`; of its own, not in place, for a program that takes it `whole`.
   *
   * @internal
   */
  next(name: string, to: { readonly dtype: DType; readonly dims: readonly number[] }, whole = false): CarriedMemory {
    const cell = this.#cells.get(name)!;
    const bytes = byteLength(to.dtype, count(to.dims));
    if (cell.kind === "pair") {
      return { bytes: cell.buffers[cell.active ^ 1]!.take(bytes), dims: to.dims, inPlace: false };
    }
    if (whole) return { bytes: new Uint8Array(bytes), dims: to.dims, inPlace: false };
    cell.next = to.dims[cell.tensor.dim]!;
    cell.tensor.reserve(cell.next);
    return { bytes: cell.tensor.bytes, dims: cell.tensor.capacity, inPlace: true };
  }

  /** What a step wrote becomes the present content. */
  advance(name: string, tensor: HostTensor, whole = false): void {
    const cell = this.#cells.get(name)!;
    if (cell.kind === "growing") {
      if (whole) cell.tensor.assign(tensor);
      else cell.tensor.length = cell.next;
      return;
    }
    cell.current = tensor;
    cell.active = cell.active === 0 ? 1 : 0;
  }
}

const NOTHING = new Uint8Array(0);

/** The content before the first step: empty along the dim that grows. */
function emptyTensor(name: string, pair: { from: TensorType; to: TensorType; batch: number }): HostTensor {
  const { from, to, batch } = pair;
  if (!from.shape || !to.shape || !from.dtype || from.shape.every((d, i) => dimEquals(d, to.shape![i] ?? 0))) {
    throw new InputError(
      `Cannot start with an empty "${name}": no dim of ${printType(from)} grows to ${printType(to)}`,
      { hint: "give the state as an input to run()" },
    );
  }
  const shape = from.shape.map((d, i) => !dimEquals(d, to.shape![i] ?? 0) ? 0 : typeof d === "number" ? d : batch);
  return { dtype: from.dtype, shape, data: elementsOf(from.dtype, shape, new Uint8Array(0)) };
}
