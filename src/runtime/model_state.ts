/** The state that a model carries from step to step: KV caches, each rank its shard. */
import type { HostTensor } from "../core/host_tensor.ts";
import { InputError } from "../core/errors.ts";
import { dimEquals } from "../core/dim.ts";
import { printType, type TensorType } from "../graph/types.ts";
import { elementsOf, GrowingBuffer } from "./cpu/tensors.ts";

/** One carried tensor: two buffers, of which one holds the present content and the other takes the next. */
interface Cell {
  current: HostTensor;
  readonly buffers: readonly [GrowingBuffer, GrowingBuffer];
  active: 0 | 1;
}

/** Carried tensors of one sequence (or batch of sequences). Made by `ParallelModel.start()`. */
export class ModelState {
  /** Sequences that the state holds. */
  readonly batch: number;
  readonly #cells = new Map<string, Cell>();

  /** `carried`: for every state, the input's name with the local types of both ends; without `to` it stays as it is. */
  constructor(
    batch: number,
    carried: readonly { readonly input: string; readonly from: TensorType; readonly to: TensorType | undefined }[],
  ) {
    this.batch = batch;
    for (const { input, from, to } of carried) {
      this.#cells.set(input, {
        current: emptyTensor(input, { from, to, batch }),
        buffers: [new GrowingBuffer(), new GrowingBuffer()],
        active: 0,
      });
    }
  }

  /** This rank's part of the carried input `name`. */
  get(name: string): HostTensor {
    return this.#cells.get(name)!.current;
  }

  /** Memory for the next content of `name`. */
  next(name: string, bytes: number): Uint8Array {
    const cell = this.#cells.get(name)!;
    return cell.buffers[cell.active ^ 1]!.take(bytes);
  }

  /** What a step wrote becomes the present content. */
  advance(name: string, tensor: HostTensor): void {
    const cell = this.#cells.get(name)!;
    cell.current = tensor;
    cell.active = cell.active === 0 ? 1 : 0;
  }
}

/** The content before the first step: empty along the dim that grows, or along all open dims where none does. */
function emptyTensor(name: string, pair: { from: TensorType; to: TensorType | undefined; batch: number }): HostTensor {
  const { from, to, batch } = pair;
  if (to === undefined && from.shape && from.dtype) {
    const shape = from.shape.map((d) => typeof d === "number" ? d : 0);
    return { dtype: from.dtype, shape, data: elementsOf(from.dtype, shape, new Uint8Array(0)) };
  }
  if (!from.shape || !to?.shape || !from.dtype || from.shape.every((d, i) => dimEquals(d, to.shape![i] ?? 0))) {
    throw new InputError(
      `Cannot start with an empty "${name}": no dim of ${printType(from)} grows${to ? ` to ${printType(to)}` : ""}`,
      { hint: "give the state as an input to run()" },
    );
  }
  const shape = from.shape.map((d, i) => !dimEquals(d, to.shape![i] ?? 0) ? 0 : typeof d === "number" ? d : batch);
  return { dtype: from.dtype, shape, data: elementsOf(from.dtype, shape, new Uint8Array(0)) };
}
