/**
 * An encoder with its attention written out against the same with fused attention, interleaved run by run in the same processes.
 *
 *     deno task launch --nproc N bench/encoder_bench.ts [--model bert|FILE.onnx] [--lengths 128,512] [--rounds 9] [--markdown]
 *
 * `bert` is written by the bench itself (once, into `.cache/bench`). Every rank computes with one thread.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type HostTensor, toNumbers } from "../src/core/host_tensor.ts";
import { hostTensor, init, parallelizeModel } from "../mod.ts";
import { ENCODERS } from "./models/architectures.ts";
import { cachedModel } from "./models/model_cache.ts";
import { median } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { milliseconds, printTable } from "./models/table.ts";

/** Differences of results, against the largest, that another order of rounding explains. */
const TOLERANCE = 1e-4;

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "bert" },
    lengths: { type: "string", default: "128,512" },
    rounds: { type: "string", default: "9" },
    cache: { type: "string", default: fileURLToPath(new URL("../.cache/bench", import.meta.url)) },
    markdown: { type: "boolean", default: false },
  },
});

await using comm = await init();
const isKnown = options.model in ENCODERS;
const architecture = ENCODERS[options.model as keyof typeof ENCODERS];
if (isKnown && comm.rank === 0) cachedModel(architecture, options.cache);
await comm.barrier();
const path = isKnown ? cachedModel(architecture, options.cache) : options.model;

await using written = await parallelizeModel(path, { comm, config: { fuse: false } });
await using fused = await parallelizeModel(path, { comm });
const sides = [written, fused], rounds = Number(options.rounds);

/** Ids that hit all of a small vocabulary; masks of ones; images and sounds of a wave. */
function feeds(length: number): Record<string, HostTensor> {
  const one = (dim: unknown) => (typeof dim === "number" ? dim : undefined);
  return Object.fromEntries(written.inputs.map(({ name, type }) => {
    const shape = (type.shape ?? []).map((d, i) => one(d) ?? (i === 0 ? 1 : length));
    const count = shape.reduce((a, b) => a * b, 1);
    if (type.dtype === "f32") return [name, hostTensor("f32", shape, Float32Array.from({ length: count }, wave))];
    const id = (i: number) => name.includes("mask") ? 1n : name.includes("type") ? 0n : BigInt((i * 7919 + 11) % 31);
    return [name, hostTensor("i64", shape, BigInt64Array.from({ length: count }, (_, i) => id(i)))];
  }));
}

function wave(_: unknown, i: number): number {
  return Math.sin(i * 0.7);
}

const rows: string[][] = [];
for (const length of options.lengths.split(",").map(Number)) {
  const inputs = feeds(length), times: [number[], number[]] = [[], []];
  const results = [];
  for (const side of sides) results.push(Object.values(await side.run(inputs))[0]!);
  const [a, b] = results.map((r) => toNumbers(r)) as [number[], number[]];
  const largest = a.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const apart = a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
  if (!(apart <= TOLERANCE * largest)) {
    throw new Error(`Cannot compare times of different results: ${apart} of ${largest}`);
  }
  for (let round = 0; round < rounds; round++) {
    for (const side of round % 2 === 0 ? [0, 1] : [1, 0]) {
      await comm.barrier();
      const began = performance.now();
      await sides[side]!.run(inputs);
      times[side]!.push(performance.now() - began);
    }
  }
  const [plain, one] = times.map(median) as [number, number];
  rows.push([`${length}`, milliseconds(plain), milliseconds(one), (one / plain).toFixed(2)]);
}
if (comm.rank === 0) {
  const title = isKnown ? architecture.title : path;
  print(`${title}; ${comm.size} ranks of one thread, medians of ${rounds} runs a side, interleaved`);
  print(describeMachine());
  print(printTable({ head: ["tokens", "written out (ms)", "fused (ms)", "ratio"], rows }, options.markdown));
}

function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
