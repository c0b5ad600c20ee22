/** Errors of the CUDA libraries: which call, of which library, and what its code means. */
import { type ErrorDetails, ShardwiseError } from "../core/errors.ts";

/** The libraries that CUDA programs stand on. */
export type CudaLibraryName = "libcuda" | "libnvrtc" | "libcublas" | "libcublasLt" | "libnccl";

/** What failed. */
export interface CudaFailure {
  readonly library: CudaLibraryName;
  /** The C function: `cuMemAlloc_v2`. */
  readonly call: string;
  /** Its status. */
  readonly code: number;
  /** The status's name, as the library tells it: `CUDA_ERROR_OUT_OF_MEMORY`. */
  readonly codeName: string;
  /** More that the library says. */
  readonly detail?: string;
}

/** A call of a CUDA library that failed. */
export class CudaError extends ShardwiseError implements CudaFailure {
  readonly library: CudaLibraryName;
  readonly call: string;
  readonly code: number;
  readonly codeName: string;
  readonly detail: string;

  /** An error whose message is `cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY (2), out of memory`. */
  constructor(failure: CudaFailure, details: ErrorDetails = {}) {
    const { call, code, codeName, detail = "" } = failure;
    const hint = details.hint ?? HINTS[`${failure.library} ${code}`];
    super(`${call} failed: ${codeName} (${code})${detail && `, ${detail}`}`, {
      ...details,
      ...(hint === undefined ? {} : { hint }),
    });
    this.library = failure.library;
    this.call = call;
    this.code = code;
    this.codeName = codeName;
    this.detail = detail;
  }

  /** Whether the context is lost: every later call of this process on the GPU fails too. */
  get fatal(): boolean {
    return this.library === "libcuda" && FATAL.has(this.code);
  }
}

const FATAL: ReadonlySet<number> = new Set([214, 220, 700, 702, 714, 715, 716, 717, 718, 719]);

const HINTS: Readonly<Record<string, string>> = {
  "libcuda 2": "use more ranks, a smaller batch or context, or a narrower dtype; nvidia-smi shows who holds the memory",
  "libcuda 34": "this libcuda.so.1 is the toolkit's stub: let the loader find the driver's own",
  "libcuda 100": "no GPU is visible: see nvidia-smi and CUDA_VISIBLE_DEVICES",
  "libcuda 101": "start at most as many ranks on a host as it has visible GPUs",
  "libcuda 201": "make the GPU's context current on this thread first",
  "libcuda 209": "compile the kernels for this GPU's architecture",
  "libcuda 222": "the driver is older than the compiler: install a newer driver or an older NVRTC",
  "libcuda 803": "the driver's module and its libcuda.so.1 differ: restart the host after updating the driver",
  "libnvrtc 7": "libnvrtc-builtins must lie beside libnvrtc",
  "libnccl 2": "NCCL_DEBUG=WARN prints what the system refused; /dev/shm must have room",
  "libnccl 5": "NCCL_DEBUG=WARN prints the reason; two ranks cannot share a GPU",
};
