/** NCCL (libnccl.so.2, 2.14 and newer): collectives among GPUs, as a typed table. */
import { CudaError } from "./cuda_error.ts";
import type { CudaLibraries } from "./cuda_libraries.ts";
import { type CheckedCalls, checkedCalls, since, status, textAt } from "./symbols.ts";

/** `ncclUniqueId`, which is passed by value. */
const UNIQUE_ID = {
  struct: [
    ...["u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64"] as const,
    ...["u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64"] as const,
  ],
} as const;

/** The functions. */
export const NCCL = {
  ncclGetVersion: status("buffer"), // int *version
  ncclGetUniqueId: status("buffer"), // ncclUniqueId *uniqueId (128 bytes)
  ncclCommInitRankConfig: status("buffer", "i32", UNIQUE_ID, "i32", "buffer"), // ncclComm_t *comm, int nranks, ncclUniqueId commId, int rank, ncclConfig_t *config
  ncclCommFinalize: status("u64"), // ncclComm_t comm
  ncclCommDestroy: status("u64"), // ncclComm_t comm
  ncclCommAbort: status("u64"), // ncclComm_t comm
  ncclCommSplit: since("u64", "i32", "i32", "buffer", "buffer"), // ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config
  ncclCommGetAsyncError: status("u64", "buffer"), // ncclComm_t comm, ncclResult_t *asyncError
  ncclCommCount: status("u64", "buffer"), // const ncclComm_t comm, int *count
  ncclCommUserRank: status("u64", "buffer"), // const ncclComm_t comm, int *rank
  ncclCommCuDevice: status("u64", "buffer"), // const ncclComm_t comm, int *device
  ncclAllReduce: status("u64", "u64", "usize", "i32", "i32", "u64", "u64"), // const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream
  ncclReduce: status("u64", "u64", "usize", "i32", "i32", "i32", "u64", "u64"), // const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream
  ncclBroadcast: status("u64", "u64", "usize", "i32", "i32", "u64", "u64"), // const void *sendbuff, void *recvbuff, size_t count, ncclDataType_t datatype, int root, ncclComm_t comm, cudaStream_t stream
  ncclAllGather: status("u64", "u64", "usize", "i32", "u64", "u64"), // const void *sendbuff, void *recvbuff, size_t sendcount, ncclDataType_t datatype, ncclComm_t comm, cudaStream_t stream
  ncclReduceScatter: status("u64", "u64", "usize", "i32", "i32", "u64", "u64"), // const void *sendbuff, void *recvbuff, size_t recvcount, ncclDataType_t datatype, ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream
  ncclSend: status("u64", "usize", "i32", "i32", "u64", "u64"), // const void *sendbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream
  ncclRecv: status("u64", "usize", "i32", "i32", "u64", "u64"), // void *recvbuff, size_t count, ncclDataType_t datatype, int peer, ncclComm_t comm, cudaStream_t stream
  ncclGroupStart: status(),
  ncclGroupEnd: status(),
  ncclRedOpCreatePreMulSum: status("buffer", "buffer", "i32", "i32", "u64"), // ncclRedOp_t *op, void *scalar, ncclDataType_t datatype, ncclScalarResidence_t residence, ncclComm_t comm
  ncclRedOpDestroy: status("i32", "u64"), // ncclRedOp_t op, ncclComm_t comm
  ncclGetErrorString: { parameters: ["i32"], result: "pointer" }, // ncclResult_t result -> const char *
  ncclGetLastError: { parameters: ["u64"], result: "pointer" }, // ncclComm_t comm -> const char *
  ncclMemAlloc: since("buffer", "usize"), // void **ptr, size_t size
  ncclMemFree: since("u64"), // void *ptr
  ncclCommRegister: since("u64", "u64", "usize", "buffer"), // const ncclComm_t comm, void *buff, size_t size, void **handle
  ncclCommDeregister: since("u64", "u64"), // const ncclComm_t comm, void *handle
} as const satisfies Deno.ForeignLibraryInterface;

/** Values of enums, by their names in nccl.h. */
export const NCCL_ENUM = {
  ncclSuccess: 0,
  ncclUnhandledCudaError: 1,
  ncclSystemError: 2,
  ncclInternalError: 3,
  ncclInvalidArgument: 4,
  ncclInvalidUsage: 5,
  ncclRemoteError: 6,
  /** Of communicators that do not block: ask again. */
  ncclInProgress: 7,
  ncclSum: 0,
  ncclProd: 1,
  ncclMax: 2,
  ncclMin: 3,
  ncclAvg: 4,
  ncclInt8: 0,
  ncclUint8: 1,
  ncclInt32: 2,
  ncclUint32: 3,
  ncclInt64: 4,
  ncclUint64: 5,
  ncclFloat16: 6,
  ncclFloat32: 7,
  ncclFloat64: 8,
  ncclBfloat16: 9,
} as const;

/** Bytes of a `ncclUniqueId`. */
export const UNIQUE_ID_BYTES = 128;
/** The part of `ncclConfig_t` that all versions since 2.14 share; a newer library fills in the rest itself. */
export const NCCL_CONFIG_BYTES = 48;

/** NCCL, open. */
export class Nccl {
  /** The file that was opened. */
  readonly path: string;
  /** The functions as they are, for hot paths: give their status to `check`. */
  readonly raw: Deno.StaticForeignLibraryInterface<typeof NCCL>;
  /** The functions, throwing {@linkcode CudaError} unless they succeed; `ncclInProgress` is no error. */
  readonly call: CheckedCalls<typeof NCCL>;
  /** Such as 22707 for 2.27.7. */
  readonly version: number;

  /** Finds and opens libnccl. @throws {UnavailableError} */
  constructor(libraries: CudaLibraries) {
    const { library, path } = libraries.open("libnccl", NCCL);
    this.path = path;
    this.raw = library.symbols;
    this.call = checkedCalls(NCCL, library.symbols, { path, check: this.check });
    const version = new Int32Array(1);
    this.call.ncclGetVersion(version);
    this.version = version[0]!;
  }

  /** @throws {CudaError} Unless `status` of `call` is success, or in progress. */
  readonly check = (status: number, call: string): void => {
    if (status === NCCL_ENUM.ncclSuccess || status === NCCL_ENUM.ncclInProgress) return;
    throw this.error(status, call);
  };

  /** What `status` of `call` means, and the last message of this thread. */
  error(status: number, call: string): CudaError {
    return new CudaError({
      library: "libnccl",
      call,
      code: status,
      codeName: textAt(this.raw.ncclGetErrorString(status)) || "unknown error",
      detail: textAt(this.raw.ncclGetLastError(0n)).trim(),
    });
  }

  /** A name for a new communicator, to be given to all its ranks by other means. */
  uniqueId(): Uint8Array<ArrayBuffer> {
    const id = new Uint8Array(UNIQUE_ID_BYTES);
    this.call.ncclGetUniqueId(id);
    return id;
  }

  /**
   * Begins to join `size` ranks by `id` as `rank`, on the GPU of the current context. The communicator does not block: ask
   * `asyncError` until it is no longer `ncclInProgress`. @throws {RangeError} If `id` is no unique id.
   */
  beginInit(id: Uint8Array<ArrayBuffer>, o: { readonly rank: number; readonly size: number }): bigint {
    // The call reads that many bytes whatever the array's length is.
    if (id.length !== UNIQUE_ID_BYTES) throw new RangeError(`Cannot use ${id.length} bytes as a ncclUniqueId`);
    const comm = new BigUint64Array(1);
    this.call.ncclCommInitRankConfig(comm, o.size, id, o.rank, ncclConfig({ blocking: false }));
    return comm[0]!;
  }

  /** The state of `comm`: success, in progress, or what went wrong meanwhile. */
  asyncError(comm: bigint): number {
    this.call.ncclCommGetAsyncError(comm, this.#state);
    return this.#state[0]!;
  }
  #state = new Int32Array(1);
}

/** A `ncclConfig_t` with everything unset but `blocking`. Pure. */
export function ncclConfig(o: { readonly blocking: boolean }): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(NCCL_CONFIG_BYTES));
  view.setBigUint64(0, BigInt(NCCL_CONFIG_BYTES), true); // size_t size
  view.setUint32(8, 0xcafebeef, true); // unsigned int magic
  view.setUint32(12, 21800, true); // unsigned int version: fields newer than 2.18 are not looked at
  view.setInt32(16, o.blocking ? 1 : 0, true); // int blocking
  for (const at of [20, 24, 28, 40]) view.setInt32(at, -0x80000000, true); // cgaClusterSize, minCTAs, maxCTAs, splitShare
  view.setBigUint64(32, 0n, true); // const char *netName
  return new Uint8Array(view.buffer);
}
