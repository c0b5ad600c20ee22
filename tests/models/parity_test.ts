/**
 * The outputs of every model, at every number of ranks, against those of PyTorch: all ranks in one ONNX Runtime session (emulate.ts).
 * tests/models/processes_test.ts runs the same cases as jobs of real processes.
 */
import assert from "node:assert/strict";
import { basename, dirname, join } from "node:path";
import { readCases } from "../../cli/cases.ts";
import { compareTensors } from "../../cli/compare.ts";
import { fromNumbers, type HostTensor } from "../../src/core/host_tensor.ts";
import { evalDim } from "../../src/core/dim.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { valueOf } from "../../src/graph/graph.ts";
import { openUnsharded } from "../../src/runtime/unsharded.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { emulatedModel } from "../support/emulated.ts";
import { REPOSITORY, sharedOrSkip } from "../support/shared.ts";

const WORLD_SIZES = [1, 2, 3, 4, 8];

type OutputsCase = Extract<ReturnType<typeof readCases>["cases"][number], { kind: "outputs" }>;

/** The cases of all folders in `folder`, by model. */
function casesIn(folder: string): Map<string, OutputsCase[]> {
  return Map.groupBy(readCases([folder]).cases.filter((c) => c.kind === "outputs"), (c) => c.model);
}

async function assertParity(
  path: string,
  cases: readonly OutputsCase[],
  sizes: readonly number[] = WORLD_SIZES,
): Promise<void> {
  const engine = await openNativeEngine();
  const problems: string[] = [];
  for (const ranks of sizes) {
    await using model = await emulatedModel(engine, path, ranks);
    for (const c of cases) {
      const got = await model.run(Object.fromEntries(await readTensors(c.inputs)));
      const outputs = compareTensors(got, await readTensors(c.expected), c);
      assert.ok(outputs.length > 0, `${c.name} expects nothing`);
      for (const o of outputs) {
        if (!o.pass) problems.push(`${c.name} at ${ranks} ranks: ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
      }
    }
  }
  assert.deepEqual(problems, []);
}

const copied = casesIn(join(REPOSITORY, "tests/data/models"));
for (const [path, cases] of copied) {
  Deno.test(`${basename(dirname(path))}/${basename(path)} gives PyTorch's outputs at ${WORLD_SIZES} ranks`, () =>
    assertParity(path, cases));
}

const inRepository = new Set([...copied.keys()].map((path) => basename(dirname(path))));
for (const group of ["decoders", "encoders"]) {
  const folder = sharedOrSkip(`models/${group}`);
  if (folder === undefined) continue;
  for (const [path, cases] of casesIn(folder)) {
    const name = basename(dirname(path));
    if (inRepository.has(name)) continue;
    Deno.test(`${group}/${name} gives PyTorch's outputs at ${WORLD_SIZES} ranks`, () => assertParity(path, cases));
  }
}

/** SHARDWISE_TEST_ALL=1 takes all sizes, also those that take long. */
const isAll = Deno.env.get("SHARDWISE_TEST_ALL") === "1";
const MOST_SIZES = [1, 2, 3, 4, 5, 8];

/** Fewer, as each folder holds up to three graphs, and a merged one stands for two. */
const SEQ2SEQ_SIZES = isAll ? MOST_SIZES : [2, 3];

const seq2seq = sharedOrSkip("models/seq2seq");
for (const [path, cases] of seq2seq === undefined ? [] : casesIn(seq2seq)) {
  const name = `${basename(dirname(path))}/${basename(path)}`;
  if (inRepository.has(basename(dirname(path)))) continue;
  Deno.test(`seq2seq/${name} gives PyTorch's outputs at ${SEQ2SEQ_SIZES} ranks`, () =>
    assertParity(path, cases, SEQ2SEQ_SIZES));
}

/** Other exporters, quantisers and optimisers. */
const OTHER_SIZES = isAll ? MOST_SIZES : [3];
/**
 * What it expects was computed on a processor with VNNI. Without, ONNX Runtime adds pairs of u8·s8 products in 16 bits, which
 * saturate: outputs differ by up to 0.5.
 */
const OF_ANOTHER_PROCESSOR = "llama-int8";

for (const group of ["dynamo", "genai", "moe", "ort-fused", "quantised"]) {
  const folder = sharedOrSkip(`models/${group}`);
  if (folder === undefined) continue;
  for (const [path, cases] of casesIn(folder)) {
    const name = basename(dirname(path));
    if (inRepository.has(name)) continue;
    if (name === OF_ANOTHER_PROCESSOR) {
      Deno.test(`${group}/${name} gives at ${OTHER_SIZES} ranks what one ONNX Runtime session gives`, async () => {
        for (const c of cases) await assertLikeSession(path, Object.fromEntries(await readTensors(c.inputs)), c);
      });
    } else {
      Deno.test(`${group}/${name} gives the outputs that it should at ${OTHER_SIZES} ranks`, () =>
        assertParity(path, cases, OTHER_SIZES));
    }
  }
}

/** Runs the model of a file in one session, and split, and compares. */
async function assertLikeSession(
  path: string,
  inputs: Record<string, HostTensor>,
  tolerance: { readonly atol: number; readonly rtol: number },
  sizes: readonly number[] = OTHER_SIZES,
): Promise<void> {
  const engine = await openNativeEngine();
  await using whole = await openUnsharded(path);
  const expected = await whole.run(new Map(Object.entries(inputs)));
  for (const ranks of sizes) {
    await using model = await emulatedModel(engine, path, ranks);
    for (const o of compareTensors(await model.run(inputs), expected, tolerance)) {
      assert.ok(o.pass, `at ${ranks} ranks: ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
    }
  }
}

/** Inputs for a model that came without cases: what its names mean. */
function madeUpInputs(path: string): Record<string, HostTensor> {
  using file = readOnnx(path);
  const graph = importOnnx(file);
  const sizes = new Map(Object.entries({
    batch: 2,
    batch_size: 2,
    sequence: 5,
    seq_len: 5,
    past_seq_len: 3,
    total_seq_len: 8,
  }));
  let state = 7;
  const random = () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
  const inputs: Record<string, HostTensor> = {};
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    const [name] = node.outputs;
    const { dtype, shape } = valueOf(graph, name).type;
    const dims = shape!.map((d) => evalDim(d, sizes) ?? assert.fail(`nobody says how large ${d} of ${name} is`));
    const content = (i: number) => {
      if (name.includes("mask")) return 1;
      if (name.includes("position")) return 3 + i % 5;
      return name.includes("ids") ? Math.floor(random() * 1000) : random() - 0.5;
    };
    inputs[name] = fromNumbers(
      dtype!,
      dims,
      Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => content(i)),
    );
  }
  return inputs;
}

const real = sharedOrSkip("models/real");
for (const { name } of real === undefined ? [] : Deno.readDirSync(real)) {
  if (!name.endsWith(".onnx")) continue;
  Deno.test(`real/${name} gives at ${WORLD_SIZES} ranks what one ONNX Runtime session gives`, async () => {
    const path = join(real!, name);
    await assertLikeSession(path, madeUpInputs(path), { atol: 1e-5, rtol: 1e-5 }, WORLD_SIZES);
  });
}
