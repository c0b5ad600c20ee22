/** cuBLAS (libcublas): matrix multiplication with few settings, as a typed table. Matrices are column-major. */
import { CudaError } from "./cuda_error.ts";
import type { CudaLibraries } from "./cuda_libraries.ts";
import { type CheckedCalls, checkedCalls, since, status, textAt } from "./symbols.ts";

/** The functions. `alpha` and `beta` lie in host memory. */
export const CUBLAS = {
  cublasCreate_v2: status("buffer"), // cublasHandle_t *handle
  cublasDestroy_v2: status("u64"), // cublasHandle_t handle
  cublasGetVersion_v2: status("u64", "buffer"), // cublasHandle_t handle, int *version
  cublasGetProperty: status("i32", "buffer"), // libraryPropertyType type, int *value
  cublasSetStream_v2: status("u64", "u64"), // cublasHandle_t handle, cudaStream_t streamId
  cublasSetWorkspace_v2: since("u64", "u64", "usize"), // cublasHandle_t handle, void *workspace, size_t workspaceSizeInBytes
  cublasSetMathMode: status("u64", "i32"), // cublasHandle_t handle, cublasMath_t mode
  cublasGetStatusString: { parameters: ["i32"], result: "pointer", optional: true }, // cublasStatus_t status -> const char *
  cublasGemmEx: status(
    "u64",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "buffer",
    "u64",
    "i32",
    "i32",
    "u64",
    "i32",
    "i32",
    "buffer",
    "u64",
    "i32",
    "i32",
    "i32",
    "i32",
  ), // cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const void *alpha, const void *A, cudaDataType Atype, int lda, const void *B, cudaDataType Btype, int ldb, const void *beta, void *C, cudaDataType Ctype, int ldc, cublasComputeType_t computeType, cublasGemmAlgo_t algo
  cublasGemmStridedBatchedEx: status(
    "u64",
    "i32",
    "i32",
    "i32",
    "i32",
    "i32",
    "buffer",
    "u64",
    "i32",
    "i32",
    "i64",
    "u64",
    "i32",
    "i32",
    "i64",
    "buffer",
    "u64",
    "i32",
    "i32",
    "i64",
    "i32",
    "i32",
    "i32",
  ), // cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m, int n, int k, const void *alpha, const void *A, cudaDataType Atype, int lda, long long int strideA, const void *B, cudaDataType Btype, int ldb, long long int strideB, const void *beta, void *C, cudaDataType Ctype, int ldc, long long int strideC, int batchCount, cublasComputeType_t computeType, cublasGemmAlgo_t algo
} as const satisfies Deno.ForeignLibraryInterface;

/** Values of enums of cuBLAS and its data types, by their names in the headers. */
export const CUBLAS_ENUM = {
  CUDA_R_32F: 0,
  CUDA_R_64F: 1,
  CUDA_R_16F: 2,
  CUDA_R_8I: 3,
  CUDA_R_8U: 8,
  CUDA_R_32I: 10,
  CUDA_R_16BF: 14,
  CUDA_R_64I: 24,
  CUDA_R_8F_E4M3: 28,
  CUDA_R_8F_E5M2: 29,
  CUBLAS_OP_N: 0,
  CUBLAS_OP_T: 1,
  CUBLAS_COMPUTE_16F: 64,
  CUBLAS_COMPUTE_32F: 68,
  CUBLAS_COMPUTE_64F: 70,
  CUBLAS_COMPUTE_32I: 72,
  CUBLAS_COMPUTE_32F_FAST_16F: 74,
  CUBLAS_COMPUTE_32F_FAST_16BF: 75,
  CUBLAS_COMPUTE_32F_FAST_TF32: 77,
  CUBLAS_GEMM_DEFAULT: -1,
  CUBLAS_DEFAULT_MATH: 0,
  CUBLAS_PEDANTIC_MATH: 2,
  CUBLAS_TF32_TENSOR_OP_MATH: 3,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: 16,
} as const;

/** cuBLAS, open. */
export class Cublas {
  /** The file that was opened. */
  readonly path: string;
  /** The functions as they are, for hot paths: give their status to `check`. */
  readonly raw: Deno.StaticForeignLibraryInterface<typeof CUBLAS>;
  /** The functions, throwing {@linkcode CudaError} unless they succeed. */
  readonly call: CheckedCalls<typeof CUBLAS>;

  /** Finds and opens libcublas, and libcublasLt before it. @throws {UnavailableError} */
  constructor(libraries: CudaLibraries) {
    const { library, path } = libraries.open("libcublas", CUBLAS);
    this.path = path;
    this.raw = library.symbols;
    this.call = checkedCalls(CUBLAS, library.symbols, { path, check: this.check });
  }

  /** @throws {CudaError} Unless `status` of `call` is success. */
  readonly check = (status: number, call: string): void => {
    if (status === 0) return;
    const text = this.raw.cublasGetStatusString;
    throw new CudaError({
      library: "libcublas",
      call,
      code: status,
      codeName: text === null ? cublasStatusName(status) : textAt(text(status)) || cublasStatusName(status),
    });
  };

  /** A handle; the current context must be that of its GPU. */
  create(): CublasHandle {
    const handle = new BigUint64Array(1);
    this.call.cublasCreate_v2(handle);
    return new CublasHandle(this, handle[0]!);
  }
}

/** A cuBLAS handle: a stream, a workspace, a math mode. */
export class CublasHandle implements Disposable {
  #library: Cublas;
  #value: bigint;

  /** @internal Made by `Cublas.create`. */
  constructor(library: Cublas, value: bigint) {
    this.#library = library;
    this.#value = value;
  }

  /** The `cublasHandle_t`; 0 when disposed. */
  get value(): bigint {
    return this.#value;
  }

  /** Work goes to `stream` from now on. */
  setStream(stream: bigint): void {
    this.#library.call.cublasSetStream_v2(this.#value, stream);
  }

  /** Uses `bytes` of device memory at `address` (256-byte aligned) instead of memory of its own. */
  setWorkspace(address: bigint, bytes: bigint): void {
    this.#library.call.cublasSetWorkspace_v2(this.#value, address, bytes);
  }

  [Symbol.dispose](): void {
    if (this.#value === 0n) return;
    const value = this.#value;
    this.#value = 0n;
    this.#library.call.cublasDestroy_v2(value);
  }
}

const STATUS: Readonly<Record<number, string>> = {
  1: "CUBLAS_STATUS_NOT_INITIALIZED",
  3: "CUBLAS_STATUS_ALLOC_FAILED",
  7: "CUBLAS_STATUS_INVALID_VALUE",
  8: "CUBLAS_STATUS_ARCH_MISMATCH",
  11: "CUBLAS_STATUS_MAPPING_ERROR",
  13: "CUBLAS_STATUS_EXECUTION_FAILED",
  14: "CUBLAS_STATUS_INTERNAL_ERROR",
  15: "CUBLAS_STATUS_NOT_SUPPORTED",
};

/** The name of a `cublasStatus_t`; cuBLASLt and cuBLAS before 11.4 cannot tell it. Pure. */
export function cublasStatusName(status: number): string {
  return STATUS[status] ?? "unknown status";
}
