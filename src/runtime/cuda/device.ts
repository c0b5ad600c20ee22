/** One GPU as a rank uses it: a context, a stream, cuBLAS, compiled kernels. All calls are made on the thread that opened it. */
import { join } from "node:path";
import type { DType } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import { Cublas, CUBLAS_ENUM, type CublasHandle } from "../../ffi/cublas.ts";
import { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaContext, CudaStream, type DeviceMemory, PinnedMemory } from "../../ffi/cuda_handles.ts";
import { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import { Nvrtc } from "../../ffi/nvrtc.ts";
import { addressOf as addressOfView } from "../../ffi/symbols.ts";
import type { GemmStep, Matrix, Operand } from "../../ops/kernels/kernel.ts";
import { MemoryBook } from "./device_memory.ts";
import { KernelCache } from "./kernel_cache.ts";
import { LtProducts } from "./lt_products.ts";
import type { Launch } from "./kernel_arguments.ts";

/** A GPU that this process has opened already, for a communicator. */
export interface OpenedGpu {
  readonly driver: CudaDriver;
  /** Current on this thread. */
  readonly context: CudaContext;
  readonly libraries: CudaLibraries;
}

/** Which GPU, and where its libraries are. */
export interface DeviceOptions {
  /** The GPU, as this process counts them, or one that is open. */
  readonly gpu: number | OpenedGpu;
  /** The libraries; searched for by default. */
  readonly libraries?: CudaLibraries;
  /** Where compiled kernels are kept; `shardwise/kernels` in the user's cache folder by default. */
  readonly kernelFolder?: string | undefined;
}

/** Bytes on their way to the GPU: pinned, as only such copies take their turn in the stream. */
const STAGING = 8 * 2 ** 20;
/** Bytes on their way back. */
const FETCHING = 4 * 2 ** 20;
/** Bytes that cuBLAS may use for itself: what NVIDIA advises for Hopper. */
const WORKSPACE = 32 * 2 ** 20;

const TYPES: Partial<Record<DType, { readonly data: number; readonly compute: number }>> = {
  f32: { data: CUBLAS_ENUM.CUDA_R_32F, compute: CUBLAS_ENUM.CUBLAS_COMPUTE_32F },
  f16: { data: CUBLAS_ENUM.CUDA_R_16F, compute: CUBLAS_ENUM.CUBLAS_COMPUTE_32F },
  bf16: { data: CUBLAS_ENUM.CUDA_R_16BF, compute: CUBLAS_ENUM.CUBLAS_COMPUTE_32F },
  f64: { data: CUBLAS_ENUM.CUDA_R_64F, compute: CUBLAS_ENUM.CUBLAS_COMPUTE_64F },
};

/** Where an operand's memory begins. */
export type AddressOf = (operand: Operand) => bigint;

/** Words before a launch's argument: CU_LAUNCH_PARAM_BUFFER_POINTER (1) and its address, CU_LAUNCH_PARAM_BUFFER_SIZE (2) and its, an end; a size. */
const LAUNCH_HEAD = 6;

/** Puts one thing into the device's stream. */
export type Enqueue = () => void;

/** One GPU. */
export class GpuDevice implements Disposable {
  readonly libraries: CudaLibraries;
  readonly driver: CudaDriver;
  readonly context: CudaContext;
  readonly stream: CudaStream;
  readonly kernels: KernelCache;
  readonly memory: MemoryBook;
  readonly #cublas: Cublas;
  readonly #handle: CublasHandle;
  readonly #workspace: DeviceMemory;
  #lt: LtProducts | undefined;
  readonly #staging: PinnedMemory;
  /** Of the staging memory, what copies that may not be done yet read. */
  #staged = 0;
  /** Whether the context is this object's own. */
  readonly #owned: boolean;
  readonly #fetching: PinnedMemory;
  #fetched = 0;

  /**
   * Opens a GPU, or joins one that is open.
   *
   * @throws {UnavailableError} If a library is missing, listing what was tried.
   * @throws {InputError} If there are fewer GPUs.
   */
  constructor(options: DeviceOptions) {
    const { gpu } = options;
    this.#owned = typeof gpu === "number";
    if (typeof gpu === "number") {
      this.libraries = options.libraries ?? new CudaLibraries();
      this.driver = new CudaDriver(this.libraries);
      this.libraries.driverVersion = this.driver.version;
      this.context = openContext(this.driver, gpu);
    } else {
      this.libraries = gpu.libraries;
      this.driver = gpu.driver;
      this.context = gpu.context;
      this.context.makeCurrent();
    }
    const { libraries } = this;
    this.stream = new CudaStream(this.driver);
    this.#cublas = new Cublas(libraries);
    this.#handle = this.#cublas.create();
    this.#handle.setStream(this.stream.value);
    this.memory = new MemoryBook(this.driver, this.context);
    this.#workspace = this.memory.allocate(WORKSPACE, "work space");
    this.#handle.setWorkspace(this.#workspace.value, BigInt(WORKSPACE));
    this.#staging = new PinnedMemory(this.driver, STAGING);
    this.#fetching = new PinnedMemory(this.driver, FETCHING);
    this.kernels = new KernelCache({
      driver: this.driver,
      nvrtc: new Nvrtc(libraries),
      architecture: this.context.facts.architecture,
      folder: "kernelFolder" in options ? options.kernelFolder : userCache(),
    });
  }

  /**
   * Puts a copy of `bytes` to the GPU into the stream; they may change when it returns. Large ones wait for the stream meanwhile, so no
   * collective may be pending.
   */
  upload(address: bigint, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      if (this.#staged >= STAGING) {
        this.stream.synchronize();
        this.#staged = 0;
      }
      const length = Math.min(bytes.length - at, STAGING - this.#staged);
      this.#staging.bytes.set(bytes.subarray(at, at + length), this.#staged);
      const from = this.#staging.value + BigInt(this.#staged);
      this.driver.call.cuMemcpyHtoDAsync_v2(address + BigInt(at), from, BigInt(length), this.stream.value);
      this.#staged += Math.ceil(length / 256) * 256;
      at += length;
    }
  }

  /** Copies from the GPU into `bytes`, when all work so far is done; waits for it, so no collective may be pending. */
  download(address: bigint, bytes: Uint8Array<ArrayBuffer>): void {
    if (bytes.length === 0) return;
    this.synchronize(); // a plain copy takes its turn in the default stream, which this one does not wait for
    this.driver.call.cuMemcpyDtoH_v2(bytes, address, BigInt(bytes.length));
  }

  /** Puts a copy within the GPU's memory into the stream. */
  copy(to: bigint, from: bigint, bytes: number): void {
    this.driver.call.cuMemcpyDtoDAsync_v2(to, from, BigInt(bytes), this.stream.value);
  }

  /** Puts zeros into the GPU's memory, when the stream comes to it. */
  clear(address: bigint, bytes: number): void {
    if (bytes > 0) this.driver.call.cuMemsetD8Async(address, 0, BigInt(bytes), this.stream.value);
  }

  /**
   * Brings bytes of the GPU to the host when the stream comes to it; call what it gives once the stream has settled, and before the next
   * step. Undefined where there are more than pinned memory takes.
   */
  fetch(address: bigint, bytes: number): (() => Uint8Array<ArrayBuffer>) | undefined {
    const at = this.#fetched;
    if (at + bytes > FETCHING) return undefined;
    this.#fetched += Math.ceil(bytes / 256) * 256;
    if (bytes === 0) return () => new Uint8Array(0);
    const { driver, stream } = this, to = this.#fetching.value + BigInt(at);
    driver.call.cuMemcpyDtoHAsync_v2(to, address, BigInt(bytes), stream.value);
    return () => this.#fetching.bytes.slice(at, at + bytes);
  }

  /** Forgets what was fetched: its memory is used again. */
  forgetFetched(): void {
    this.#fetched = 0;
  }

  /**
   * A kernel that was loaded, ready to be put into the stream again and again. `numbers`: where they lie on the GPU, for a launch whose
   * sizes change while it stays.
   */
  prepareLaunch(launch: Launch, addressOf: AddressOf, numbers?: bigint): Enqueue {
    const { addresses, blocks, threads } = launch, given = launch.numbers.length / 8;
    const fields = addresses.length + (numbers === undefined ? given : 1);
    // The list that describes the argument, its size, and the argument itself; the driver copies all of it before it returns.
    const block = new BigUint64Array(LAUNCH_HEAD + fields), at = addressOfView(block);
    block.set([1n, at + 8n * BigInt(LAUNCH_HEAD), 2n, at + 40n, 0n, BigInt(8 * fields)]);
    addresses.forEach((operand, i) => block[LAUNCH_HEAD + i] = addressOf(operand));
    if (numbers !== undefined) block[LAUNCH_HEAD + addresses.length] = numbers;
    else new Uint8Array(block.buffer, 8 * (LAUNCH_HEAD + addresses.length)).set(launch.numbers);
    const { raw, check } = this.driver, stream = this.stream.value;
    const kernel = this.kernels.function((numbers === undefined ? launch.plain : launch.sized).name);
    return () => check(raw.cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, 0, stream, 0n, block), "cuLaunchKernel");
  }

  /** A matrix product, ready to be put into the stream. */
  prepareGemm(step: GemmStep, addressOf: AddressOf): Enqueue {
    const { m, n, k, batches, a, b, c } = step;
    const type = TYPES[c.operand.dtype];
    if (!type) throw new InputError(`Cannot multiply matrices of ${c.operand.dtype} on a GPU`);
    const Scalar = c.operand.dtype === "f64" ? Float64Array : Float32Array;
    const alpha = Scalar.of(step.alpha), beta = Scalar.of(step.beta);
    const at = ({ operand, offset }: Matrix) => addressOf(operand) + BigInt(offset * bytesOf(operand.dtype));
    const op = (x: Matrix) => x.transposed ? CUBLAS_ENUM.CUBLAS_OP_T : CUBLAS_ENUM.CUBLAS_OP_N;
    // Matrices without columns too must have a stride.
    const side = (x: Matrix) => ({ op: op(x), at: at(x), row: Math.max(1, x.stride), batch: BigInt(x.batch) });
    // cuBLAS counts by columns: what is row-major here is transposed there, so b comes first.
    const [left, right, to] = [side(b), side(a), side(c)];
    if (step.epilogue) {
      const { bias } = step.epilogue;
      return this.#products().prepare({
        step,
        left: left.at,
        right: right.at,
        to: to.at,
        bias: bias && addressOf(bias),
      });
    }
    const { raw, check } = this.#cublas, handle = this.#handle.value, { data, compute } = type;
    return () =>
      check(
        raw.cublasGemmStridedBatchedEx(
          handle,
          left.op,
          right.op,
          n,
          m,
          k,
          alpha,
          left.at,
          data,
          left.row,
          left.batch,
          right.at,
          data,
          right.row,
          right.batch,
          beta,
          to.at,
          data,
          to.row,
          to.batch,
          batches,
          compute,
          CUBLAS_ENUM.CUBLAS_GEMM_DEFAULT,
        ),
        "cublasGemmStridedBatchedEx",
      );
  }

  /** cuBLASLt, opened by the first product that needs it. */
  #products(): LtProducts {
    return this.#lt ??= new LtProducts({
      libraries: this.libraries,
      stream: this.stream.value,
      workspace: { address: this.#workspace.value, bytes: WORKSPACE },
    });
  }

  /** Blocks until the stream has no work; only where no collective can be pending. */
  synchronize(): void {
    this.stream.synchronize();
    this.#staged = 0;
  }

  /** Waits until the stream has no work, without keeping signals and timers from running. @throws {CudaError} If work failed. */
  async settled(): Promise<void> {
    for (const until = performance.now() + 0.1; performance.now() < until;) if (this.#done()) return;
    while (!this.#done()) await new Promise((resolve) => setImmediate(resolve));
  }

  #done(): boolean {
    if (!this.stream.done()) return false;
    this.#staged = 0;
    return true;
  }

  [Symbol.dispose](): void {
    this.kernels[Symbol.dispose]();
    this.#handle[Symbol.dispose]();
    this.#lt?.[Symbol.dispose]();
    this.#workspace[Symbol.dispose]();
    this.#staging[Symbol.dispose]();
    this.#fetching[Symbol.dispose]();
    this.stream[Symbol.dispose]();
    if (this.#owned) this.context[Symbol.dispose]();
  }
}

function openContext(driver: CudaDriver, ordinal: number): CudaContext {
  const found = driver.deviceCount;
  if (ordinal < found) return new CudaContext(driver, ordinal);
  throw new InputError(`Cannot use GPU ${ordinal}: this process sees ${found}`, {
    hint: "start at most one rank a GPU, or give the job more GPUs (CUDA_VISIBLE_DEVICES says which it may use)",
  });
}

function bytesOf(dtype: DType): number {
  return dtype === "f64" ? 8 : dtype === "f32" ? 4 : 2;
}

function userCache(): string | undefined {
  const root = Deno.env.get("XDG_CACHE_HOME") || (Deno.env.get("HOME") && join(Deno.env.get("HOME")!, ".cache"));
  return root ? join(root, "shardwise", "kernels") : undefined;
}
