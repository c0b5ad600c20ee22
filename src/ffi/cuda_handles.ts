/** The driver's objects with an owner: each is disposable, disposing twice is harmless, and `value` is 0 afterwards. */
import { UnavailableError } from "../core/errors.ts";
import { CU, CU_ENUM, type CudaDriver } from "./cuda_driver.ts";
import { CudaError } from "./cuda_error.ts";
import { cString } from "./symbols.ts";

/** What all owners share. */
abstract class Handle implements Disposable {
  protected readonly driver: CudaDriver;
  #value: bigint;

  protected constructor(driver: CudaDriver, value: bigint) {
    this.driver = driver;
    this.#value = value;
  }

  /** The handle or address; 0 when disposed. */
  get value(): bigint {
    return this.#value;
  }

  protected abstract release(value: bigint): void;

  [Symbol.dispose](): void {
    if (this.#value === 0n) return;
    const value = this.#value;
    this.#value = 0n;
    this.release(value);
  }
}

/** What a GPU is. */
export interface DeviceFacts {
  readonly name: string;
  /** 16 bytes as hexadecimal digits; equal for processes that see the same GPU, whatever number it has there. */
  readonly uuid: string;
  /** Compute capability: 90 is sm_90. */
  readonly architecture: number;
  readonly multiprocessors: number;
  readonly totalBytes: number;
  /** Dynamic shared memory that a block may ask for. */
  readonly sharedBytesPerBlock: number;
  readonly l2Bytes: number;
}

/** A GPU's primary context, current on the thread that made it. */
export class CudaContext extends Handle {
  /** The GPU, as this process counts them. */
  readonly ordinal: number;
  /** The `CUdevice`. */
  readonly device: number;

  /** Retains the primary context of GPU `ordinal` and makes it current. @throws {CudaError} If there is no such GPU. */
  constructor(driver: CudaDriver, ordinal: number) {
    const device = new Int32Array(1), context = new BigUint64Array(1);
    driver.call.cuDeviceGet(device, ordinal);
    driver.call.cuDevicePrimaryCtxRetain(context, device[0]!);
    super(driver, context[0]!);
    this.ordinal = ordinal;
    this.device = device[0]!;
    this.makeCurrent();
  }

  /** Makes it current on this thread; NCCL and cuBLAS take their GPU from it. */
  makeCurrent(): void {
    this.driver.call.cuCtxSetCurrent(this.value);
  }

  /** An attribute, by its number. */
  attribute(attribute: number): number {
    const value = new Int32Array(1);
    this.driver.call.cuDeviceGetAttribute(value, attribute, this.device);
    return value[0]!;
  }

  /** What the GPU is. */
  get facts(): DeviceFacts {
    const name = new Uint8Array(256), uuid = new Uint8Array(16), total = new BigUint64Array(1);
    this.driver.call.cuDeviceGetName(name, name.length, this.device);
    if (this.driver.raw.cuDeviceGetUuid_v2 !== null) this.driver.call.cuDeviceGetUuid_v2(uuid, this.device);
    this.driver.call.cuDeviceTotalMem_v2(total, this.device);
    return {
      name: new TextDecoder().decode(name).replace(/\0[^]*$/, ""),
      uuid: uuid.toHex(),
      architecture: 10 * this.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
        this.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
      multiprocessors: this.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
      totalBytes: Number(total[0]),
      sharedBytesPerBlock: this.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
      l2Bytes: this.attribute(CU_ENUM.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
    };
  }

  /** Bytes of the GPU that are free, of how many. */
  memory(): { readonly free: number; readonly total: number } {
    const free = new BigUint64Array(1), total = new BigUint64Array(1);
    this.driver.call.cuMemGetInfo_v2(free, total);
    return { free: Number(free[0]), total: Number(total[0]) };
  }

  protected override release(): void {
    this.driver.call.cuDevicePrimaryCtxRelease_v2(this.device);
  }
}

/** A queue of work that does not wait for the legacy default stream. */
export class CudaStream extends Handle {
  /** A stream of the current context; a lower `priority` goes first. */
  constructor(driver: CudaDriver, priority = 0) {
    const stream = new BigUint64Array(1);
    driver.call.cuStreamCreateWithPriority(stream, CU_ENUM.CU_STREAM_NON_BLOCKING, priority);
    super(driver, stream[0]!);
  }

  /** Whether all its work is done. @throws {CudaError} If some of it failed. */
  done(): boolean {
    const status = this.driver.raw.cuStreamQuery(this.value);
    if (status === CU.notReady) return false;
    this.driver.check(status, "cuStreamQuery");
    return true;
  }

  /** Blocks the process until all its work is done; only where no collective can be pending. */
  synchronize(): void {
    this.driver.call.cuStreamSynchronize(this.value);
  }

  /** Later work of this stream waits for what `event` was recorded after. */
  waitFor(event: CudaEvent): void {
    this.driver.call.cuStreamWaitEvent(this.value, event.value, 0);
  }

  /** Records what `enqueue` puts into this stream, instead of running it. @throws What `enqueue` throws. */
  capture(enqueue: () => void): CudaGraph {
    const { call } = this.driver, graph = new BigUint64Array(1);
    call.cuStreamBeginCapture_v2(this.value, CU_ENUM.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    try {
      enqueue();
    } catch (error) {
      this.driver.raw.cuStreamEndCapture?.(this.value, graph); // the first error is the cause
      if (graph[0] !== 0n) this.driver.raw.cuGraphDestroy?.(graph[0]!);
      throw error;
    }
    call.cuStreamEndCapture(this.value, graph);
    try {
      const executable = new BigUint64Array(1);
      call.cuGraphInstantiateWithFlags(executable, graph[0]!, 0n);
      return new CudaGraph(this.driver, executable[0]!);
    } finally {
      call.cuGraphDestroy(graph[0]!);
    }
  }

  protected override release(value: bigint): void {
    this.driver.call.cuStreamDestroy_v2(value);
  }
}

/** Captured work that can be launched again and again. Dispose it before the communicators that it uses. */
export class CudaGraph extends Handle {
  /** @internal Made by `CudaStream.capture`. */
  constructor(driver: CudaDriver, value: bigint) {
    super(driver, value);
  }

  /** Puts the work into `stream`. */
  launch(stream: CudaStream): void {
    this.driver.call.cuGraphLaunch(this.value, stream.value);
  }

  protected override release(value: bigint): void {
    this.driver.call.cuGraphExecDestroy(value);
  }
}

/** A point in a stream's work. */
export class CudaEvent extends Handle {
  /** `timing`: whether it can measure; that costs a little. */
  constructor(driver: CudaDriver, o: { readonly timing?: boolean } = {}) {
    const event = new BigUint64Array(1);
    driver.call.cuEventCreate(event, o.timing ? 0 : CU_ENUM.CU_EVENT_DISABLE_TIMING);
    super(driver, event[0]!);
  }

  /** Means the end of all work that `stream` has now. */
  record(stream: bigint): void {
    this.driver.call.cuEventRecord(this.value, stream);
  }

  /** Whether that work is done; true if nothing was recorded. @throws {CudaError} If some of it failed. */
  done(): boolean {
    const status = this.driver.raw.cuEventQuery(this.value);
    if (status === CU.notReady) return false;
    this.driver.check(status, "cuEventQuery");
    return true;
  }

  /** Milliseconds from `start` to this event, when both are done; both with timing. */
  elapsedSince(start: CudaEvent): number {
    const ms = new Float32Array(1);
    this.driver.call.cuEventElapsedTime(ms, start.value, this.value);
    return ms[0]!;
  }

  protected override release(value: bigint): void {
    this.driver.call.cuEventDestroy_v2(value);
  }
}

/** Memory of the GPU; its address is 256-byte aligned. */
export class DeviceMemory extends Handle {
  readonly byteLength: number;

  /** @throws {CudaError} `CUDA_ERROR_OUT_OF_MEMORY`, saying how much was free. */
  constructor(driver: CudaDriver, bytes: number) {
    const address = new BigUint64Array(1);
    const status = driver.raw.cuMemAlloc_v2(address, BigInt(Math.max(1, bytes)));
    if (status === CU.outOfMemory) throw outOfMemory(driver, bytes);
    driver.check(status, "cuMemAlloc_v2");
    super(driver, address[0]!);
    this.byteLength = bytes;
  }

  /**
   * By what another process opens it. The driver may share all of a block of 2 MiB, so memory for others has a multiple of that.
   *
   * @throws {UnavailableError} If the driver cannot. @throws {CudaError} If it will not.
   */
  exported(): Uint8Array<ArrayBuffer> {
    const handle = new Uint8Array(IPC_HANDLE_BYTES);
    this.driver.call.cuIpcGetMemHandle(handle, this.value);
    return handle;
  }

  protected override release(value: bigint): void {
    this.driver.call.cuMemFree_v2(value);
  }
}

/** Bytes of a `CUipcMemHandle`. */
export const IPC_HANDLE_BYTES = 64;

/** Memory of another process on this host, open here. Dispose it before that process frees it. */
export class PeerMapping extends Handle {
  /** Opens what `DeviceMemory.exported` gave there. @throws {UnavailableError} @throws {CudaError} If the GPUs do not reach each other. */
  constructor(driver: CudaDriver, handle: Uint8Array<ArrayBuffer>) {
    // The call reads that many bytes whatever the array's length is.
    if (handle.length !== IPC_HANDLE_BYTES) {
      throw new RangeError(`Cannot use ${handle.length} bytes as a memory handle`);
    }
    const open = driver.raw.cuIpcOpenMemHandle_v2, address = new BigUint64Array(1);
    if (open === null) throw new UnavailableError(`Cannot open another process's memory: ${driver.path} is too old`);
    driver.check(open(address, handle, CU_ENUM.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), "cuIpcOpenMemHandle_v2");
    super(driver, address[0]!);
  }

  protected override release(value: bigint): void {
    this.driver.call.cuIpcCloseMemHandle(value);
  }
}

/** Memory of the host that the GPU copies to and from while JavaScript goes on. */
export class PinnedMemory extends Handle {
  /** All of it; must not be used after disposing. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly byteLength: number;

  /** @throws {CudaError} If the system gives no more. */
  constructor(driver: CudaDriver, bytes: number) {
    const address = new BigUint64Array(1);
    const flags = CU_ENUM.CU_MEMHOSTALLOC_PORTABLE | CU_ENUM.CU_MEMHOSTALLOC_DEVICEMAP;
    driver.call.cuMemHostAlloc(address, BigInt(Math.max(1, bytes)), flags);
    super(driver, address[0]!);
    const pointer = Deno.UnsafePointer.create(address[0]!)!;
    this.byteLength = bytes;
    this.bytes = new Uint8Array(new Deno.UnsafePointerView(pointer).getArrayBuffer(Math.max(1, bytes)), 0, bytes);
  }

  /** Where kernels find it. */
  get deviceAddress(): bigint {
    const address = new BigUint64Array(1);
    this.driver.call.cuMemHostGetDevicePointer_v2(address, this.value, 0);
    return address[0]!;
  }

  protected override release(value: bigint): void {
    this.driver.call.cuMemFreeHost(value);
  }
}

/** Compiled kernels on the GPU. */
export class CudaModule extends Handle {
  /** Loads a cubin, or PTX with its closing zero. @throws {CudaError} If it is not for this GPU. */
  constructor(driver: CudaDriver, image: Uint8Array<ArrayBuffer>) {
    const module = new BigUint64Array(1);
    driver.call.cuModuleLoadData(module, image);
    super(driver, module[0]!);
  }

  /** The `CUfunction` of kernel `name`, good as long as the module. @throws {CudaError} `CUDA_ERROR_NOT_FOUND`. */
  function(name: string): bigint {
    const found = new BigUint64Array(1);
    this.driver.call.cuModuleGetFunction(found, this.value, cString(name));
    return found[0]!;
  }

  protected override release(value: bigint): void {
    this.driver.call.cuModuleUnload(value);
  }
}

function outOfMemory(driver: CudaDriver, bytes: number): CudaError {
  const free = new BigUint64Array(1), total = new BigUint64Array(1);
  driver.raw.cuMemGetInfo_v2(free, total);
  const mib = (n: number | bigint) => `${(Number(n) / 2 ** 20).toFixed(0)} MiB`;
  return new CudaError({
    library: "libcuda",
    call: "cuMemAlloc_v2",
    code: CU.outOfMemory,
    codeName: "CUDA_ERROR_OUT_OF_MEMORY",
    detail: `${mib(bytes)} were asked for, ${mib(free[0]!)} of ${mib(total[0]!)} are free`,
  });
}
