/**
 * ONNX Runtime's C API: sessions that read and write memory which is ours.
 *
 * The library exports one function, which gives a struct of function pointers that only ever grows at its end; a row of the table
 * says where in it a function stands. Source: onnxruntime_c_api.h, `struct OrtApi`, version 22 of the API.
 *
 * Handles are `u64` (bigint). Functions that can fail return a status, null where they succeed.
 */
import { EngineError, UnavailableError } from "../core/errors.ts";
import { loadLibrary } from "./load.ts";
import { cString, textAt } from "./symbols.ts";

/** The version of the API that is asked for; the oldest with all that is used here would do. */
const API_VERSION = 22;

/** A function that returns a status, by its place in the struct. */
function fallible<const P extends readonly Deno.NativeType[]>(index: number, ...parameters: P) {
  return { index, parameters, result: "u64" } as const;
}

/** A function that releases what its handle stands for. */
function release(index: number) {
  return { index, parameters: ["u64"], result: "void" } as const;
}

const TABLE = {
  GetErrorMessage: { index: 2, parameters: ["u64"], result: "u64" }, // const OrtStatus *status -> const char *
  CreateEnv: fallible(3, "i32", "buffer", "buffer"), // OrtLoggingLevel level, const char *logid, OrtEnv **out
  CreateSessionFromArray: fallible(8, "u64", "buffer", "usize", "u64", "buffer"), // const OrtEnv *env, const void *model, size_t length, const OrtSessionOptions *options, OrtSession **out
  Run: fallible(9, "u64", "u64", "buffer", "buffer", "usize", "buffer", "usize", "buffer"), // OrtSession *session, const OrtRunOptions *options, const char *const *input_names, const OrtValue *const *inputs, size_t inputs, const char *const *output_names, size_t outputs, OrtValue **outputs
  CreateSessionOptions: fallible(10, "buffer"), // OrtSessionOptions **out
  SetSessionExecutionMode: fallible(13, "u64", "i32"), // OrtSessionOptions *options, ExecutionMode mode
  DisableCpuMemArena: fallible(19, "u64"), // OrtSessionOptions *options
  SetSessionLogSeverityLevel: fallible(22, "u64", "i32"), // OrtSessionOptions *options, int level
  SetSessionGraphOptimizationLevel: fallible(23, "u64", "i32"), // OrtSessionOptions *options, GraphOptimizationLevel level
  SetIntraOpNumThreads: fallible(24, "u64", "i32"), // OrtSessionOptions *options, int threads
  SetInterOpNumThreads: fallible(25, "u64", "i32"), // OrtSessionOptions *options, int threads
  SessionGetInputCount: fallible(30, "u64", "buffer"), // const OrtSession *session, size_t *out
  SessionGetOutputCount: fallible(31, "u64", "buffer"), // const OrtSession *session, size_t *out
  SessionGetOutputTypeInfo: fallible(34, "u64", "usize", "buffer"), // const OrtSession *session, size_t index, OrtTypeInfo **out
  SessionGetInputName: fallible(36, "u64", "usize", "u64", "buffer"), // const OrtSession *session, size_t index, OrtAllocator *allocator, char **value
  SessionGetOutputName: fallible(37, "u64", "usize", "u64", "buffer"), // const OrtSession *session, size_t index, OrtAllocator *allocator, char **value
  CreateTensorWithDataAsOrtValue: fallible(49, "u64", "buffer", "usize", "buffer", "usize", "i32", "buffer"), // const OrtMemoryInfo *info, void *data, size_t bytes, const int64_t *shape, size_t dims, ONNXTensorElementDataType type, OrtValue **out
  IsTensor: fallible(50, "u64", "buffer"), // const OrtValue *value, int *out
  GetTensorMutableData: fallible(51, "u64", "buffer"), // OrtValue *value, void **out
  CastTypeInfoToTensorInfo: fallible(55, "u64", "buffer"), // const OrtTypeInfo *info, const OrtTensorTypeAndShapeInfo **out
  GetTensorElementType: fallible(60, "u64", "buffer"), // const OrtTensorTypeAndShapeInfo *info, ONNXTensorElementDataType *out
  GetDimensionsCount: fallible(61, "u64", "buffer"), // const OrtTensorTypeAndShapeInfo *info, size_t *out
  GetDimensions: fallible(62, "u64", "buffer", "usize"), // const OrtTensorTypeAndShapeInfo *info, int64_t *values, size_t length
  GetTensorTypeAndShape: fallible(65, "u64", "buffer"), // const OrtValue *value, OrtTensorTypeAndShapeInfo **out
  CreateCpuMemoryInfo: fallible(69, "i32", "i32", "buffer"), // OrtAllocatorType type, OrtMemType mem_type, OrtMemoryInfo **out
  AllocatorFree: fallible(76, "u64", "u64"), // OrtAllocator *allocator, void *p
  GetAllocatorWithDefaultOptions: fallible(78, "buffer"), // OrtAllocator **out
  ReleaseStatus: release(93),
  ReleaseSession: release(95),
  ReleaseValue: release(96),
  ReleaseTypeInfo: release(98),
  ReleaseTensorTypeAndShapeInfo: release(99),
  ReleaseSessionOptions: release(100),
  CreateEnvWithGlobalThreadPools: fallible(119, "i32", "buffer", "u64", "buffer"), // OrtLoggingLevel level, const char *logid, const OrtThreadingOptions *options, OrtEnv **out
  DisablePerSessionThreads: fallible(120, "u64"), // OrtSessionOptions *options
  CreateThreadingOptions: fallible(121, "buffer"), // OrtThreadingOptions **out
  ReleaseThreadingOptions: release(122),
  AddSessionConfigEntry: fallible(130, "u64", "buffer", "buffer"), // OrtSessionOptions *options, const char *key, const char *value
  SetGlobalIntraOpNumThreads: fallible(147, "u64", "i32"), // OrtThreadingOptions *options, int threads
  SetGlobalInterOpNumThreads: fallible(148, "u64", "i32"), // OrtThreadingOptions *options, int threads
  SetGlobalSpinControl: fallible(149, "u64", "i32"), // OrtThreadingOptions *options, int allow_spinning
} as const satisfies Record<string, { index: number; parameters: readonly Deno.NativeType[]; result: "u64" | "void" }>;

type Table = typeof TABLE;
type Arguments<P extends readonly Deno.NativeType[]> = {
  -readonly [K in keyof P]: P[K] extends "buffer" ? BufferSource | null : P[K] extends "i32" ? number : bigint;
};

/** The functions; those that return a status throw where it is none of success. */
export type OrtFunctions = {
  readonly [K in Exclude<keyof Table, "GetErrorMessage">]: (...args: Arguments<Table[K]["parameters"]>) => void;
};

/** Opens the library at `path`. @throws {UnavailableError} If it does not load, or is too old. */
export function openOrt(path: string): { readonly functions: OrtFunctions; readonly version: string } {
  const library = loadLibrary({ name: "ONNX Runtime", candidates: [path] }, {
    OrtGetApiBase: { parameters: [], result: "pointer" }, // -> const OrtApiBase *: GetApi, GetVersionString
  });
  const base = new Deno.UnsafePointerView(library.symbols.OrtGetApiBase()!);
  const functionAt = <const D extends Deno.ForeignFunction>(
    view: Deno.UnsafePointerView,
    index: number,
    definition: D,
  ) => new Deno.UnsafeFnPointer(view.getPointer(index * 8) as Deno.PointerObject<D>, definition);
  const version = textAt(functionAt(base, 1, { parameters: [], result: "pointer" } as const).call());
  const api = functionAt(base, 0, { parameters: ["u32"], result: "pointer" } as const).call(API_VERSION);
  if (api === null) {
    throw new UnavailableError(`Cannot use ONNX Runtime ${version} at ${path}: it does not have API ${API_VERSION}`);
  }
  const view = new Deno.UnsafePointerView(api);
  const call = (name: keyof Table) => {
    const { index, parameters, result } = TABLE[name];
    const pointer = functionAt(view, index, { parameters: [...parameters], result } as Deno.ForeignFunction);
    return pointer.call.bind(pointer) as unknown as (...args: unknown[]) => bigint | undefined;
  };
  const messageOf = call("GetErrorMessage"), releaseStatus = call("ReleaseStatus");
  const failed = (status: bigint): EngineError => {
    const message = textAt(messageOf(status) as bigint);
    releaseStatus(status);
    return new EngineError(message);
  };
  const functions: Record<string, (...args: unknown[]) => void> = {};
  for (const name of Object.keys(TABLE) as (keyof Table)[]) {
    const raw = call(name);
    functions[name] = TABLE[name].result === "void" ? raw : (...args) => {
      const status = raw(...args);
      if (status !== 0n) throw failed(status as bigint);
    };
  }
  return { functions: functions as unknown as OrtFunctions, version };
}

/** The handle that a function writes through its last argument. */
export function handleFrom(call: (out: BigUint64Array<ArrayBuffer>) => void): bigint {
  const out = new BigUint64Array(1);
  call(out);
  return out[0]!;
}

/** Texts as an array of C strings, and what must be kept as long as the array is used. */
export class CStrings {
  /** `const char *const *`. */
  readonly addresses: BigUint64Array<ArrayBuffer>;
  readonly #texts: readonly Uint8Array<ArrayBuffer>[];

  constructor(texts: readonly string[]) {
    this.#texts = texts.map(cString);
    this.addresses = BigUint64Array.from(
      this.#texts,
      (text) => BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(text))),
    );
  }

  /** How many. */
  get length(): number {
    return this.#texts.length;
  }
}
