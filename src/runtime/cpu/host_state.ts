/** States of CPU ranks: two buffers a tensor, or one that grows in place. */
import { byteLength, type DType } from "../../core/dtype.ts";
import { type HostTensor, hostTensorBytes } from "../../core/host_tensor.ts";
import { GrowingTensor } from "../growing_tensor.ts";
import { batchDim, blocksBefore, type CarriedTensor, emptyShape, ModelState, requireRows } from "../model_state.ts";
import type { CarriedMemory } from "./executor.ts";
import { count, elementsOf, GrowingBuffer } from "./tensors.ts";

/** A carried tensor, and the dim along which it grows in place, if it does. */
export interface HostCarried extends CarriedTensor {
  readonly inPlace?: number | undefined;
}

/** What all carried tensors have. */
interface Cell {
  /** The dim of the sequences of a batch; undefined where it cannot be told. */
  readonly batchDim: number | undefined;
  /** Whether steps leave it as it is. */
  readonly kept: boolean;
}

/** A carried tensor with two buffers, of which one holds the present content and the other takes the next. */
interface Pair extends Cell {
  readonly kind: "pair";
  current: HostTensor;
  readonly buffers: readonly [GrowingBuffer, GrowingBuffer];
  active: 0 | 1;
}

/** A carried tensor that the model extends where it lies. */
interface Growing extends Cell {
  readonly kind: "growing";
  readonly tensor: GrowingTensor;
  /** Its length after the step that is running. */
  next: number;
}

/** Carried tensors in the memory of a CPU rank. */
export class HostState extends ModelState {
  readonly batch: number;
  readonly #cells = new Map<string, Pair | Growing>();
  /** Bytes that tensors in place have come to lie in, since somebody set it to 0. */
  unsettled = 0;

  /** An empty state of `batch` sequences. @throws {InputError} If a tensor does not start empty. */
  constructor(batch: number, carried: readonly HostCarried[]) {
    super();
    this.batch = batch;
    for (const tensor of carried) {
      const { input, from, to, inPlace } = tensor, { dtype, shape } = emptyShape(tensor, batch);
      const current = { dtype, shape, data: elementsOf(dtype, shape, new Uint8Array(0)) };
      const common = { batchDim: batchDim(from, to), kept: to === undefined };
      this.#cells.set(
        input,
        inPlace !== undefined && current.shape[inPlace] === 0
          ? { kind: "growing", tensor: new GrowingTensor(current.dtype, current.shape, inPlace), next: 0, ...common }
          : { kind: "pair", current, buffers: [new GrowingBuffer(), new GrowingBuffer()], active: 0, ...common },
      );
    }
  }

  /**
   * This rank's part of the carried input `name`. Of a tensor in place its shape only, which a step needs, unless the program that
   * will read it takes it `whole`.
   */
  override get(name: string, whole = false): HostTensor {
    const cell = this.#cells.get(name)!;
    if (cell.kind === "pair") return cell.current;
    return whole ? cell.tensor.compact() : { dtype: cell.tensor.dtype, shape: cell.tensor.shape, data: NOTHING };
  }

  override shapeOf(name: string): readonly number[] {
    return this.get(name).shape;
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
    if (cell.tensor.reserve(cell.next)) this.unsettled += cell.tensor.bytes.length;
    return { bytes: cell.tensor.bytes, dims: cell.tensor.capacity, inPlace: true };
  }

  override reorder(rows: readonly number[], { kept }: { readonly kept: boolean }): void {
    requireRows(rows, this.batch);
    for (const [name, cell] of this.#cells) {
      if (cell.kept && !kept) continue;
      this.advance(name, this.#reordered(name, this.get(name, true), { dim: cell.batchDim, rows }), true);
    }
  }

  /** `tensor` with other rows, in the memory of its next content. */
  #reordered(
    name: string,
    tensor: HostTensor,
    { dim, rows }: { readonly dim: number | undefined; readonly rows: readonly number[] },
  ): HostTensor {
    const { dtype, shape } = tensor;
    const outer = blocksBefore(dim, { name, shape, batch: this.batch });
    const from = hostTensorBytes(tensor), { bytes } = this.next(name, { dtype, dims: shape }, true);
    const block = from.length / outer / this.batch;
    for (let o = 0; o < outer; o++) {
      rows.forEach((row, i) => {
        const at = (o * this.batch + row) * block;
        bytes.set(from.subarray(at, at + block), (o * this.batch + i) * block);
      });
    }
    return { dtype, shape, data: elementsOf(dtype, shape, bytes) };
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
