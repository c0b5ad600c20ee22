/**
 * ONNX Runtime's native package.
 *
 * `InferenceSession.run()` of the package defers every run by a turn of the event loop and checks every tensor's name; a decode
 * step makes dozens of short runs, so this calls the package's own binding, which runs at once. The version is pinned.
 */
import { type DType, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import { EngineError, UnavailableError } from "../../core/errors.ts";
import type { Engine, EngineSession, EngineTensor, SessionOptions } from "./engine.ts";

type Ort = typeof import("onnxruntime-node");
type Tensors = Record<string, EngineTensor>;

/** The package's own binding, as far as we use it; its types are not published. */
interface Binding {
  readonly InferenceSession: new () => NativeSession;
}

interface NativeSession {
  loadModel(buffer: ArrayBufferLike, offset: number, length: number, options: object): void;
  run(feeds: Tensors, fetches: Record<string, EngineTensor | null>, options: object): Tensors;
  dispose(): void;
}

/** Opens the native engine. @throws {UnavailableError} If its library does not load here. */
export async function openNativeEngine(): Promise<Engine> {
  // The binding takes 16-bit floats as Uint16Array only, and asks for the global to decide.
  Reflect.deleteProperty(globalThis, "Float16Array");
  let ort: Ort, binding: Binding;
  try {
    ort = await import("onnxruntime-node");
    const native: unknown = await import("onnxruntime-node/dist/binding.js");
    const { binding: found, initOrt } = native as { binding: Binding; initOrt: () => void };
    initOrt();
    binding = found;
  } catch (cause) {
    throw new UnavailableError("Cannot load onnxruntime-node's native library", { cause });
  }
  return {
    name: "onnxruntime-node",
    createSession: (model, options) => Promise.resolve(createSession(binding, model, options)),
    tensor: (dtype, data, dims) => makeTensor(ort, dtype, { data, dims }),
  };
}

function createSession(binding: Binding, model: Uint8Array, options: SessionOptions): EngineSession {
  const session = new binding.InferenceSession();
  attempt(
    "compile",
    "an op that ONNX Runtime does not have must be replaced in the model",
    () =>
      session.loadModel(model.buffer, model.byteOffset, model.byteLength, {
        intraOpNumThreads: options.threads,
        interOpNumThreads: 1,
        executionMode: "sequential",
        graphOptimizationLevel: "all",
        // An arena for each of many sessions holds memory that none of them needs at a time.
        enableCpuMemArena: false,
        logSeverityLevel: 3,
        extra: {
          session: {
            intra_op: { allow_spinning: options.threads > 1 ? "1" : "0" },
            ...(options.externalFolder ? { model_external_initializers_file_folder_path: options.externalFolder } : {}),
            ...(options.disablePrepacking ? { disable_prepacking: "1" } : {}),
          },
        },
      }),
  );
  return {
    run: (feeds, fetches) =>
      attempt(
        "run",
        "inputs may be out of range for the model, such as a token id beyond its vocabulary",
        () => session.run(feeds as Tensors, fetches as Tensors, {}),
      ),
    release: () => Promise.resolve(session.dispose()),
  };
}

/** Does what the engine may refuse, and says so in one line. @throws {EngineError} */
function attempt<T>(what: "compile" | "run", hint: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError(`ONNX Runtime cannot ${what} a part of the model: ${message}`, { hint });
  }
}

function makeTensor(ort: Ort, dtype: DType, content: { data: TypedArray; dims: readonly number[] }): EngineTensor {
  const { ort: type } = dtypeInfo(dtype);
  if (!type) {
    throw new UnavailableError(`Cannot give ONNX Runtime a tensor of dtype ${dtype}: its binding has no such type`);
  }
  const tensor: unknown = new ort.Tensor(type as "float32", content.data as Float32Array, content.dims);
  return tensor as EngineTensor;
}
