/**
 * The CUDA driver's C interface (libcuda.so.1), as a typed table with the declaration beside each function. Names are those
 * that the library exports, with versions; functions newer than CUDA 11.0 are optional. No policy.
 */
import { CudaError } from "./cuda_error.ts";
import type { CudaLibraries } from "./cuda_libraries.ts";
import { type CheckedCalls, checkedCalls, since, status, textAt } from "./symbols.ts";

/** The functions. */
export const CUDA_DRIVER = {
  cuInit: status("u32"), // unsigned int Flags
  cuDriverGetVersion: status("buffer"), // int *driverVersion
  cuDeviceGetCount: status("buffer"), // int *count
  cuDeviceGet: status("buffer", "i32"), // CUdevice *device, int ordinal
  cuDeviceGetName: status("buffer", "i32", "i32"), // char *name, int len, CUdevice dev
  cuDeviceGetUuid_v2: since("buffer", "i32"), // CUuuid *uuid (16 bytes), CUdevice dev
  cuDeviceTotalMem_v2: status("buffer", "i32"), // size_t *bytes, CUdevice dev
  cuDeviceGetAttribute: status("buffer", "i32", "i32"), // int *pi, CUdevice_attribute attrib, CUdevice dev
  cuDeviceCanAccessPeer: status("buffer", "i32", "i32"), // int *canAccessPeer, CUdevice dev, CUdevice peerDev
  cuDevicePrimaryCtxRetain: status("buffer", "i32"), // CUcontext *pctx, CUdevice dev
  cuDevicePrimaryCtxRelease_v2: status("i32"), // CUdevice dev
  cuDevicePrimaryCtxSetFlags_v2: status("i32", "u32"), // CUdevice dev, unsigned int flags
  cuCtxSetCurrent: status("u64"), // CUcontext ctx
  cuCtxGetCurrent: status("buffer"), // CUcontext *pctx
  cuCtxSynchronize: status(),

  cuMemAlloc_v2: status("buffer", "usize"), // CUdeviceptr *dptr, size_t bytesize
  cuMemFree_v2: status("u64"), // CUdeviceptr dptr
  cuMemGetInfo_v2: status("buffer", "buffer"), // size_t *free, size_t *total
  cuMemHostAlloc: status("buffer", "usize", "u32"), // void **pp, size_t bytesize, unsigned int Flags
  cuMemFreeHost: status("u64"), // void *p
  cuMemHostRegister_v2: status("u64", "usize", "u32"), // void *p, size_t bytesize, unsigned int Flags
  cuMemHostUnregister: status("u64"), // void *p
  cuMemHostGetDevicePointer_v2: status("buffer", "u64", "u32"), // CUdeviceptr *pdptr, void *p, unsigned int Flags
  cuMemcpyHtoD_v2: status("u64", "buffer", "usize"), // CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount
  cuMemcpyDtoH_v2: status("buffer", "u64", "usize"), // void *dstHost, CUdeviceptr srcDevice, size_t ByteCount
  // The host side of an asynchronous copy is pinned memory, given by its address.
  cuMemcpyHtoDAsync_v2: status("u64", "u64", "usize", "u64"), // CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream
  cuMemcpyDtoHAsync_v2: status("u64", "u64", "usize", "u64"), // void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream
  cuMemcpyDtoDAsync_v2: status("u64", "u64", "usize", "u64"), // CUdeviceptr dstDevice, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream
  cuMemsetD8Async: status("u64", "u8", "usize", "u64"), // CUdeviceptr dstDevice, unsigned char uc, size_t N, CUstream hStream
  cuMemsetD16Async: status("u64", "u16", "usize", "u64"), // CUdeviceptr dstDevice, unsigned short us, size_t N, CUstream hStream
  cuMemsetD32Async: status("u64", "u32", "usize", "u64"), // CUdeviceptr dstDevice, unsigned int ui, size_t N, CUstream hStream

  cuStreamCreateWithPriority: status("buffer", "u32", "i32"), // CUstream *phStream, unsigned int flags, int priority
  cuStreamDestroy_v2: status("u64"), // CUstream hStream
  cuStreamSynchronize: status("u64"), // CUstream hStream
  cuStreamQuery: status("u64"), // CUstream hStream
  cuStreamWaitEvent: status("u64", "u64", "u32"), // CUstream hStream, CUevent hEvent, unsigned int Flags
  cuEventCreate: status("buffer", "u32"), // CUevent *phEvent, unsigned int Flags
  cuEventDestroy_v2: status("u64"), // CUevent hEvent
  cuEventRecord: status("u64", "u64"), // CUevent hEvent, CUstream hStream
  cuEventQuery: status("u64"), // CUevent hEvent
  cuEventSynchronize: status("u64"), // CUevent hEvent
  cuEventElapsedTime: status("buffer", "u64", "u64"), // float *pMilliseconds, CUevent hStart, CUevent hEnd

  cuModuleLoadData: status("buffer", "buffer"), // CUmodule *module, const void *image
  cuModuleLoadDataEx: status("buffer", "buffer", "u32", "buffer", "buffer"), // CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options, void **optionValues
  cuModuleUnload: status("u64"), // CUmodule hmod
  cuModuleGetFunction: status("buffer", "u64", "buffer"), // CUfunction *hfunc, CUmodule hmod, const char *name
  cuFuncSetAttribute: status("u64", "i32", "i32"), // CUfunction hfunc, CUfunction_attribute attrib, int value
  cuFuncGetAttribute: status("buffer", "i32", "u64"), // int *pi, CUfunction_attribute attrib, CUfunction hfunc
  cuOccupancyMaxActiveBlocksPerMultiprocessor: status("buffer", "u64", "i32", "usize"), // int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize
  // Either kernelParams, an array of addresses of arguments, or `extra`; the other is 0 and null.
  cuLaunchKernel: status("u64", "u32", "u32", "u32", "u32", "u32", "u32", "u32", "u64", "u64", "buffer"), // CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream, void **kernelParams, void **extra

  cuGetErrorName: status("i32", "buffer"), // CUresult error, const char **pStr
  cuGetErrorString: status("i32", "buffer"), // CUresult error, const char **pStr

  cuMemAllocAsync: since("buffer", "usize", "u64"), // CUdeviceptr *dptr, size_t bytesize, CUstream hStream
  cuMemFreeAsync: since("u64", "u64"), // CUdeviceptr dptr, CUstream hStream
  cuDeviceGetDefaultMemPool: since("buffer", "i32"), // CUmemoryPool *pool_out, CUdevice dev
  cuMemPoolSetAttribute: since("u64", "i32", "buffer"), // CUmemoryPool pool, CUmemPool_attribute attr, void *value
  cuMemPoolTrimTo: since("u64", "usize"), // CUmemoryPool pool, size_t minBytesToKeep
  cuStreamBeginCapture_v2: since("u64", "i32"), // CUstream hStream, CUstreamCaptureMode mode
  cuStreamEndCapture: since("u64", "buffer"), // CUstream hStream, CUgraph *phGraph
  cuStreamIsCapturing: since("u64", "buffer"), // CUstream hStream, CUstreamCaptureStatus *captureStatus
  cuGraphInstantiateWithFlags: since("buffer", "u64", "u64"), // CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags
  cuGraphExecUpdate_v2: since("u64", "u64", "buffer"), // CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo (24 bytes)
  cuGraphUpload: since("u64", "u64"), // CUgraphExec hGraphExec, CUstream hStream
  cuGraphLaunch: since("u64", "u64"), // CUgraphExec hGraphExec, CUstream hStream
  cuGraphExecDestroy: since("u64"), // CUgraphExec hGraphExec
  cuGraphDestroy: since("u64"), // CUgraph hGraph
  cuLaunchKernelEx: since("buffer", "u64", "u64", "buffer"), // const CUlaunchConfig *config (56 bytes), CUfunction f, void **kernelParams, void **extra
  cuIpcGetMemHandle: since("buffer", "u64"), // CUipcMemHandle *pHandle (64 bytes), CUdeviceptr dptr
  cuIpcOpenMemHandle_v2: {
    parameters: [
      "buffer", // CUdeviceptr *pdptr
      { struct: ["u64", "u64", "u64", "u64", "u64", "u64", "u64", "u64"] }, // CUipcMemHandle handle
      "u32", // unsigned int Flags
    ],
    result: "i32",
    optional: true,
  },
  cuIpcCloseMemHandle: since("u64"), // CUdeviceptr dptr
} as const satisfies Deno.ForeignLibraryInterface;

/** Statuses that callers look at. */
export const CU = {
  success: 0,
  invalidValue: 1,
  outOfMemory: 2,
  notInitialized: 3,
  noDevice: 100,
  invalidDevice: 101,
  invalidImage: 200,
  invalidContext: 201,
  invalidPtx: 218,
  notFound: 500,
  /** Of queries: not an error. */
  notReady: 600,
  illegalAddress: 700,
  misalignedAddress: 716,
  launchFailed: 719,
  captureUnsupported: 900,
} as const;

/** Values of enums, by their names in cuda.h; a test compares them with the header where there is one. */
export const CU_ENUM = {
  CU_STREAM_NON_BLOCKING: 1,
  CU_EVENT_BLOCKING_SYNC: 1,
  CU_EVENT_DISABLE_TIMING: 2,
  CU_STREAM_CAPTURE_MODE_GLOBAL: 0,
  CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: 1,
  CU_STREAM_CAPTURE_MODE_RELAXED: 2,
  CU_STREAM_CAPTURE_STATUS_NONE: 0,
  CU_STREAM_CAPTURE_STATUS_ACTIVE: 1,
  CU_STREAM_CAPTURE_STATUS_INVALIDATED: 2,
  CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS: 1,
  CU_MEMHOSTALLOC_PORTABLE: 1,
  CU_MEMHOSTALLOC_DEVICEMAP: 2,
  CU_CTX_SCHED_AUTO: 0,
  CU_CTX_SCHED_SPIN: 1,
  CU_CTX_SCHED_YIELD: 2,
  CU_CTX_SCHED_BLOCKING_SYNC: 4,
  CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: 4,
  CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: 5,
  CU_MEMPOOL_ATTR_USED_MEM_CURRENT: 7,
  CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: 1,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: 8,
  CU_DEVICE_ATTRIBUTE_CLOCK_RATE: 13,
  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: 16,
  CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: 33,
  CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: 36,
  CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: 37,
  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: 38,
  CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: 41,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: 75,
  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: 76,
  CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: 97,
  CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: 115,
  CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: 3,
  CU_FUNC_ATTRIBUTE_NUM_REGS: 4,
  CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: 8,
  CU_JIT_MAX_REGISTERS: 0,
  CU_JIT_INFO_LOG_BUFFER: 3,
  CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES: 4,
  CU_JIT_ERROR_LOG_BUFFER: 5,
  CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: 6,
} as const;

/** The driver, open. It stays so until the process ends: nothing may outlive it. */
export class CudaDriver {
  /** The file that was opened. */
  readonly path: string;
  /** The functions as they are, for hot paths: give their status to `check`. */
  readonly raw: Deno.StaticForeignLibraryInterface<typeof CUDA_DRIVER>;
  /** The functions, throwing {@linkcode CudaError} unless they succeed. */
  readonly call: CheckedCalls<typeof CUDA_DRIVER>;
  /** CUDA version that the driver supports: 13000 is 13.0. */
  readonly version: number;

  /** Finds and opens libcuda, and initialises it. @throws {UnavailableError} @throws {CudaError} If there is no GPU. */
  constructor(libraries: CudaLibraries) {
    const { library, path } = libraries.open("libcuda", CUDA_DRIVER);
    this.path = path;
    this.raw = library.symbols;
    this.call = checkedCalls(CUDA_DRIVER, library.symbols, { path, check: this.check });
    this.call.cuInit(0);
    const version = new Int32Array(1);
    this.call.cuDriverGetVersion(version);
    this.version = version[0]!;
  }

  /** @throws {CudaError} Unless `status` of `call` is success. */
  readonly check = (status: number, call: string): void => {
    if (status === CU.success) return;
    throw new CudaError({
      library: "libcuda",
      call,
      code: status,
      codeName: this.#text("cuGetErrorName", status) || "unknown error",
      detail: this.#text("cuGetErrorString", status),
    });
  };

  /** How many GPUs this process may use. */
  get deviceCount(): number {
    const count = new Int32Array(1);
    this.call.cuDeviceGetCount(count);
    return count[0]!;
  }

  #text(call: "cuGetErrorName" | "cuGetErrorString", status: number): string {
    const text = new BigUint64Array(1);
    return this.raw[call](status, text) === CU.success ? textAt(text[0]!) : "";
  }
}
