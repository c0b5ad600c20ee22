/** cuBLASLt (libcublasLt): matrix multiplication with chosen algorithms and epilogues (bias, GELU), as a typed table. */
import { cublasStatusName } from "./cublas.ts";
import { CudaError } from "./cuda_error.ts";
import type { CudaLibraries } from "./cuda_libraries.ts";
import { type CheckedCalls, checkedCalls, status, textAt } from "./symbols.ts";

/** The functions. */
export const CUBLAS_LT = {
  cublasLtCreate: status("buffer"), // cublasLtHandle_t *lightHandle
  cublasLtDestroy: status("u64"), // cublasLtHandle_t lightHandle
  cublasLtGetVersion: { parameters: [], result: "usize" }, // -> size_t
  cublasLtGetStatusString: { parameters: ["i32"], result: "pointer", optional: true }, // cublasStatus_t status -> const char *
  cublasLtMatmulDescCreate: status("buffer", "i32", "i32"), // cublasLtMatmulDesc_t *matmulDesc, cublasComputeType_t computeType, cudaDataType_t scaleType
  cublasLtMatmulDescSetAttribute: status("u64", "i32", "buffer", "usize"), // cublasLtMatmulDesc_t matmulDesc, cublasLtMatmulDescAttributes_t attr, const void *buf, size_t sizeInBytes
  cublasLtMatmulDescDestroy: status("u64"), // cublasLtMatmulDesc_t matmulDesc
  cublasLtMatrixLayoutCreate: status("buffer", "i32", "u64", "u64", "i64"), // cublasLtMatrixLayout_t *matLayout, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld
  cublasLtMatrixLayoutSetAttribute: status("u64", "i32", "buffer", "usize"), // cublasLtMatrixLayout_t matLayout, cublasLtMatrixLayoutAttribute_t attr, const void *buf, size_t sizeInBytes
  cublasLtMatrixLayoutDestroy: status("u64"), // cublasLtMatrixLayout_t matLayout
  cublasLtMatmulPreferenceCreate: status("buffer"), // cublasLtMatmulPreference_t *pref
  cublasLtMatmulPreferenceSetAttribute: status("u64", "i32", "buffer", "usize"), // cublasLtMatmulPreference_t pref, cublasLtMatmulPreferenceAttributes_t attr, const void *buf, size_t sizeInBytes
  cublasLtMatmulPreferenceDestroy: status("u64"), // cublasLtMatmulPreference_t pref
  cublasLtMatmulAlgoGetHeuristic: status("u64", "u64", "u64", "u64", "u64", "u64", "u64", "i32", "buffer", "buffer"), // cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t operationDesc, cublasLtMatrixLayout_t Adesc, cublasLtMatrixLayout_t Bdesc, cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc, cublasLtMatmulPreference_t preference, int requestedAlgoCount, cublasLtMatmulHeuristicResult_t heuristicResultsArray[], int *returnAlgoCount
  cublasLtMatmul: status(
    "u64",
    "u64",
    "buffer",
    "u64",
    "u64",
    "u64",
    "u64",
    "buffer",
    "u64",
    "u64",
    "u64",
    "u64",
    "buffer",
    "u64",
    "usize",
    "u64",
  ), // cublasLtHandle_t lightHandle, cublasLtMatmulDesc_t computeDesc, const void *alpha, const void *A, cublasLtMatrixLayout_t Adesc, const void *B, cublasLtMatrixLayout_t Bdesc, const void *beta, const void *C, cublasLtMatrixLayout_t Cdesc, void *D, cublasLtMatrixLayout_t Ddesc, const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspaceSizeInBytes, cudaStream_t stream
} as const satisfies Deno.ForeignLibraryInterface;

/** Values of enums, by their names in cublasLt.h. */
export const CUBLAS_LT_ENUM = {
  CUBLASLT_MATMUL_DESC_TRANSA: 3,
  CUBLASLT_MATMUL_DESC_TRANSB: 4,
  CUBLASLT_MATMUL_DESC_EPILOGUE: 7,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER: 8,
  CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: 10,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: 11,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: 12,
  CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: 17,
  CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: 18,
  CUBLASLT_MATMUL_DESC_C_SCALE_POINTER: 19,
  CUBLASLT_MATMUL_DESC_D_SCALE_POINTER: 20,
  CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: 26,
  CUBLASLT_EPILOGUE_DEFAULT: 1,
  CUBLASLT_EPILOGUE_RELU: 2,
  CUBLASLT_EPILOGUE_BIAS: 4,
  CUBLASLT_EPILOGUE_RELU_BIAS: 6,
  CUBLASLT_EPILOGUE_GELU: 32,
  CUBLASLT_EPILOGUE_GELU_BIAS: 36,
  CUBLASLT_MATRIX_LAYOUT_TYPE: 0,
  CUBLASLT_MATRIX_LAYOUT_ORDER: 1,
  CUBLASLT_MATRIX_LAYOUT_LD: 4,
  CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: 5,
  CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: 6,
  CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: 1,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: 5,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: 6,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: 7,
  CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: 8,
} as const;

/**
 * `cublasLtMatmulHeuristicResult_t`: an algorithm (64 opaque bytes, valid as `algo` of `cublasLtMatmul` and worth keeping by
 * shape, types and epilogue), the workspace that it needs (u64), a status (i32), waves (f32), 16 reserved bytes.
 */
export const HEURISTIC_RESULT = { bytes: 96, algoBytes: 64, workspaceAt: 64, stateAt: 72, wavesAt: 76 } as const;

/** cuBLASLt, open. */
export class CublasLt {
  /** The file that was opened. */
  readonly path: string;
  /** The functions as they are, for hot paths: give their status to `check`. */
  readonly raw: Deno.StaticForeignLibraryInterface<typeof CUBLAS_LT>;
  /** The functions, throwing {@linkcode CudaError} unless they succeed. */
  readonly call: CheckedCalls<typeof CUBLAS_LT>;

  /** Finds and opens libcublasLt. @throws {UnavailableError} */
  constructor(libraries: CudaLibraries) {
    const { library, path } = libraries.open("libcublasLt", CUBLAS_LT);
    this.path = path;
    this.raw = library.symbols;
    this.call = checkedCalls(CUBLAS_LT, library.symbols, { path, check: this.check });
  }

  /** @throws {CudaError} Unless `status` of `call` is success. */
  readonly check = (status: number, call: string): void => {
    if (status === 0) return;
    const text = this.raw.cublasLtGetStatusString;
    const codeName = (text === null ? "" : textAt(text(status))) || cublasStatusName(status);
    throw new CudaError({ library: "libcublasLt", call, code: status, codeName });
  };

  /** A handle; the current context must be that of its GPU. */
  create(): LtHandle {
    return this.#make("cublasLtDestroy", (out) => this.call.cublasLtCreate(out));
  }

  /** A description of a multiplication: compute type, and type of `alpha` and `beta`. */
  matmulDesc(computeType: number, scaleType: number): LtHandle {
    return this.#make(
      "cublasLtMatmulDescDestroy",
      (out) => this.call.cublasLtMatmulDescCreate(out, computeType, scaleType),
    );
  }

  /** A column-major matrix of `rows` x `cols`, `ld` elements from one column to the next. */
  layout(type: number, rows: bigint, cols: bigint, ld: bigint): LtHandle {
    return this.#make(
      "cublasLtMatrixLayoutDestroy",
      (out) => this.call.cublasLtMatrixLayoutCreate(out, type, rows, cols, ld),
    );
  }

  /** What a search for algorithms may use. */
  preference(): LtHandle {
    return this.#make("cublasLtMatmulPreferenceDestroy", (out) => this.call.cublasLtMatmulPreferenceCreate(out));
  }

  #make(destroy: LtDestroy, create: (out: BigUint64Array<ArrayBuffer>) => void): LtHandle {
    const out = new BigUint64Array(1);
    create(out);
    return new LtHandle(out[0]!, (value) => this.call[destroy](value));
  }
}

type LtDestroy =
  | "cublasLtDestroy"
  | "cublasLtMatmulDescDestroy"
  | "cublasLtMatrixLayoutDestroy"
  | "cublasLtMatmulPreferenceDestroy";

/** An object of cuBLASLt. */
export class LtHandle implements Disposable {
  #value: bigint;
  #destroy: (value: bigint) => void;

  /** @internal Made by `CublasLt`. */
  constructor(value: bigint, destroy: (value: bigint) => void) {
    this.#value = value;
    this.#destroy = destroy;
  }

  /** The handle; 0 when disposed. */
  get value(): bigint {
    return this.#value;
  }

  [Symbol.dispose](): void {
    if (this.#value === 0n) return;
    const value = this.#value;
    this.#value = 0n;
    this.#destroy(value);
  }
}
