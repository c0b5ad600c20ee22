/** Where the values of a step lie: in memory that others use before and after, in states, or among what is uploaded. */
import { GraphError } from "../../core/errors.ts";
import { fromNumbers, hostTensorBytes } from "../../core/host_tensor.ts";
import type { KernelTensor } from "../../ops/kernels/kernel.ts";
import { sizeOf } from "./host_values.ts";
import type { Place, States } from "./lower.ts";
import type { Preparer } from "./prepare.ts";
import { Spans } from "./spans.ts";

/** Uploaded values begin at multiples of this. */
const SIZES_ALIGNMENT = 16;

/** Memory in the arena, and the values that lie in it and are still needed. */
interface Owned {
  readonly offset: number;
  readonly bytes: number;
  readonly users: Set<string>;
}

/** The places of one program, given out in its order. */
export class Memory {
  readonly #preparer: Preparer;
  readonly #states: States;
  readonly #spans = new Spans();
  readonly #places = new Map<string, Place>();
  readonly #owned = new Map<string, Owned>();
  readonly #parts: Uint8Array[] = [];
  #partsBytes = 0;

  constructor(preparer: Preparer, states: States) {
    this.#preparer = preparer;
    this.#states = states;
  }

  /** Bytes that the arena must have. */
  get arenaBytes(): number {
    return this.#spans.size;
  }

  /** What is uploaded before the step. */
  get sizes(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#partsBytes);
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += padded(part.length);
    }
    return all;
  }

  /** A value that lies where nobody gives memory out. */
  put(name: string, place: Place): void {
    this.#places.set(name, place);
  }

  /** Where `name` lies; what the host alone knows is uploaded. @throws {GraphError} If nothing has computed it. */
  placeOf(name: string): Place {
    const known = this.#places.get(name);
    if (known) return known;
    const ints = this.#preparer.intsOf(name);
    if (!ints) throw new GraphError(`Cannot find "${name}" on the GPU: nothing has computed it`);
    const { dtype, shape } = this.#preparer.tensorOf(name), place: Place = { in: "sizes", offset: this.#partsBytes };
    const bytes = hostTensorBytes(fromNumbers(dtype, shape, [...ints]));
    this.#parts.push(bytes);
    this.#partsBytes += padded(bytes.length);
    this.#places.set(name, place);
    return place;
  }

  /** `to` is the memory of `from`. */
  alias(from: string, to: string): void {
    this.#places.set(to, this.placeOf(from));
    const owned = this.#owned.get(from);
    if (!owned) return;
    owned.users.add(to);
    this.#owned.set(to, owned);
  }

  /** Memory for a value that has none: that of the state that it becomes, or some of the arena. */
  allocate(name: string): void {
    if (this.#places.has(name)) return;
    const state = this.#states.get(name);
    if (state !== undefined) return void this.#places.set(name, { in: "next", name: state });
    const bytes = sizeOf(this.#preparer.tensorOf(name)), offset = this.#spans.take(bytes);
    this.#owned.set(name, { offset, bytes, users: new Set([name]) });
    this.#places.set(name, { in: "arena", offset });
  }

  /** Nobody reads `name` any more. */
  release(name: string): void {
    const owned = this.#owned.get(name);
    if (!owned?.users.delete(name) || owned.users.size > 0) return;
    this.#spans.give(owned.offset, owned.bytes);
  }

  /** Memory that is given back at once. */
  scratch(list: readonly KernelTensor[]): { readonly places: readonly Place[]; readonly free: () => void } {
    const taken = list.map((tensor) => {
      const bytes = sizeOf(tensor);
      return { bytes, offset: this.#spans.take(bytes) };
    });
    return {
      places: taken.map(({ offset }) => ({ in: "arena", offset })),
      free: () => taken.forEach(({ offset, bytes }) => this.#spans.give(offset, bytes)),
    };
  }
}

function padded(bytes: number): number {
  return Math.ceil(bytes / SIZES_ALIGNMENT) * SIZES_ALIGNMENT;
}
