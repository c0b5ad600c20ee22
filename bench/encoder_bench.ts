/**
 * An encoder in two forms, interleaved run by run in the same processes: with its attention written out and fused; or, with `--fixed`,
 * fused with lengths left open and with a fixed one, for which norms and sums may be cut by position.
 *
 *     deno task launch --nproc N bench/encoder_bench.ts [--model bert|FILE.onnx] [--lengths 16,128,512] [--rounds 11] [--fixed] [--markdown]
 *
 * `bert` is written by the bench itself (once, into `.cache/bench`). Every rank computes with one thread.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { hostTensor, init, parallelizeModel, type ParallelModel } from "../mod.ts";
import { type Dim, substituteDim, symbolsOf } from "../src/core/dim.ts";
import { type HostTensor, toNumbers } from "../src/core/host_tensor.ts";
import { importOnnx } from "../src/formats/import_onnx.ts";
import { readOnnx } from "../src/formats/onnx_file.ts";
import { valueOf } from "../src/graph/graph.ts";
import { ENCODERS } from "./models/architectures.ts";
import { cachedModel, writeModel } from "./models/model_cache.ts";
import { median } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { milliseconds, printTable } from "./models/table.ts";

/** Differences of results, against the largest, that another order of rounding explains. */
const TOLERANCE = 1e-4;

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "bert" },
    lengths: { type: "string", default: "16,128,512" },
    rounds: { type: "string", default: "11" },
    fixed: { type: "boolean", default: false },
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

const rounds = Number(options.rounds);
const names = options.fixed ? ["open", "fixed"] : ["written out", "fused"];

/** Ids that hit all of a small vocabulary; masks of ones; images and sounds of a wave. */
function feeds(inputs: ParallelModel["inputs"], length: number): Record<string, HostTensor> {
  const one = (dim: unknown) => (typeof dim === "number" ? dim : undefined);
  return Object.fromEntries(inputs.map(({ name, type }) => {
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

/** The same model for one sequence of `length` tokens, beside the other. */
async function fixedModel(length: number): Promise<string> {
  const to = `${path}.fixed${length}`;
  if (comm.rank === 0 && !existsSync(to)) {
    using file = readOnnx(path);
    const graph = importOnnx(file), sizes = new Map<string, Dim>();
    for (const node of graph.nodes) {
      const shape = node.kind === "placeholder" ? valueOf(graph, node.outputs[0]).type.shape ?? [] : [];
      shape.forEach((d, i) => symbolsOf(d).forEach((s) => sizes.set(s, i === 0 ? 1 : length)));
    }
    const values = new Map([...graph.values].map(([name, { type, ...value }]) => {
      const shape = type.shape?.map((d) => substituteDim(d, sizes));
      return [name, { ...value, type: { dtype: type.dtype, shape } }];
    }));
    writeModel({ ...graph, values }, to);
  }
  await comm.barrier();
  return to;
}

const rows: string[][] = [];
for (const length of options.lengths.split(",").map(Number)) {
  await using first = await parallelizeModel(path, options.fixed ? { comm } : { comm, config: { fuse: false } });
  await using second = await parallelizeModel(options.fixed ? await fixedModel(length) : path, { comm });
  const sides = [first, second], inputs = feeds(first.inputs, length), times: [number[], number[]] = [[], []];
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
  print(printTable({ head: ["tokens", ...names.map((name) => `${name} (ms)`), "ratio"], rows }, options.markdown));
}

function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
