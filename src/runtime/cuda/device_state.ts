/** States of GPU ranks: they stay in the GPU's memory from step to step. */
import { byteLength, type DType } from "../../core/dtype.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import { batchDim, blocksBefore, type CarriedTensor, emptyShape, ModelState, requireRows } from "../model_state.ts";
import type { GpuDevice } from "./device.ts";
import { sizeOf } from "./host_values.ts";

/** One carried tensor: what it holds, and memory for what comes after it. */
export interface StateCell {
  /** The dim of the sequences of a batch; undefined where it cannot be told. */
  readonly batchDim: number | undefined;
  /** Whether steps leave it as it is. */
  readonly kept: boolean;
  readonly dtype: DType;
  shape: readonly number[];
  memory: DeviceMemory | undefined;
  next: DeviceMemory | undefined;
}

/** Carried tensors in the memory of a GPU. */
export class DeviceState extends ModelState {
  readonly batch: number;
  readonly #cells: ReadonlyMap<string, StateCell>;
  /** What holds memory, to give back when the state itself is gone. */
  readonly cells: readonly StateCell[];
  readonly #device: GpuDevice;
  readonly #read: (cell: StateCell) => HostTensor;

  /** An empty state; `held`: the dtype in which a dtype is held; `read` copies a cell to the host. @throws {InputError} If a tensor does not start empty. */
  constructor(
    batch: number,
    carried: readonly CarriedTensor[],
    on: {
      readonly device: GpuDevice;
      readonly held: (dtype: DType) => DType;
      readonly read: (cell: StateCell) => HostTensor;
    },
  ) {
    super();
    this.batch = batch;
    this.#device = on.device;
    this.#read = on.read;
    this.#cells = new Map(carried.map((tensor) => {
      const { dtype, shape } = emptyShape(tensor, batch);
      const cell = { dtype: on.held(dtype), shape, memory: undefined, next: undefined };
      const common = { batchDim: batchDim(tensor.from, tensor.to), kept: tensor.to === undefined };
      return [tensor.input, { ...cell, ...common } as StateCell] as const;
    }));
    this.cells = [...this.#cells.values()];
  }

  override get(name: string): HostTensor {
    return this.#read(this.#cells.get(name)!);
  }

  /** The shape of `name`. */
  shapeOf(name: string): readonly number[] {
    return this.#cells.get(name)!.shape;
  }

  /** Where `name` lies; memory that nobody reads while it is empty. */
  addressOf(name: string): bigint {
    return this.#cells.get(name)!.memory?.value ?? 0n;
  }

  override reorder(rows: readonly number[], { kept }: { readonly kept: boolean }): void {
    requireRows(rows, this.batch);
    for (const [name, cell] of this.#cells) {
      if (cell.kept && !kept) continue;
      const { shape } = cell, outer = blocksBefore(cell.batchDim, { name, shape, batch: this.batch });
      const bytes = sizeOf(cell), block = bytes / outer / this.batch;
      if (bytes === 0) continue;
      const from = cell.memory!.value, to = this.next(name, shape);
      for (let o = 0; o < outer; o++) {
        rows.forEach((row, i) => {
          const at = (r: number) => BigInt((o * this.batch + r) * block);
          this.#device.copy(to + at(i), from + at(row), block);
        });
      }
      this.advance(name, shape);
    }
  }

  /** Memory for the next content of `name`, of `shape`. @throws {CudaError} If the GPU has no more. */
  next(name: string, shape: readonly number[]): bigint {
    const cell = this.#cells.get(name)!, bytes = byteLength(cell.dtype, shape.reduce((a, b) => a * b, 1));
    if (cell.next === undefined || cell.next.byteLength < bytes) {
      // Twice the present size, so that a text that grows allocates seldom.
      const room = Math.max(bytes, 2 * (cell.memory?.byteLength ?? 0));
      cell.next?.[Symbol.dispose]();
      cell.next = undefined;
      cell.next = this.#device.allocate(room);
    }
    return cell.next.value;
  }

  /** What a step wrote, of `shape`, becomes the present content. */
  advance(name: string, shape: readonly number[]): void {
    const cell = this.#cells.get(name)!;
    [cell.memory, cell.next, cell.shape] = [cell.next, cell.memory, shape];
  }

  override [Symbol.dispose](): void {
    releaseCells(this.cells);
  }
}

/** Gives the memory of `cells` back. */
export function releaseCells(cells: Iterable<StateCell>): void {
  for (const cell of cells) {
    cell.memory?.[Symbol.dispose]();
    cell.next?.[Symbol.dispose]();
    cell.memory = cell.next = undefined;
    cell.shape = cell.shape.map(() => 0);
  }
}
