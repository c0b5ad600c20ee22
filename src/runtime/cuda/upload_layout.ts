/** What the host gives a step, as one block that is copied to the GPU before it: inputs, small integers, and numbers of kernels. */
import type { Place } from "./lower.ts";

/** Inputs begin at multiples of the first, as allocations do; small parts at multiples of the second. */
const ALIGNMENT = 256, SMALL = 16;

/** A part of the block. */
export interface UploadPart {
  readonly offset: number;
  /** As many as it may have. */
  readonly bytes: number;
}

/** Where the parts lie, as they are asked for, and what is in them. */
export class UploadLayout {
  readonly #parts: { readonly offset: number; readonly bytes: Uint8Array }[] = [];
  /** Values that the host knows, by name. */
  readonly values = new Map<string, UploadPart>();
  /** Inputs of the step, by name. */
  readonly inputs = new Map<string, UploadPart>();
  #end = 0;

  /** Puts a value that the host knows. */
  value(name: string, bytes: Uint8Array): Place {
    const offset = this.put(bytes);
    this.values.set(name, { offset, bytes: bytes.length });
    return { in: "upload", offset };
  }

  /** Puts bytes; gives their offset. */
  put(bytes: Uint8Array): number {
    const offset = this.#take(bytes.length, SMALL);
    this.#parts.push({ offset, bytes });
    return offset;
  }

  /** Room for an input of the step. */
  input(name: string, bytes: number): Place {
    const offset = this.#take(bytes, ALIGNMENT);
    this.inputs.set(name, { offset, bytes });
    return { in: "upload", offset };
  }

  /** The block, without the inputs. */
  image(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#end);
    for (const { offset, bytes } of this.#parts) all.set(bytes, offset);
    return all;
  }

  #take(bytes: number, alignment: number): number {
    const offset = Math.ceil(this.#end / alignment) * alignment;
    this.#end = offset + Math.max(1, bytes);
    return offset;
  }
}
