/** Pinned memory and memory of the GPU, side by side, through which plain arrays travel. */
import type { CudaDriver } from "../../../ffi/cuda_driver.ts";
import { DeviceMemory, PinnedMemory } from "../../../ffi/cuda_handles.ts";

const LEAST = 64 * 1024;

/** A pair of buffers that grows. What lies at an offset of one belongs to what lies there in the other. */
export class Staging implements Disposable {
  #driver: CudaDriver;
  #pinned: PinnedMemory | undefined;
  #device: DeviceMemory | undefined;
  /** Buffers that were too small: to free memory waits for the GPU, and so for peers that may wait for this rank. */
  #outgrown: Disposable[] = [];

  constructor(driver: CudaDriver) {
    this.#driver = driver;
  }

  /** The pinned bytes. */
  get bytes(): Uint8Array<ArrayBuffer> {
    return this.#pinned?.bytes ?? new Uint8Array();
  }

  /** Address on the GPU. */
  get device(): bigint {
    return this.#device?.value ?? 0n;
  }

  /** Makes room for `bytes`; nothing may be under way. @throws {CudaError} If there is none. */
  reserve(bytes: number): this {
    if (this.#pinned !== undefined && this.#pinned.byteLength >= bytes) return this;
    if (this.#pinned !== undefined) this.#outgrown.push(this.#pinned, this.#device!);
    const size = Math.max(LEAST, 2 ** Math.ceil(Math.log2(bytes)));
    this.#pinned = new PinnedMemory(this.#driver, size);
    this.#device = new DeviceMemory(this.#driver, size);
    return this;
  }

  /** Writes `source` at offset `at`, and enqueues its way to the GPU. */
  upload(source: Uint8Array, at: number, stream: bigint): void {
    if (source.length === 0) return;
    this.bytes.set(source, at);
    const offset = BigInt(at), host = this.#pinned!.value + offset;
    this.#driver.call.cuMemcpyHtoDAsync_v2(this.device + offset, host, BigInt(source.length), stream);
  }

  /** Enqueues the way of `bytes` at `at` back from the GPU. */
  download(at: number, bytes: number, stream: bigint): void {
    if (bytes === 0) return;
    const offset = BigInt(at), host = this.#pinned!.value + offset;
    this.#driver.call.cuMemcpyDtoHAsync_v2(host, this.device + offset, BigInt(bytes), stream);
  }

  [Symbol.dispose](): void {
    this.#pinned?.[Symbol.dispose]();
    this.#device?.[Symbol.dispose]();
    for (const buffer of this.#outgrown) buffer[Symbol.dispose]();
    this.#pinned = this.#device = undefined;
    this.#outgrown = [];
  }
}
