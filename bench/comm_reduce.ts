/**
 * Ways to reduce tensors of two ranks, in GB of input a second: which loop src/runtime/comm should run.
 *
 *     deno run -A bench/comm_reduce.ts [KiB of a tensor = 256] [a BLAS library, for the second table]
 *
 * "fresh" JavaScript has run one dtype only; "mixed" has run all of them before, as in a process that uses several, since one
 * loop is compiled for all. "copied" is WebAssembly whose memory is private, so that tensors are copied in and the result out.
 * The second table adds one tensor to another in place, by tensors of several lengths: ours, ONNX Runtime's Add on one thread,
 * and `cblas_saxpy` called directly.
 */
// deno-lint-ignore-file no-console
import { exportOnnx } from "../src/formats/export_onnx.ts";
import { GraphBuilder } from "../src/graph/builder.ts";
import { COMM_DTYPES, type CommDType } from "../src/runtime/comm/buffers.ts";
import { makeJsReducer, type Reducer } from "../src/runtime/comm/reduce_js.ts";
import { makeWasmReducer } from "../src/runtime/comm/reduce_wasm.ts";
import { openNativeEngine } from "../src/runtime/cpu/ort_native.ts";

const bytes = Number(Deno.args[0] ?? 256) * 1024;
const memory = new WebAssembly.Memory({ initial: 1024, maximum: 1024 });
const at = (i: number) => new Uint8Array(memory.buffer, 65536 + i * bytes, bytes);
const outside = [0, 1, 2].map(() => new Uint8Array(bytes));
const MEASURED: readonly CommDType[] = ["f32", "f64", "f16", "bf16", "i32", "i64"];

function run(reduce: Reducer, buffers: readonly Uint8Array[]): number {
  const [out, a, b] = buffers as [Uint8Array, Uint8Array, Uint8Array];
  const once = () => reduce(out, [a, b]);
  for (let i = 0; i < 30; i++) once();
  let best = Infinity;
  for (let round = 0; round < 5; round++) {
    const start = performance.now();
    for (let i = 0; i < 20; i++) once();
    best = Math.min(best, (performance.now() - start) / 20);
  }
  return 2 * bytes / best / 1e6;
}

function copied(dtype: CommDType): Reducer {
  const reduce = makeWasmReducer(memory, dtype, "sum");
  return (out, sources) => {
    sources.forEach((source, i) => at(i + 1).set(source));
    reduce(at(0), [at(1), at(2)]);
    out.set(at(0));
  };
}

const fresh = run(makeJsReducer("f32", "sum"), outside);
for (const dtype of COMM_DTYPES) run(makeJsReducer(dtype, "max"), outside);
console.log(`JavaScript, f32, fresh: ${fresh.toFixed(2)} GB/s`);
console.log("| sum of | JavaScript, mixed | WebAssembly, copied | WebAssembly, in place |\n| --- | --- | --- | --- |");
for (const dtype of MEASURED) {
  const rates = [
    run(makeJsReducer(dtype, "sum"), outside),
    run(copied(dtype), outside),
    run(makeWasmReducer(memory, dtype, "sum"), [0, 1, 2].map(at)),
  ];
  console.log(`| ${dtype} | ${rates.map((r) => r.toFixed(2)).join(" | ")} |`);
}

const [, library] = Deno.args, lengths = [4, 64, 256, 4096].map((kib) => kib * 256);
const ways = { "WebAssembly, in place": ours(), "ONNX Runtime's Add": await onnxRuntime(), ...blas(library) };
console.log(`\n| f32 of KiB | ${Object.keys(ways).join(" | ")} |\n| --- |${" --- |".repeat(Object.keys(ways).length)}`);
for (const n of lengths) {
  const rates = [];
  for (const way of Object.values(ways)) rates.push(await rateOf(await way(n), n));
  console.log(`| ${n / 256} | ${rates.map((r) => r.toFixed(1)).join(" | ")} |`);
}

/** A way to add the second tensor of `n` elements to the first. */
type Way = (n: number) => (() => void) | Promise<() => Promise<unknown>>;

function views(n: number): [Float32Array<ArrayBuffer>, Float32Array<ArrayBuffer>] {
  const buffer = memory.buffer as ArrayBuffer;
  return [new Float32Array(buffer, 65536, n), new Float32Array(buffer, 65536 + 4 * n + 4096, n)];
}

function ours(): Way {
  const reduce = makeWasmReducer(memory, "f32", "sum");
  return (n) => {
    const [a, b] = views(n).map((v) => new Uint8Array(v.buffer, v.byteOffset, v.byteLength)) as [
      Uint8Array,
      Uint8Array,
    ];
    return () => reduce(a, [a, b]);
  };
}

async function onnxRuntime(): Promise<Way> {
  const engine = await openNativeEngine();
  return async (n) => {
    const builder = new GraphBuilder("global", "add", new Map([["", 18]])),
      type = { dtype: "f32", shape: [n] } as const;
    for (const name of ["a", "b"]) builder.placeholder({ name, type });
    const call = {
      kind: "call_function",
      domain: "",
      op: "Add",
      inputs: ["a", "b"],
      outputs: ["y"],
      attributes: {},
    } as const;
    builder.call(call, [{ name: "y", type }]);
    const model = exportOnnx(builder.finish({ inputs: ["y"], names: ["y"] }));
    const session = await engine.createSession(model, { threads: 1 }), [a, b] = views(n);
    const own = engine.tensor("f32", a, [n]), feeds = { a: own, b: engine.tensor("f32", b, [n]) };
    return async () => await session.run(feeds, { y: own });
  };
}

function blas(path: string | undefined): Record<string, Way> {
  if (path === undefined) return {};
  const parameters = ["i32", "f32", "buffer", "i32", "buffer", "i32"] as const; // int n, float a, float* x, int, float* y, int
  const axpy = (name: string) => ({ name, parameters, result: "void", optional: true }) as const;
  const { symbols } = Deno.dlopen(path, { plain: axpy("cblas_saxpy"), scipy: axpy("scipy_cblas_saxpy") });
  const saxpy = symbols.plain ?? symbols.scipy;
  if (saxpy === null) throw new Error(`Cannot find cblas_saxpy in ${path}`);
  return {
    "cblas_saxpy": (n) => {
      const [a, b] = views(n);
      return () => saxpy(n, 1, b, 1, a, 1);
    },
  };
}

/** GB of input a second. */
async function rateOf(once: () => unknown, n: number): Promise<number> {
  const times = Math.max(10, Math.round(2e6 / n));
  let best = Infinity;
  for (let round = 0; round < 7; round++) {
    const start = performance.now();
    for (let i = 0; i < times; i++) {
      const done = once();
      if (done instanceof Promise) await done;
    }
    best = Math.min(best, (performance.now() - start) / times);
  }
  return 8 * n / best / 1e6;
}
