/** NVRTC, the compiler of CUDA C texts (libnvrtc), as a typed table and one function that compiles. */
import type { ErrorDetails } from "../core/errors.ts";
import { CudaError } from "./cuda_error.ts";
import type { CudaLibraries } from "./cuda_libraries.ts";
import { addressOf, type CheckedCalls, checkedCalls, cString, since, status, textAt } from "./symbols.ts";

/** The functions. */
export const NVRTC = {
  nvrtcVersion: status("buffer", "buffer"), // int *major, int *minor
  nvrtcGetErrorString: { parameters: ["i32"], result: "pointer" }, // nvrtcResult result -> const char *
  nvrtcCreateProgram: status("buffer", "buffer", "buffer", "i32", "buffer", "buffer"), // nvrtcProgram *prog, const char *src, const char *name, int numHeaders, const char *const *headers, const char *const *includeNames
  nvrtcDestroyProgram: status("buffer"), // nvrtcProgram *prog
  nvrtcCompileProgram: status("u64", "i32", "buffer"), // nvrtcProgram prog, int numOptions, const char *const *options
  nvrtcGetProgramLogSize: status("u64", "buffer"), // nvrtcProgram prog, size_t *logSizeRet
  nvrtcGetProgramLog: status("u64", "buffer"), // nvrtcProgram prog, char *log
  nvrtcGetCUBINSize: since("u64", "buffer"), // nvrtcProgram prog, size_t *cubinSizeRet
  nvrtcGetCUBIN: since("u64", "buffer"), // nvrtcProgram prog, char *cubin
  nvrtcGetPTXSize: status("u64", "buffer"), // nvrtcProgram prog, size_t *ptxSizeRet
  nvrtcGetPTX: status("u64", "buffer"), // nvrtcProgram prog, char *ptx
  nvrtcGetNumSupportedArchs: since("buffer"), // int *numArchs
  nvrtcGetSupportedArchs: since("buffer"), // int *supportedArchs
  nvrtcAddNameExpression: status("u64", "buffer"), // nvrtcProgram prog, const char *const name_expression
  nvrtcGetLoweredName: status("u64", "buffer", "buffer"), // nvrtcProgram prog, const char *const name_expression, const char **lowered_name
} as const satisfies Deno.ForeignLibraryInterface;

/** The status of a text that does not compile. */
export const NVRTC_COMPILATION = 6;

/** A text that NVRTC refuses. The message holds the log; `source` is the text. */
export class KernelCompileError extends CudaError {
  /** What the compiler printed. */
  readonly log: string;
  /** The text, with numbered lines. */
  readonly source: string;

  /** An error for `source`. */
  constructor(
    name: string,
    o: { code: number; codeName: string; log: string; source: string },
    details?: ErrorDetails,
  ) {
    const detail = `${name} does not compile:\n${o.log.trim()}`;
    super({ library: "libnvrtc", call: "nvrtcCompileProgram", code: o.code, codeName: o.codeName, detail }, details);
    this.log = o.log;
    this.source = o.source.split("\n").map((line, i) => `${String(i + 1).padStart(4)}  ${line}`).join("\n");
  }
}

/** What to compile. */
export interface CompileRequest {
  /** CUDA C. */
  readonly source: string;
  /** The file name that messages print. */
  readonly name: string;
  /** Such as `--gpu-architecture=sm_90` (gives a cubin) or `--gpu-architecture=compute_90` (gives PTX). */
  readonly options: readonly string[];
}

/** What came of it. */
export interface Compiled {
  /** For `cuModuleLoadData`: a cubin, or PTX with its closing zero. */
  readonly image: Uint8Array<ArrayBuffer>;
  readonly kind: "cubin" | "ptx";
  /** Warnings. */
  readonly log: string;
}

/** The compiler, open. */
export class Nvrtc {
  /** The file that was opened. */
  readonly path: string;
  /** The functions as they are. */
  readonly raw: Deno.StaticForeignLibraryInterface<typeof NVRTC>;
  /** The functions, throwing {@linkcode CudaError} unless they succeed. */
  readonly call: CheckedCalls<typeof NVRTC>;
  /** Such as 13.0. */
  readonly version: { readonly major: number; readonly minor: number };

  /** Finds and opens libnvrtc. @throws {UnavailableError} */
  constructor(libraries: CudaLibraries) {
    const { library, path } = libraries.open("libnvrtc", NVRTC);
    this.path = path;
    this.raw = library.symbols;
    this.call = checkedCalls(NVRTC, library.symbols, { path, check: this.check });
    const major = new Int32Array(1), minor = new Int32Array(1);
    this.call.nvrtcVersion(major, minor);
    this.version = { major: major[0]!, minor: minor[0]! };
  }

  /** @throws {CudaError} Unless `status` of `call` is success. */
  readonly check = (status: number, call: string): void => {
    if (status === 0) return;
    throw new CudaError({ library: "libnvrtc", call, code: status, codeName: this.#name(status) });
  };

  /** Architectures (90 is sm_90) that it compiles for, ascending; empty if it is too old to tell. */
  get architectures(): number[] {
    if (this.raw.nvrtcGetNumSupportedArchs === null) return [];
    const count = new Int32Array(1);
    this.call.nvrtcGetNumSupportedArchs(count);
    const list = new Int32Array(count[0]!);
    this.call.nvrtcGetSupportedArchs(list);
    return [...list];
  }

  /** Compiles, blocking. @throws {KernelCompileError} If the text is wrong. @throws {CudaError} If an option is. */
  compile(request: CompileRequest): Compiled {
    const program = new BigUint64Array(1);
    this.call.nvrtcCreateProgram(program, cString(request.source), cString(request.name), 0, null, null);
    try {
      const options = request.options.map(cString);
      const code = this.raw.nvrtcCompileProgram(
        program[0]!,
        options.length,
        new BigUint64Array(options.map(addressOf)),
      );
      options.forEach((o) => o.byteLength); // they must live as long as the call
      const log = this.#log(program[0]!);
      if (code === NVRTC_COMPILATION) {
        throw new KernelCompileError(request.name, { code, codeName: this.#name(code), log, source: request.source });
      }
      this.check(code, "nvrtcCompileProgram");
      const size = new BigUint64Array(1);
      const kind = request.options.some((o) => /^(--gpu-architecture|-arch)=sm_/.test(o)) ? "cubin" : "ptx";
      if (kind === "cubin") this.call.nvrtcGetCUBINSize(program[0]!, size);
      else this.call.nvrtcGetPTXSize(program[0]!, size);
      const image = new Uint8Array(Number(size[0]));
      if (kind === "cubin") this.call.nvrtcGetCUBIN(program[0]!, image);
      else this.call.nvrtcGetPTX(program[0]!, image);
      return { image, kind, log };
    } finally {
      this.call.nvrtcDestroyProgram(program);
    }
  }

  #log(program: bigint): string {
    const size = new BigUint64Array(1);
    this.call.nvrtcGetProgramLogSize(program, size);
    const bytes = new Uint8Array(Number(size[0]));
    this.call.nvrtcGetProgramLog(program, bytes);
    return new TextDecoder().decode(bytes).replace(/\0+$/, "");
  }

  #name(code: number): string {
    return textAt(this.raw.nvrtcGetErrorString(code)) || "unknown error";
  }
}
