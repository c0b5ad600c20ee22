/**
 * Ways to reduce tensors of two ranks, in GB of input a second: which loop src/runtime/comm should run.
 *
 *     deno run -A bench/comm_reduce.ts [KiB of a tensor = 256]
 *
 * "fresh" JavaScript has run one dtype only; "mixed" has run all of them before, as in a process that uses several, since one
 * loop is compiled for all. "copied" is WebAssembly whose memory is private, so that tensors are copied in and the result out.
 */
// deno-lint-ignore-file no-console
import { COMM_DTYPES, type CommDType } from "../src/runtime/comm/buffers.ts";
import { makeJsReducer, type Reducer } from "../src/runtime/comm/reduce_js.ts";
import { makeWasmReducer } from "../src/runtime/comm/reduce_wasm.ts";

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
