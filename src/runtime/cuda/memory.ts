/** Where the values of a step lie: in memory that others use before and after, in states, or among what is uploaded. */
import { GraphError } from "../../core/errors.ts";
import { fromNumbers, hostTensorBytes } from "../../core/host_tensor.ts";
import type { KernelTensor } from "../../ops/kernels/kernel.ts";
import { sizeOf } from "./host_values.ts";
import type { Place } from "./lower.ts";
import type { Preparer } from "./prepare.ts";
import { Spans } from "./spans.ts";
import type { UploadLayout } from "./upload_layout.ts";

/** Memory in the arena, and the values that lie in it and are still needed. */
interface Owned {
  readonly offset: number;
  readonly bytes: number;
  readonly users: Set<string>;
}

/** What the places of a program are given out for. */
export interface MemoryOptions {
  readonly preparer: Preparer;
  /** What each value of the next states becomes: a carried input, whose memory it may share. */
  readonly states: ReadonlyMap<string, { readonly input: string; readonly inPlace: boolean }>;
  readonly upload: UploadLayout;
}

/** The places of one program, given out in its order. */
export class Memory {
  readonly #o: MemoryOptions;
  readonly #spans = new Spans();
  readonly #places = new Map<string, Place>();
  readonly #owned = new Map<string, Owned>();
  /** The most bytes that a value may have where it lies. */
  readonly reserved = new Map<string, number>();

  constructor(options: MemoryOptions) {
    this.#o = options;
  }

  /** Bytes that the arena must have. */
  get arenaBytes(): number {
    return this.#spans.size;
  }

  /** A value that lies where nobody gives memory out. */
  put(name: string, place: Place): void {
    this.#places.set(name, place);
  }

  /** Where `name` lies; what the host alone knows is uploaded. @throws {GraphError} If nothing has computed it. */
  placeOf(name: string): Place {
    const known = this.#places.get(name);
    if (known) return known;
    const { preparer, upload } = this.#o, ints = preparer.intsOf(name);
    if (!ints) throw new GraphError(`Cannot find "${name}" on the GPU: nothing has computed it`);
    const { dtype, shape } = preparer.tensorOf(name);
    const place: Place = upload.value(name, hostTensorBytes(fromNumbers(dtype, shape, [...ints])));
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
    this.reserved.set(to, owned.bytes);
  }

  /** Memory for a value that has none: that of the state that it becomes, or some of the arena. */
  allocate(name: string): void {
    if (this.#places.has(name)) return;
    const state = this.#o.states.get(name);
    if (state) return void this.#places.set(name, { in: state.inPlace ? "state" : "next", name: state.input });
    const bytes = sizeOf(this.#o.preparer.tensorOf(name)), offset = this.#spans.take(bytes);
    this.#owned.set(name, { offset, bytes, users: new Set([name]) });
    this.#places.set(name, { in: "arena", offset });
    this.reserved.set(name, bytes);
  }

  /** Memory for tensors that are no values of the graph, until the step ends. */
  results(list: readonly KernelTensor[]): readonly Place[] {
    return list.map((tensor) => ({ in: "arena", offset: this.#spans.take(sizeOf(tensor)) }));
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
