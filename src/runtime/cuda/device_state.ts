/** States of GPU ranks: they stay in the GPU's memory from step to step; those that a model extends, in memory that has room for more. */
import { byteLength, type DType } from "../../core/dtype.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import { batchDim, blocksBefore, type CarriedTensor, emptyShape, ModelState, requireRows } from "../model_state.ts";
import type { GpuDevice } from "./device.ts";
import { elements, tensorOf } from "./host_values.ts";
import { growingDim } from "./units.ts";

/** Room of a state is a power of two, and a multiple of this above it: texts of like lengths have like programs. */
const ROOM_STEP = 4096;
/** The least room of a state that was told how long it becomes, and of one that was not. */
const TOLD_ROOM = 16, UNTOLD_ROOM = 256;
/** Room that is made at once at most, for a text that may become longer but need not. */
const FIRST_ROOM = 32_768;

/** One carried tensor. */
export interface StateCell {
  /** The dim of the sequences of a batch; undefined where it cannot be told. */
  readonly batchDim: number | undefined;
  /** Whether steps leave it as it is. */
  readonly kept: boolean;
  /** As it is held, and as the model has it. */
  readonly dtype: DType;
  readonly modelDType: DType;
  /** The dim along which it grows. */
  readonly dim: number | undefined;
  /** Whether it grows in place: its memory is then `room` long along `dim`. Else each step writes it anew. */
  readonly inPlace: boolean;
  shape: readonly number[];
  memory: DeviceMemory | undefined;
  /** What the next content is written to; of one in place, by programs that write it whole. */
  next: DeviceMemory | undefined;
  /** Of one in place: its content without gaps, for programs that read it whole. */
  whole: DeviceMemory | undefined;
}

/** How a state is kept. */
export interface DeviceStateOptions {
  readonly device: GpuDevice;
  /** In which dtype values of a dtype are held. */
  readonly held: (dtype: DType) => DType;
  /** Carried inputs that grow in place. */
  readonly inPlace: ReadonlySet<string>;
  /** How many tokens it will hold, where that is known. */
  readonly capacity?: number | undefined;
}

/** Carried tensors in the memory of a GPU. */
export class DeviceState extends ModelState {
  readonly batch: number;
  readonly #cells: ReadonlyMap<string, StateCell>;
  /** What holds memory, to give back when the state itself is gone. */
  readonly cells: readonly StateCell[];
  readonly #device: GpuDevice;
  /** What it holds. */
  readonly carried: readonly CarriedTensor[];
  #room: number;
  #length = 0;
  /** Memory in use, as text; undefined after a change. */
  #layout: string | undefined;

  /** An empty state. @throws {InputError} If a tensor does not start empty. */
  constructor(batch: number, carried: readonly CarriedTensor[], options: DeviceStateOptions) {
    super();
    this.batch = batch;
    this.carried = carried;
    this.#device = options.device;
    this.#room = options.capacity === undefined
      ? 0
      : roomFor(Math.min(Math.max(options.capacity, TOLD_ROOM), FIRST_ROOM));
    this.#cells = new Map(carried.map((tensor) => {
      const { input, from, to } = tensor, { dtype, shape } = emptyShape(tensor, batch);
      const cell: StateCell = {
        batchDim: batchDim(from, to),
        kept: to === undefined,
        dtype: options.held(dtype),
        modelDType: dtype,
        dim: from.shape && to?.shape && growingDim(from.shape, to.shape),
        inPlace: options.inPlace.has(input),
        shape,
        memory: undefined,
        next: undefined,
        whole: undefined,
      };
      return [input, cell] as const;
    }));
    this.cells = [...this.#cells.values()];
  }

  /** Tokens that there is room for. The same on all ranks, whatever parts of the state they hold. */
  get room(): number {
    return this.#room;
  }

  /** Tokens that it holds, or will hold when the step that runs is done. */
  get length(): number {
    return this.#length;
  }

  /** Whether all of `names` grow in place. */
  growInPlace(names: ReadonlySet<string>): boolean {
    for (const name of names) if (!this.#cells.get(name)?.inPlace) return false;
    return true;
  }

  /** Names the memory that it lies in: equal texts, equal addresses. */
  get layout(): string {
    return this.#layout ??= this.cells.map((c) => [c.memory, c.next, c.whole].map((m) => m?.value ?? 0n).join()).join();
  }

  override get(name: string): HostTensor {
    const cell = this.#cells.get(name)!, { shape, dtype } = cell, rows = this.#rows(cell);
    const bytes = new Uint8Array(byteLength(dtype, elements(shape))), row = bytes.length / rows;
    for (let r = 0; r < rows && row > 0; r++) {
      const at = cell.memory!.value + BigInt(r * this.#pitch(cell));
      this.#device.download(at, bytes.subarray(r * row, (r + 1) * row));
    }
    return tensorOf(bytes, { held: dtype, dtype: cell.modelDType, shape });
  }

  /** Whether it holds the carried input `name`. */
  has(name: string): boolean {
    return this.#cells.has(name);
  }

  override shapeOf(name: string): readonly number[] {
    return this.#cells.get(name)!.shape;
  }

  /** Where `name` lies, for a program that reads it in place or whole; memory that nobody reads while it is empty. */
  addressOf(name: string, inPlace: boolean): bigint {
    const cell = this.#cells.get(name)!;
    return (cell.inPlace && !inPlace ? cell.whole : cell.memory)?.value ?? 0n;
  }

  /** Where its next content goes, for a program that writes it whole. */
  nextOf(name: string): bigint {
    return this.#cells.get(name)!.next!.value;
  }

  override reorder(rows: readonly number[], { kept }: { readonly kept: boolean }): void {
    requireRows(rows, this.batch);
    for (const [name, cell] of this.#cells) {
      if (cell.kept && !kept) continue;
      const { shape } = cell, outer = blocksBefore(cell.batchDim, { name, shape, batch: this.batch });
      if (elements(shape) === 0) continue;
      const bytes = this.#bytes(cell), block = bytes / outer / this.batch;
      this.#hold(cell, "next", bytes);
      const from = cell.memory!.value, to = cell.next!.value;
      for (let o = 0; o < outer; o++) {
        rows.forEach((row, i) => {
          const at = (r: number) => BigInt((o * this.batch + r) * block);
          this.#device.copy(to + at(i), from + at(row), block);
        });
      }
      this.#swap(cell);
    }
  }

  /**
   * Makes room for what a step leaves, by name of the carried inputs; `inPlace`: those that its program extends in place.
   *
   * @throws {CudaError} If the GPU has no more memory.
   */
  reserve(shapes: ReadonlyMap<string, readonly number[]>, inPlace: ReadonlySet<string>): void {
    for (const [name, shape] of shapes) {
      const { dim } = this.#cells.get(name)!;
      if (dim !== undefined) this.#length = Math.max(this.#length, shape[dim]!);
    }
    const before = this.#room;
    if (this.#length > before) {
      this.#room = roomFor(Math.max(this.#length + 1, before === 0 ? UNTOLD_ROOM : 2 * before));
    }
    for (const [name, shape] of shapes) {
      const cell = this.#cells.get(name)!;
      if (cell.inPlace && (cell.memory === undefined || this.#room !== before)) this.#grow(cell, shape, before);
      if (inPlace.has(name)) continue;
      const bytes = byteLength(cell.dtype, elements(shape));
      // Twice the present size, so that a text that grows allocates seldom.
      this.#hold(cell, "next", bytes, Math.max(bytes, 2 * (cell.memory?.byteLength ?? 0)));
      if (cell.inPlace) this.#gather(cell);
    }
  }

  /** What a step left becomes the present content; as in `reserve`. */
  advance(shapes: ReadonlyMap<string, readonly number[]>, inPlace: ReadonlySet<string>): void {
    for (const [name, shape] of shapes) {
      const cell = this.#cells.get(name)!;
      cell.shape = shape;
      if (inPlace.has(name)) continue;
      if (!cell.inPlace) this.#swap(cell);
      else {this.#copyRows(cell, {
          from: cell.next!.value,
          to: cell.memory!.value,
          fromPitch: this.#row(cell),
          toPitch: this.#pitch(cell),
        });}
    }
  }

  #swap(cell: StateCell): void {
    [cell.memory, cell.next] = [cell.next, cell.memory];
    this.#layout = undefined;
  }

  /** Blocks before the dim that grows: they lie apart in place. */
  #rows({ inPlace, dim, shape }: StateCell): number {
    return inPlace ? elements(shape.slice(0, dim)) : 1;
  }

  /** Bytes of a block's content. */
  #row(cell: StateCell): number {
    return byteLength(cell.dtype, elements(cell.shape)) / this.#rows(cell);
  }

  /** Bytes from block to block. */
  #pitch(cell: StateCell, room = this.#room): number {
    return cell.inPlace ? byteLength(cell.dtype, elements(cell.shape.slice(cell.dim!).with(0, room))) : this.#row(cell);
  }

  /** Bytes that it needs: for all of its room, or its present content. */
  #bytes(cell: StateCell): number {
    return this.#rows(cell) * this.#pitch(cell);
  }

  #hold(cell: StateCell, what: "next" | "whole", bytes: number, room = bytes): void {
    if (cell[what] !== undefined && cell[what].byteLength >= bytes) return;
    cell[what]?.[Symbol.dispose]();
    cell[what] = undefined;
    cell[what] = this.#allocate(room);
    this.#layout = undefined;
  }

  #allocate(bytes: number): DeviceMemory {
    const growing = this.cells.filter((c) => c.inPlace && c.shape[c.dim!]! <= this.#room);
    const perToken = growing.reduce((sum, c) => sum + byteLength(c.dtype, elements(c.shape.with(c.dim!, 1))), 0);
    const fits = (free: number) => {
      const room = free + growing.reduce((sum, c) => sum + (c.memory?.byteLength ?? 0), 0);
      return `${this.#room} tokens were to have room, ${Math.floor(room / perToken)} would fit`;
    };
    const total = perToken * this.#room;
    return this.#device.memory.allocate(bytes, "caches", perToken > 0 ? { total, fits } : {});
  }

  /** Moves a cell to memory with more room. What it does not hold yet is zeros: no product of it is a NaN. */
  #grow(cell: StateCell, next: readonly number[], before: number): void {
    const bytes = byteLength(cell.dtype, elements(next.with(cell.dim!, this.#room)));
    const memory = this.#allocate(bytes), old = cell.memory;
    this.#device.clear(memory.value, bytes);
    if (old) {
      const toPitch = this.#pitch(cell), fromPitch = this.#pitch(cell, before);
      this.#copyRows(cell, { from: old.value, to: memory.value, fromPitch, toPitch });
    }
    old?.[Symbol.dispose]();
    cell.next?.[Symbol.dispose]();
    [cell.memory, cell.next] = [memory, undefined];
    this.#layout = undefined;
  }

  /** The content of a cell in place without its gaps. */
  #gather(cell: StateCell): void {
    const row = this.#row(cell);
    this.#hold(cell, "whole", row * this.#rows(cell));
    this.#copyRows(cell, {
      from: cell.memory!.value,
      to: cell.whole!.value,
      fromPitch: this.#pitch(cell),
      toPitch: row,
    });
  }

  #copyRows(
    cell: StateCell,
    o: { readonly from: bigint; readonly to: bigint; readonly fromPitch: number; readonly toPitch: number },
  ): void {
    const rows = this.#rows(cell), row = this.#row(cell);
    for (let r = 0; r < rows && row > 0; r++) {
      this.#device.copy(o.to + BigInt(r * o.toPitch), o.from + BigInt(r * o.fromPitch), row);
    }
  }

  override [Symbol.dispose](): void {
    releaseCells(this.cells);
    this.#layout = undefined;
  }
}

/** Room for `length` tokens at least. */
function roomFor(length: number): number {
  if (length > ROOM_STEP) return ROOM_STEP * Math.ceil(length / ROOM_STEP);
  return 2 ** Math.ceil(Math.log2(length));
}

/** Gives the memory of `cells` back. */
export function releaseCells(cells: Iterable<StateCell>): void {
  for (const cell of cells) {
    for (const memory of [cell.memory, cell.next, cell.whole]) memory?.[Symbol.dispose]();
    cell.memory = cell.next = cell.whole = undefined;
    cell.shape = cell.shape.map(() => 0);
  }
}
