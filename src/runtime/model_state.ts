/** The state that a model carries from step to step: KV caches, each rank its shard. */
import type { DType } from "../core/dtype.ts";
import { byteLength } from "../core/dtype.ts";
import { type HostTensor, hostTensorBytes } from "../core/host_tensor.ts";
import { InputError } from "../core/errors.ts";
import { dimEquals } from "../core/dim.ts";
import { printType, type TensorType } from "../graph/types.ts";
import type { CarriedMemory } from "./cpu/executor.ts";
import { GrowingTensor } from "./growing_tensor.ts";
import { count, elementsOf, GrowingBuffer } from "./cpu/tensors.ts";

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

/**
 * A carried input: its name, the local types of both ends (without `to` it stays as it is), and the dim along which it grows
 * in place, if it does.
 */
export interface CarriedTensor {
  readonly input: string;
  readonly from: TensorType;
  readonly to: TensorType | undefined;
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
    const size = dim === undefined ? 0 : shape[dim]!;
    if (dim === undefined || size % this.batch !== 0) {
      throw new InputError(`Cannot reorder the rows of state "${name}" of shape [${shape}]: no dim of it is the batch`);
    }
    const from = hostTensorBytes(tensor), { bytes } = this.next(name, { dtype, dims: shape }, true);
    const outer = shape.slice(0, dim).reduce((a, b) => a * b, 1), block = from.length / outer / this.batch;
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
  const shape = from.shape.map((d, i) => {
    const next = to.shape![i] ?? 0;
    // A size that the input leaves open, and the result does not: a head's.
    if (typeof d === "number" || typeof next === "number") {
      return typeof d === "number" && !dimEquals(d, next) ? 0 : Number(next);
    }
    return dimEquals(d, next) ? batch : 0;
  });
  return { dtype: from.dtype, shape, data: elementsOf(from.dtype, shape, new Uint8Array(0)) };
}
