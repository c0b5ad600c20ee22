/**
 * The shared values that one segment writes: where they lie in memory that all ranks can read.
 *
 * Two banks alternate from barrier to barrier, so that a rank may write the next values while a slower one still reads
 * the last. Sizes that follow from the inputs are laid out before the step and written in place by the engine. A value
 * that only data sizes (the tokens of an expert) is laid out when it has been computed, and copied: all ranks compute the
 * same sizes, as they compute them from the same data.
 */
import { byteLength } from "../../core/dtype.ts";
import type { Bindings } from "../../core/dim.ts";
import type { TensorType } from "../../graph/types.ts";
import { sharedLayout } from "../../program/memory_plan.ts";
import type { Stored } from "../../program/program.ts";
import type { SymmetricArena, SymmetricBuffer } from "../comm/arena.ts";
import type { EngineTensor } from "./engine.ts";
import { symbolsIn } from "./wiring.ts";
import { evalShape } from "./shapes.ts";
import { count } from "./tensors.ts";

/** Which of the two banks. */
export type Bank = 0 | 1;

/** What a share stands on. */
export interface ShareOptions {
  readonly rank: number;
  readonly ranks: number;
  readonly arena: Pick<SymmetricArena, "alloc">;
  readonly tensor: (type: TensorType, dims: readonly number[], bytes: Uint8Array) => EngineTensor;
}

/** The shared values of one segment. */
export class SegmentShare {
  readonly #values: readonly Stored[];
  readonly #o: ShareOptions;
  readonly #buffers: [SymmetricBuffer | undefined, SymmetricBuffer | undefined] = [undefined, undefined];
  #dims = new Map<string, readonly (readonly number[])[]>();
  #offsets: ReadonlyMap<string, number> = new Map();
  #dynamic = false;
  /** The symbols of the values' sizes. */
  readonly symbols: ReadonlySet<string>;

  constructor(values: readonly Stored[], options: ShareOptions) {
    this.#values = values;
    this.symbols = symbolsIn(values.flatMap((v) => v.type.shape ?? []));
    this.#o = options;
  }

  /** Whether sizes are only known when the segment has run. */
  get dynamic(): boolean {
    return this.#dynamic;
  }

  /** Lays the values out for a step with these sizes; all ranks do so alike. */
  renew(bindings: Bindings): void {
    const dims = new Map(
      this.#values.map((v) => [v.name, v.peers!.map((type) => evalShape(type.shape, bindings))] as const),
    );
    this.#dynamic = [...dims.values()].some((list) => list.includes(undefined));
    if (this.#dynamic) return;
    const bytes = this.#lay(dims as Map<string, readonly (readonly number[])[]>);
    for (const bank of [0, 1] as const) this.#ensure(bank, bytes);
  }

  /** Where the engine writes `name`. */
  local(name: string, bank: Bank): EngineTensor {
    return this.#view(name, this.#o.rank, bank);
  }

  /** `name` as `rank` wrote it in `bank`. */
  peer(name: string, rank: number, bank: Bank): EngineTensor {
    return this.#view(name, rank, bank);
  }

  /** Lays out and copies what a segment of dynamic sizes has computed. */
  publish(results: ReadonlyMap<string, EngineTensor>, bank: Bank): void {
    const dims = new Map(this.#values.map((v) => {
      const own = results.get(v.name)!.dims;
      // Only the sharded dim differs between ranks, and it is constant.
      const peers = v.peers!.map((type) => own.map((d, i) => typeof type.shape?.[i] === "number" ? type.shape[i] : d));
      return [v.name, peers] as const;
    }));
    this.#ensure(bank, this.#lay(dims));
    for (const { name } of this.#values) {
      const { data } = results.get(name)!;
      const at = this.#offsets.get(name)!;
      this.#buffers[bank]!.local.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    }
  }

  #lay(dims: Map<string, readonly (readonly number[])[]>): number {
    this.#dims = dims;
    const bytesOn = (v: Stored, r: number) => byteLength(v.type.dtype ?? "f32", count(dims.get(v.name)![r]!));
    const { offsets, bytes } = sharedLayout(this.#values, bytesOn, this.#o.ranks);
    this.#offsets = offsets;
    return bytes;
  }

  #ensure(bank: Bank, bytes: number): void {
    const buffer = this.#buffers[bank];
    if (buffer && buffer.byteLength >= bytes) return;
    // Twice as much when it has grown before, so that a growing sequence does not allocate at every step.
    this.#buffers[bank] = this.#o.arena.alloc(buffer ? bytes * 2 : bytes);
  }

  #view(name: string, rank: number, bank: Bank): EngineTensor {
    const buffer = this.#buffers[bank]!;
    const bytes = rank === this.#o.rank ? buffer.local : buffer.peer(rank);
    const { type } = this.#values.find((v) => v.name === name)!;
    return this.#o.tensor(type, this.#dims.get(name)![rank]!, bytes.subarray(this.#offsets.get(name)!));
  }
}
