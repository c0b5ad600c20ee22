/** Import and export of whole models: what comes out computes what went in. Needs the shared models; prints what is missing. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import * as ort from "onnxruntime-node";
import { type DType, dtypeFromOrt, dtypeInfo, type TypedArray } from "../../src/core/dtype.ts";
import { type HostTensor, hostTensor, toNumbers } from "../../src/core/host_tensor.ts";
import { exportOnnx } from "../../src/formats/export_onnx.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { readTensor } from "../../src/formats/tensor_source.ts";
import { verify } from "../../src/graph/verify.ts";
import { sharedOrSkip } from "../support/shared.ts";

// ONNX Runtime's binding gives Float16Array where there is one, and Deno's are not the views that it expects.
delete (globalThis as { Float16Array?: unknown }).Float16Array;

function feed({ dtype, shape, data }: HostTensor): ort.Tensor {
  return new ort.Tensor(dtypeInfo(dtype).ort as "float32", data as Float32Array, shape);
}

async function run(model: Uint8Array | string, inputs: ReadonlyMap<string, HostTensor>, folder: string) {
  const options: ort.InferenceSession.SessionOptions = {
    intraOpNumThreads: 1,
    logSeverityLevel: 3,
    extra: typeof model === "string" ? {} : { session: { model_external_initializers_file_folder_path: folder } },
  };
  const session = typeof model === "string"
    ? await ort.InferenceSession.create(model, options)
    : await ort.InferenceSession.create(model, options);
  try {
    const names = session.inputNames.map((name) => {
      const input = inputs.get(name);
      assert.ok(input, `no input "${name}" among ${[...inputs.keys()]}`);
      return [name, feed(input)] as const;
    });
    const out = await session.run(Object.fromEntries(names));
    return new Map(session.outputNames.map((name) => {
      const t = out[name]!;
      const dtype: DType = dtypeFromOrt(t.type);
      return [name, hostTensor(dtype, t.dims, t.data as TypedArray)] as const;
    }));
  } finally {
    await session.release();
  }
}

function assertEqual(got: ReadonlyMap<string, HostTensor>, expected: ReadonlyMap<string, HostTensor>): void {
  assert.deepEqual([...got.keys()], [...expected.keys()]);
  for (const [name, want] of expected) {
    const have = got.get(name)!;
    assert.deepEqual([have.dtype, have.shape], [want.dtype, want.shape], name);
    const a = toNumbers(have), b = toNumbers(want);
    for (let i = 0; i < b.length; i++) {
      // The same ops in the same order: only what a different choice of kernels leaves.
      if (!Object.is(a[i], b[i])) assert.ok(Math.abs(a[i]! - b[i]!) <= 1e-5, `${name}[${i}]: ${a[i]} for ${b[i]}`);
    }
  }
}

for (const family of ["decoders", "encoders", "real", "seq2seq", "dynamo", "genai", "ort-fused"]) {
  Deno.test(`models of ${family} compute the same after import and export`, async (t) => {
    const root = sharedOrSkip(`models/${family}`);
    if (root === undefined) return;
    const folders = [...Deno.readDirSync(root)].filter((e) => e.isDirectory).map((e) => join(root, e.name)).toSorted();
    const files = folders.filter((f) => [...Deno.readDirSync(f)].some((e) => e.name === "cases.json"));
    const lists = files.length > 0 ? files : [root];
    for (const folder of lists) {
      const list = join(folder, "cases.json");
      let cases: { name: string; model: string; inputs: string }[];
      try {
        cases = JSON.parse(Deno.readTextFileSync(list));
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound)) throw error;
        continue;
      }
      for (const [model, ofModel] of Map.groupBy(cases, (c) => c.model)) {
        await t.step(`${folder.slice(root.length + 1)}/${model}`, async () => {
          const path = join(folder, model);
          using file = readOnnx(path);
          const graph = importOnnx(file);
          verify(graph);
          const bytes = exportOnnx(graph, {
            irVersion: Number(file.model.irVersion),
            external: (_, { location }) =>
              location && location.file !== path
                ? { ...location, location: location.file.slice(dirname(path).length + 1) }
                : undefined,
          });
          for (const { inputs } of ofModel) {
            using tensors = openSafetensors(join(folder, inputs));
            const fed = new Map([...tensors.tensors].map(([name, source]) => [name, readTensor(source)]));
            assertEqual(await run(bytes, fed, folder), await run(path, fed, folder));
          }
        });
      }
    }
  });
}
