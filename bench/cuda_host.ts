// deno-lint-ignore-file no-console
/**
 * What a token costs the host while a model decodes on GPUs: before and after the GPU's work, and for the next token meanwhile.
 * Started on every rank: `deno task launch --nproc 2 bench/cuda_host.ts MODEL [--tokens 300] [--prompt 8] [--dtype bf16]`.
 *
 * Over the tests' stand-in, which takes a while for what a GPU does at once, `SHARDWISE_STANDIN_IDLE=1` leaves kernels and products out.
 */
import { parseArgs } from "node:util";
import { generate } from "../src/generate/generate.ts";
import { Sampler } from "../src/generate/sampler.ts";
import { init } from "../src/runtime/comm/init.ts";
import { requireHeldDType } from "../src/runtime/device_choice.ts";
import { parallelizeModel } from "../src/session.ts";

const { values, positionals: [path] } = parseArgs({
  options: {
    tokens: { type: "string", default: "300" },
    prompt: { type: "string", default: "8" },
    dtype: { type: "string" },
  },
  allowPositionals: true,
});
if (path === undefined) throw new Error("give a model");

await using comm = await init({ device: "cuda" });
const dtype = values.dtype === undefined ? {} : { dtype: requireHeldDType(values.dtype) };
await using model = await parallelizeModel(path, { comm, device: "cuda", ...dtype });
const prompt = Array.from({ length: Number(values.prompt) }, (_, i) => i + 1);
const host: number[] = [], ahead: number[] = [], whole: number[] = [];
// The first text compiles kernels and makes connections, and the first steps of each are lowered and recorded.
for (let text = 0; text < 3; text++) {
  host.length = ahead.length = whole.length = 0;
  let last = performance.now();
  for await (const _ of generate(model, prompt, { sampler: new Sampler(), maxNewTokens: Number(values.tokens) })) {
    const ms = performance.now() - last, { timing } = model;
    last = performance.now();
    whole.push(ms);
    host.push(ms - timing.waiting);
    ahead.push(timing.ahead ?? 0);
  }
}
if (comm.rank === 0) {
  const { notRecorded, reduces } = model.timing;
  console.log(`a token: ${us(whole)}`);
  console.log(`of it the host, before and after the GPU's work: ${us(host)}`);
  console.log(`the host for the next token, meanwhile: ${us(ahead)}`);
  if (reduces !== undefined) console.log(`all-reduces: ${reduces}`);
  if (notRecorded !== undefined) console.log(`not recorded: ${notRecorded}`);
}

function us(ms: readonly number[]): string {
  const sorted = ms.slice(5).toSorted((a, b) => a - b), at = (part: number) => sorted[part * sorted.length | 0] ?? NaN;
  return `${(1000 * at(0.1)).toFixed(0)} us at best (one in ten), ${(1000 * at(0.5)).toFixed(0)} us in the middle`;
}
