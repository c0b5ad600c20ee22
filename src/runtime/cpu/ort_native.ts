/**
 * ONNX Runtime's native library, through its C API.
 *
 * The library is the one of the package onnxruntime-node, whose version is pinned. Its own binding is not used: that makes a new
 * JavaScript tensor of every output, with a copy of what it holds, also of those that were written into memory of ours. A decode
 * step makes dozens of short runs, and caches of keys and values are outputs of them.
 */
import { fileURLToPath } from "node:url";
import { byteLength, type DType, dtypeFromOnnx, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import { EngineError, UnavailableError } from "../../core/errors.ts";
import { CStrings, handleFrom, openOrt, type OrtFunctions } from "../../ffi/onnxruntime.ts";
import { cString, textAt } from "../../ffi/symbols.ts";
import type { Engine, EngineBinding, EngineSession, EngineTensor, SessionOptions } from "./engine.ts";
import { count, elementsOf } from "./tensors.ts";

const PACKAGE = "onnxruntime-node";
/** Values of the API's enums. */
const LOG_ERRORS = 3, SEQUENTIAL = 0, ALL_OPTIMISATIONS = 99, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0;

/** A tensor that the engine knows by a handle. */
interface OrtTensor extends EngineTensor {
  readonly handle: bigint;
}

/** What sessions and tensors are made with. */
interface Ort {
  readonly f: OrtFunctions;
  readonly threads: ThreadPool;
  readonly memory: bigint;
  readonly allocator: bigint;
  /** Releases the values of tensors that nobody refers to any more. */
  readonly released: FinalizationRegistry<bigint>;
}

/** Opens the native engine. @throws {UnavailableError} If its library does not load here. */
export async function openNativeEngine(): Promise<Engine> {
  const { functions: f } = await openLibrary();
  const memory = handleFrom((out) => f.CreateCpuMemoryInfo(DEVICE_ALLOCATOR, DEFAULT_MEMORY, out));
  const allocator = handleFrom((out) => f.GetAllocatorWithDefaultOptions(out));
  const released = new FinalizationRegistry<bigint>((handle) => f.ReleaseValue(handle));
  const ort: Ort = { f, threads: new ThreadPool(f), memory, allocator, released };
  return {
    name: PACKAGE,
    createSession: (model, options) => Promise.resolve(new NativeSession(ort, model, options)),
    tensor: (dtype, data, dims) => makeTensor(ort, dtype, data, dims),
  };
}

/** The library, with its version and place. @throws {UnavailableError} If it does not load here. */
export async function openLibrary(): Promise<
  { readonly functions: OrtFunctions; readonly version: string; readonly path: string }
> {
  const path = await libraryPath();
  return { ...openOrt(path), path };
}

/** Where the package has its library for this machine. */
async function libraryPath(): Promise<string> {
  const { os, arch } = Deno.build, cpu = arch === "x86_64" ? "x64" : "arm64";
  try {
    // The import makes Deno fetch the package where it is not there yet.
    await import("onnxruntime-node/package.json", { with: { type: "json" } });
    const root = new URL(".", import.meta.resolve(`${PACKAGE}/package.json`));
    return fileURLToPath(new URL(`bin/napi-v6/${os}/${cpu}/libonnxruntime.so.1`, root));
  } catch (cause) {
    throw new UnavailableError(`Cannot find the package ${PACKAGE}`, { cause });
  }
}

function makeTensor(ort: Ort, dtype: DType, data: TypedArray, dims: readonly number[]): OrtTensor {
  const size = byteLength(dtype, count(dims));
  if (data.byteLength < size) {
    throw new RangeError(`Cannot make a tensor ${dtype}[${dims}] of ${data.byteLength} bytes: it takes ${size}`);
  }
  // V8 moves small arrays until somebody asks for their buffer. An empty one may lie nowhere.
  const memory = size === 0 ? new Uint8Array(8) : new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, size);
  const shape = BigInt64Array.from(dims.length === 0 ? [0n] : dims, BigInt);
  const handle = handleFrom((out) =>
    ort.f.CreateTensorWithDataAsOrtValue(
      ort.memory,
      memory,
      BigInt(size),
      shape,
      BigInt(dims.length),
      dtypeInfo(dtype).onnx,
      out,
    )
  );
  const tensor: OrtTensor & { readonly memory: Uint8Array } = { dtype, dims, data, handle, memory };
  ort.released.register(tensor, handle);
  return tensor;
}

/** Names of a session's inputs or outputs that are used together. */
class Slots {
  readonly names: readonly string[];
  readonly strings: CStrings;
  readonly length: bigint;

  constructor(names: readonly string[]) {
    this.names = names;
    this.strings = new CStrings(names);
    this.length = BigInt(names.length);
  }
}

/**
 * The environment, and the threads that all sessions share. With pools of their own, the workers of dozens of segments would spin
 * for work at the same time, on the cores that compute: two ranks of two threads on two cores took 300 times as long.
 *
 * ONNX Runtime has one environment a process, which whoever comes first makes. Another isolate may have made one without threads;
 * sessions then have threads of their own.
 */
class ThreadPool {
  readonly #f: OrtFunctions;
  #env: bigint | undefined;
  /** Threads that are shared; 0: none. */
  #shared = 0;

  constructor(f: OrtFunctions) {
    this.#f = f;
  }

  /** The environment of a session of so many threads; the first session decides how many all share. */
  env(threads: number): bigint {
    if (this.#env !== undefined) return this.#env;
    const f = this.#f, name = cString("shardwise");
    if (threads === 1) return this.#env = handleFrom((out) => f.CreateEnv(LOG_ERRORS, name, out));
    const options = handleFrom((out) => f.CreateThreadingOptions(out));
    f.SetGlobalIntraOpNumThreads(options, threads);
    f.SetGlobalInterOpNumThreads(options, 1);
    this.#env = handleFrom((out) => f.CreateEnvWithGlobalThreadPools(LOG_ERRORS, name, options, out));
    f.ReleaseThreadingOptions(options);
    this.#shared = threads;
    return this.#env;
  }

  /** What `make` makes of a session's settings with the shared threads, or with as many of its own where it is to have others. */
  with<T>(threads: number, make: (assign: (settings: bigint) => void) => T): T {
    const own = (settings: bigint) => {
      this.#f.SetIntraOpNumThreads(settings, threads);
      this.#f.SetInterOpNumThreads(settings, 1);
    };
    if (threads !== this.#shared) return make(own);
    try {
      return make((settings) => this.#f.DisablePerSessionThreads(settings));
    } catch (error) {
      // The model may be wrong, or the environment without threads.
      const made = attemptOr(() => make(own), error);
      this.#shared = 0;
      return made;
    }
  }
}

class NativeSession implements EngineSession {
  readonly #ort: Ort;
  readonly #inputs: Slots;
  readonly #outputs: Slots;
  #handle: bigint;

  constructor(ort: Ort, model: Uint8Array, options: SessionOptions) {
    this.#ort = ort;
    const { f, allocator } = ort, env = ort.threads.env(options.threads);
    const bytes = model as Uint8Array<ArrayBuffer>, length = BigInt(model.byteLength);
    try {
      this.#handle = ort.threads.with(options.threads, (assign) => {
        const settings = sessionOptions(f, options);
        try {
          assign(settings);
          return handleFrom((out) => f.CreateSessionFromArray(env, bytes, length, settings, out));
        } finally {
          f.ReleaseSessionOptions(settings);
        }
      });
    } catch (cause) {
      throw refusal("compile", "an op that ONNX Runtime does not have must be replaced in the model", cause);
    }
    const namesOf = (what: "Input" | "Output") => {
      const size = handleFrom((out) => f[`SessionGet${what}Count`](this.#handle, out));
      return Array.from({ length: Number(size) }, (_, i) => {
        const address = handleFrom((out) => f[`SessionGet${what}Name`](this.#handle, BigInt(i), allocator, out));
        const name = textAt(address);
        f.AllocatorFree(allocator, address);
        return name;
      });
    };
    this.#inputs = new Slots(namesOf("Input"));
    this.#outputs = new Slots(namesOf("Output"));
  }

  bind(): NativeBinding {
    return new NativeBinding(this.#ort, this.#handle, [this.#inputs, this.#outputs]);
  }

  outputTypes(): readonly (DType | undefined)[] {
    const { f } = this.#ort;
    return this.#outputs.names.map((_, i) => {
      const info = handleFrom((out) => f.SessionGetOutputTypeInfo(this.#handle, BigInt(i), out));
      try {
        const tensor = handleFrom((out) => f.CastTypeInfoToTensorInfo(info, out)); // lives in `info`
        const type = new Int32Array(1);
        if (tensor !== 0n) f.GetTensorElementType(tensor, type);
        return type[0] === 0 ? undefined : dtypeFromOnnx(type[0]!);
      } finally {
        f.ReleaseTypeInfo(info);
      }
    });
  }

  run(
    feeds: Readonly<Record<string, EngineTensor>>,
    fetches: Readonly<Record<string, EngineTensor | null>>,
  ): Readonly<Record<string, EngineTensor>> {
    const asked = Object.keys(fetches);
    const binding = new NativeBinding(this.#ort, this.#handle, [this.#inputs, new Slots(asked)]);
    this.#inputs.names.forEach((name, i) => feeds[name] && binding.feed(i, feeds[name]));
    asked.forEach((name, i) => binding.fetch(i, fetches[name]!));
    const results = binding.run();
    return Object.fromEntries(asked.map((name, i) => [name, results[i]!]));
  }

  release(): Promise<void> {
    if (this.#handle !== 0n) this.#ort.f.ReleaseSession(this.#handle);
    this.#handle = 0n;
    return Promise.resolve();
  }
}

/** Handles of a session's tensors, in the arrays that a run is given. */
class NativeBinding implements EngineBinding {
  readonly #ort: Ort;
  readonly #session: bigint;
  readonly #inputs: Slots;
  readonly #outputs: Slots;
  readonly #feeds: (OrtTensor | undefined)[];
  readonly #fetches: (OrtTensor | null)[];
  readonly #fed: BigUint64Array<ArrayBuffer>;
  readonly #fetched: BigUint64Array<ArrayBuffer>;
  /** Outputs that each run makes anew, and inputs without a tensor. */
  #open: number;
  #missing: number;

  constructor(ort: Ort, session: bigint, [inputs, outputs]: readonly [Slots, Slots]) {
    this.#ort = ort;
    this.#session = session;
    this.#inputs = inputs;
    this.#outputs = outputs;
    this.#missing = inputs.names.length;
    this.#open = outputs.names.length;
    this.#feeds = inputs.names.map(() => undefined);
    this.#fetches = outputs.names.map(() => null);
    // A function of C does not take an array of nothing.
    this.#fed = new BigUint64Array(Math.max(1, inputs.names.length));
    this.#fetched = new BigUint64Array(Math.max(1, outputs.names.length));
  }

  feed(slot: number, tensor: EngineTensor): void {
    if (this.#feeds[slot] === undefined) this.#missing--;
    // Kept, so that the handle lives as long as the binding uses it.
    this.#feeds[slot] = tensor as OrtTensor;
    this.#fed[slot] = (tensor as OrtTensor).handle;
  }

  fetch(slot: number, tensor: EngineTensor | null): void {
    this.#open += Number(tensor === null) - Number(this.#fetches[slot] === null);
    this.#fetches[slot] = tensor as OrtTensor | null;
    this.#fetched[slot] = tensor === null ? 0n : (tensor as OrtTensor).handle;
  }

  get isOpen(): boolean {
    return this.#open > 0;
  }

  run(): readonly EngineTensor[] {
    if (this.#missing > 0) {
      const name = this.#inputs.names[this.#feeds.indexOf(undefined)];
      throw new EngineError(`ONNX Runtime cannot run a part of the model without its input "${name}"`);
    }
    const inputs = this.#inputs, outputs = this.#outputs, fetches = this.#fetches, fetched = this.#fetched;
    try {
      this.#ort.f.Run(
        this.#session,
        0n,
        inputs.strings.addresses,
        this.#fed,
        inputs.length,
        outputs.strings.addresses,
        outputs.length,
        fetched,
      );
    } catch (cause) {
      throw refusal("run", "inputs may be out of range for the model, such as a token id beyond its vocabulary", cause);
    }
    if (this.#open === 0) return fetches as readonly OrtTensor[];
    return fetches.map((tensor, i) => {
      if (tensor !== null) return tensor;
      const made = takeTensor(this.#ort, fetched[i]!);
      fetched[i] = 0n;
      return made;
    });
  }
}

function sessionOptions(f: OrtFunctions, options: SessionOptions): bigint {
  const handle = handleFrom((out) => f.CreateSessionOptions(out));
  f.SetSessionExecutionMode(handle, SEQUENTIAL);
  f.SetSessionGraphOptimizationLevel(handle, ALL_OPTIMISATIONS);
  f.SetSessionLogSeverityLevel(handle, LOG_ERRORS);
  // An arena for each of many sessions holds memory that none of them needs at a time.
  f.DisableCpuMemArena(handle);
  const entries = {
    "session.intra_op.allow_spinning": options.threads > 1 ? "1" : "0",
    ...(options.externalFolder
      ? { "session.model_external_initializers_file_folder_path": options.externalFolder }
      : {}),
    ...(options.disablePrepacking ? { "session.disable_prepacking": "1" } : {}),
  };
  for (const [key, value] of Object.entries(entries)) f.AddSessionConfigEntry(handle, cString(key), cString(value));
  return handle;
}

/** A tensor that the engine has made, copied into memory of ours; the engine's is released. */
function takeTensor({ f, ...ort }: Ort, value: bigint): OrtTensor {
  try {
    const info = handleFrom((out) => f.GetTensorTypeAndShape(value, out));
    const type = new Int32Array(1);
    f.GetTensorElementType(info, type);
    const shape = new BigInt64Array(Number(handleFrom((out) => f.GetDimensionsCount(info, out))));
    if (shape.length > 0) f.GetDimensions(info, shape, BigInt(shape.length));
    f.ReleaseTensorTypeAndShapeInfo(info);
    const dtype = dtypeFromOnnx(type[0]!), dims = Array.from(shape, Number), size = byteLength(dtype, count(dims));
    const bytes = new Uint8Array(size);
    if (size > 0) {
      const address = Deno.UnsafePointer.create(handleFrom((out) => f.GetTensorMutableData(value, out)));
      Deno.UnsafePointerView.copyInto(address!, bytes);
    }
    return makeTensor({ f, ...ort }, dtype, elementsOf(dtype, dims, bytes), dims);
  } finally {
    f.ReleaseValue(value);
  }
}

/** What `act` gives. @throws `error` If it throws. */
function attemptOr<T>(act: () => T, error: unknown): T {
  try {
    return act();
  } catch {
    throw error;
  }
}

/** What the engine refuses, in one line. */
function refusal(what: "compile" | "run", hint: string, cause: unknown): EngineError {
  const message = (cause instanceof Error ? cause.message : String(cause)).trim().replace(/\s*\n\s*/g, "; ");
  return new EngineError(`ONNX Runtime cannot ${what} a part of the model: ${message}`, { hint });
}
