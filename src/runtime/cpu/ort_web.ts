/**
 * ONNX Runtime compiled to WebAssembly: where the native package cannot load. Slower, and outputs are copied into our
 * memory, as it does not write to pre-allocated tensors.
 */
import { dtypeFromOrt, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import { UnavailableError } from "../../core/errors.ts";
import type { Engine, EngineBinding, EngineSession, EngineTensor, SessionOptions } from "./engine.ts";

type Ort = typeof import("onnxruntime-web");

/** Opens the WebAssembly engine; `notice` says why it is used. */
export async function openWebEngine(notice: string): Promise<Engine> {
  Reflect.deleteProperty(globalThis, "Float16Array");
  let ort: Ort;
  try {
    ort = await import("onnxruntime-web");
  } catch (cause) {
    throw new UnavailableError("Cannot load onnxruntime-web", { cause });
  }
  ort.env.wasm.numThreads = 1;
  return {
    name: "onnxruntime-web",
    notice,
    createSession: (model, options) => createSession(ort, model, options),
    tensor: (dtype, data, dims) => {
      const { ort: type } = dtypeInfo(dtype);
      if (!type) throw new UnavailableError(`Cannot give ONNX Runtime a tensor of dtype ${dtype}`);
      return withDType(new ort.Tensor(type as "float32", data as Float32Array, dims));
    },
  };
}

async function createSession(ort: Ort, model: Uint8Array, options: SessionOptions): Promise<EngineSession> {
  const files = options.externalFolder ? externalFiles(options.externalFolder) : [];
  const session = await ort.InferenceSession.create(model, { externalData: files, logSeverityLevel: 3 });
  const run = async (feeds: Feeds, fetches: Fetches) => {
    const results = await session.run(feeds as never, Object.keys(fetches));
    return Object.fromEntries(
      Object.entries(fetches).map(([name, to]) => {
        const made = withDType(results[name]!);
        if (to) copyElements(made.data, to.data);
        return [name, to ?? made];
      }),
    );
  };
  const bind = (): EngineBinding => {
    const feeds: Record<string, EngineTensor> = {};
    const fetches: Record<string, EngineTensor | null> = Object.fromEntries(session.outputNames.map((n) => [n, null]));
    return {
      feed: (slot, tensor) => void (feeds[session.inputNames[slot]!] = tensor),
      fetch: (slot, tensor) => void (fetches[session.outputNames[slot]!] = tensor),
      get isOpen() {
        return Object.values(fetches).includes(null);
      },
      run: async () => {
        const results = await run(feeds, fetches);
        return session.outputNames.map((name) => results[name]!);
      },
    };
  };
  const outputTypes = () => session.outputMetadata.map((m) => m.isTensor ? dtypeFromOrt(m.type) : undefined);
  return { run, bind, outputTypes, release: () => session.release() };
}

type Feeds = Readonly<Record<string, EngineTensor>>;
type Fetches = Readonly<Record<string, EngineTensor | null>>;

/** A tensor of the package, which is one of ours too. */
function withDType(tensor: { readonly type: string }): EngineTensor {
  const both: unknown = Object.assign(tensor, { dtype: dtypeFromOrt(tensor.type) });
  return both as EngineTensor;
}

function copyElements(from: TypedArray, to: TypedArray): void {
  if (from instanceof BigInt64Array || from instanceof BigUint64Array) (to as BigInt64Array).set(from as BigInt64Array);
  else (to as Float32Array).set(from as Float32Array);
}

/** All files of a folder as external data: WebAssembly has no file system, so their bytes are handed over. */
function externalFiles(folder: string): { path: string; data: Uint8Array }[] {
  return [...Deno.readDirSync(folder)].filter((e) => e.isFile).map((e) => ({
    path: e.name,
    data: Deno.readFileSync(`${folder}/${e.name}`),
  }));
}
