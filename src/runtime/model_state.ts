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
  /** The dim of the sequences of a batch; undefined where it cannot be told. */
  readonly batchDim: number | undefined;
  /** Whether steps leave it as it is. */
  readonly kept: boolean;
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
        batchDim: batchDim(from, to),
        kept: to === undefined,
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

  /**
   * Row i becomes what row `rows[i]` was. States that steps leave as they are move only with `kept`.
   *
   * @throws {InputError} If a row does not exist, or a state has no dim for them.
   */
  reorder(rows: readonly number[], { kept }: { readonly kept: boolean }): void {
    if (rows.length !== this.batch || rows.some((r) => !Number.isInteger(r) || r < 0 || r >= this.batch)) {
      throw new InputError(`Cannot reorder a state of ${this.batch} rows by [${rows}]`);
    }
    for (const [name, cell] of this.#cells) {
      if (cell.kept && !kept) continue;
      const { dtype, shape, data } = cell.current, dim = cell.batchDim;
      const size = dim === undefined ? 0 : shape[dim]!;
      if (dim === undefined || size % this.batch !== 0) {
        throw new InputError(
          `Cannot reorder the rows of state "${name}" of shape [${shape}]: no dim of it is the batch`,
        );
      }
      const from = new Uint8Array(data.buffer, data.byteOffset, data.byteLength), to = this.next(name, from.length);
      const outer = shape.slice(0, dim).reduce((a, b) => a * b, 1), block = from.length / outer / this.batch;
      for (let o = 0; o < outer; o++) {
        rows.forEach((row, i) => {
          const at = (o * this.batch + row) * block;
          to.set(from.subarray(at, at + block), (o * this.batch + i) * block);
        });
      }
      this.advance(name, { dtype, shape, data: elementsOf(dtype, shape, to) });
    }
  }

  /** What a step wrote becomes the present content. */
  advance(name: string, tensor: HostTensor): void {
    const cell = this.#cells.get(name)!;
    cell.current = tensor;
    cell.active = cell.active === 0 ? 1 : 0;
  }
}

/** The first open dim that does not grow. */
function batchDim(from: TensorType, to: TensorType | undefined): number | undefined {
  const at = from.shape?.findIndex((d, i) => typeof d !== "number" && (!to?.shape || dimEquals(d, to.shape[i] ?? 0)));
  return at === undefined || at < 0 ? undefined : at;
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
