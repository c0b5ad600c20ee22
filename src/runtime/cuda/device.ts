/** One GPU as a rank uses it: a context, a stream, cuBLAS, compiled kernels. All calls are made on the thread that opened it. */
import { join } from "node:path";
import type { DType } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import { Cublas, CUBLAS_ENUM, type CublasHandle } from "../../ffi/cublas.ts";
import { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaContext, CudaStream, DeviceMemory, PinnedMemory } from "../../ffi/cuda_handles.ts";
import { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import { Nvrtc } from "../../ffi/nvrtc.ts";
import type { GemmStep, Matrix, Operand } from "../../ops/kernels/kernel.ts";
import { KernelCache } from "./kernel_cache.ts";
import type { Launch } from "./kernel_text.ts";

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

/** One GPU. */
export class GpuDevice implements Disposable {
  readonly libraries: CudaLibraries;
  readonly driver: CudaDriver;
  readonly context: CudaContext;
  readonly stream: CudaStream;
  readonly kernels: KernelCache;
  readonly #cublas: Cublas;
  readonly #handle: CublasHandle;
  readonly #workspace: DeviceMemory;
  readonly #staging: PinnedMemory;
  /** Of the staging memory, what copies that may not be done yet read. */
  #staged = 0;
  /** Whether the context is this object's own. */
  readonly #owned: boolean;
  /** The block of one launch's argument and the list that describes it; the driver copies both before it returns. */
  #block = new BigUint64Array(64);
  readonly #scalars = { alpha: new Float32Array(1), beta: new Float32Array(1) };
  readonly #wide = { alpha: new Float64Array(1), beta: new Float64Array(1) };

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
    this.#workspace = new DeviceMemory(this.driver, WORKSPACE);
    this.#handle.setWorkspace(this.#workspace.value, BigInt(WORKSPACE));
    this.#staging = new PinnedMemory(this.driver, STAGING);
    this.kernels = new KernelCache({
      driver: this.driver,
      nvrtc: new Nvrtc(libraries),
      architecture: this.context.facts.architecture,
      folder: "kernelFolder" in options ? options.kernelFolder : userCache(),
    });
  }

  /** Memory for `bytes`. @throws {CudaError} If the GPU has no more, saying how much it has. */
  allocate(bytes: number): DeviceMemory {
    return new DeviceMemory(this.driver, bytes);
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

  /** Copies from the GPU into `bytes`, when all work so far is done. */
  download(address: bigint, bytes: Uint8Array<ArrayBuffer>): void {
    if (bytes.length > 0) this.driver.call.cuMemcpyDtoH_v2(bytes, address, BigInt(bytes.length));
  }

  /** Puts a copy within the GPU's memory into the stream. */
  copy(to: bigint, from: bigint, bytes: number): void {
    this.driver.call.cuMemcpyDtoDAsync_v2(to, from, BigInt(bytes), this.stream.value);
  }

  /** Puts a kernel that was loaded into the stream. */
  launch(launch: Launch, addressOf: AddressOf): void {
    const { fields } = launch;
    if (fields.length > this.#block.length) this.#block = new BigUint64Array(2 * fields.length);
    const block = this.#block, view = new DataView(block.buffer);
    fields.forEach((field, i) => {
      if (field.kind === "address") block[i] = addressOf(field.operand);
      else if (field.kind === "int") view.setBigInt64(8 * i, BigInt(field.value), true);
      else view.setFloat64(8 * i, field.value, true);
    });
    const size = BigUint64Array.of(BigInt(8 * fields.length));
    // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
    const extra = BigUint64Array.of(1n, addressOfView(block), 2n, addressOfView(size), 0n);
    this.driver.call.cuLaunchKernel(
      this.kernels.function(launch.name),
      launch.blocks,
      1,
      1,
      launch.threads,
      1,
      1,
      0,
      this.stream.value,
      0n,
      extra,
    );
  }

  /** Puts a matrix product into the stream. */
  gemm(step: GemmStep, addressOf: AddressOf): void {
    const { m, n, k, batches, a, b, c } = step;
    const type = TYPES[c.operand.dtype];
    if (!type) throw new InputError(`Cannot multiply matrices of ${c.operand.dtype} on a GPU`);
    const { alpha, beta } = c.operand.dtype === "f64" ? this.#wide : this.#scalars;
    alpha[0] = step.alpha;
    beta[0] = step.beta;
    const at = ({ operand, offset }: Matrix) => addressOf(operand) + BigInt(offset * bytesOf(operand.dtype));
    const op = (x: Matrix) => x.transposed ? CUBLAS_ENUM.CUBLAS_OP_T : CUBLAS_ENUM.CUBLAS_OP_N;
    // cuBLAS counts by columns: what is row-major here is transposed there, so b comes first.
    this.#cublas.call.cublasGemmStridedBatchedEx(
      this.#handle.value,
      op(b),
      op(a),
      n,
      m,
      k,
      alpha,
      at(b),
      type.data,
      b.stride,
      BigInt(b.batch),
      at(a),
      type.data,
      a.stride,
      BigInt(a.batch),
      beta,
      at(c),
      type.data,
      c.stride,
      BigInt(c.batch),
      batches,
      type.compute,
      CUBLAS_ENUM.CUBLAS_GEMM_DEFAULT,
    );
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
    this.#workspace[Symbol.dispose]();
    this.#staging[Symbol.dispose]();
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

function addressOfView(view: BigUint64Array<ArrayBuffer>): bigint {
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(view)));
}

function bytesOf(dtype: DType): number {
  return dtype === "f64" ? 8 : dtype === "f32" ? 4 : 2;
}

function userCache(): string | undefined {
  const root = Deno.env.get("XDG_CACHE_HOME") || (Deno.env.get("HOME") && join(Deno.env.get("HOME")!, ".cache"));
  return root ? join(root, "shardwise", "kernels") : undefined;
}
