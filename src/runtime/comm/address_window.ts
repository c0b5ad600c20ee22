/**
 * A range of addresses into which shared memory is mapped, so that WebAssembly can compute on it where it lies.
 *
 * A `WebAssembly.Memory` can only see its own pages, and copying tensors into it and out again costs more than reducing
 * them. But its pages have an address, and `mmap` with `MAP_FIXED` replaces pages: so one memory per process is reserved
 * (addresses only, the kernel gives no page until one is touched), and every shared file is mapped over a part of it.
 * JavaScript, WebAssembly and ONNX Runtime then see the same bytes. What does not fit (a 32-bit memory ends at 4 GiB), or
 * where the engine refuses such a memory, is mapped elsewhere, and JavaScript loops do the reducing.
 */
import { type FileDescriptor, type Libc, MAP_FIXED, MAP_SHARED, type Mapping } from "../../ffi/libc.ts";

/** Shared memory that is mapped; disposing it takes the pages away. */
export interface MappedRange extends Disposable {
  /** The buffer that holds it: the whole WebAssembly memory, or just this mapping. */
  readonly buffer: ArrayBuffer;
  /** Where in `buffer` it starts. */
  readonly byteOffset: number;
  readonly byteLength: number;
  /** The WebAssembly memory in which `byteOffset` counts; undefined where it did not fit. */
  readonly memory: WebAssembly.Memory | undefined;
}

const WASM_PAGE = 65536;
/** Largest first. Where memory is accounted strictly, the kernel refuses large reservations. */
const SIZES_IN_PAGES = [65536, 16384, 4096, 1024] as const;

/** The addresses. One per process is meant: each reserves up to 4 GiB of them. */
export class AddressWindow {
  #libc: Libc;
  #memory: WebAssembly.Memory | undefined;
  #base = 0n;
  /** Unused ranges, in order of their start, never adjacent. The first page is scratch for who computes; the last keeps reads past the end of a range inside. */
  #free: { start: number; bytes: number }[] = [];

  constructor(libc: Libc) {
    this.#libc = libc;
    this.#memory = reserve();
    if (this.#memory === undefined) return;
    const bytes = this.#memory.buffer.byteLength;
    this.#base = Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(this.#memory.buffer)));
    this.#free = [{ start: WASM_PAGE, bytes: bytes - 2 * WASM_PAGE }];
  }

  /** The memory whose pages these are; undefined where none could be had. */
  get memory(): WebAssembly.Memory | undefined {
    return this.#memory;
  }

  /** Maps the first `bytes` of `file`, shared, readable and writable. @throws {LibcError} If the kernel refuses. */
  map(file: FileDescriptor, bytes: number): MappedRange {
    const reserved = roundUp(bytes);
    const hole = this.#free.find((range) => range.bytes >= reserved);
    if (this.#memory === undefined || hole === undefined) return ownRange(this.#libc.map(file, bytes));
    const start = hole.start;
    const address = Deno.UnsafePointer.create(this.#base + BigInt(start));
    this.#libc.map(file, bytes, { flags: MAP_SHARED | MAP_FIXED, address });
    hole.start += reserved;
    hole.bytes -= reserved;
    if (hole.bytes === 0) this.#free.splice(this.#free.indexOf(hole), 1);
    let mapped = true;
    return {
      buffer: this.#memory.buffer as ArrayBuffer,
      byteOffset: start,
      byteLength: bytes,
      memory: this.#memory,
      [Symbol.dispose]: () => {
        if (mapped) this.#unmap(start, reserved);
        mapped = false;
      },
    };
  }

  /** Zero pages take the place, so that a view somebody kept reads zeros instead of ending the process. */
  #unmap(start: number, bytes: number): void {
    this.#libc.mapZeros(Deno.UnsafePointer.create(this.#base + BigInt(start))!, bytes);
    let at = this.#free.findIndex((range) => range.start > start);
    if (at < 0) at = this.#free.length;
    this.#free.splice(at, 0, { start, bytes });
    const merged: { start: number; bytes: number }[] = [];
    for (const range of this.#free) {
      const last = merged.at(-1);
      if (last !== undefined && last.start + last.bytes === range.start) last.bytes += range.bytes;
      else merged.push(range);
    }
    this.#free = merged;
  }
}

function ownRange(mapping: Mapping): MappedRange {
  return {
    buffer: mapping.buffer,
    byteOffset: 0,
    byteLength: mapping.byteLength,
    memory: undefined,
    [Symbol.dispose]: () => mapping[Symbol.dispose](),
  };
}

function reserve(): WebAssembly.Memory | undefined {
  for (const pages of SIZES_IN_PAGES) {
    try {
      // Of fixed size, so that its buffer is never replaced and its address never moves.
      return new WebAssembly.Memory({ initial: pages, maximum: pages });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
    }
  }
  return undefined;
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / WASM_PAGE) * WASM_PAGE;
}
