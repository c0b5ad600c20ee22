/**
 * ONNX Runtime compiled to WebAssembly: where the native package cannot load. Slower, and outputs are copied into our
 * memory, as it does not write to pre-allocated tensors.
 */
import { dtypeFromOrt, dtypeInfo, type TypedArray } from "../../core/dtype.ts";
import { UnavailableError } from "../../core/errors.ts";
import type { Engine, EngineSession, EngineTensor, SessionOptions } from "./engine.ts";

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
  return {
    run: async (feeds, fetches) => {
      const results = Object.entries(await session.run(feeds as never));
      const outputs = Object.fromEntries(results.map(([name, tensor]) => [name, withDType(tensor)]));
      for (const [name, to] of Object.entries(fetches)) {
        if (to) copyElements(outputs[name]!.data, to.data);
      }
      return Object.fromEntries(Object.entries(outputs).map(([name, made]) => [name, fetches[name] ?? made]));
    },
    release: () => session.release(),
  };
}

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
