/**
 * Which models may share their batch among groups of ranks without being told so, and that their groups then give what the whole
 * gives: a case of several samples against the same in two parts.
 */
import assert from "node:assert/strict";
import { join, relative } from "node:path";
import { readCases } from "../../cli/cases.ts";
import { compareTensors } from "../../cli/compare.ts";
import { PlanError } from "../../src/core/errors.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { balanced, scale } from "../../src/graph/layout.ts";
import { shard } from "../../src/graph/placement.ts";
import { batchOf } from "../../src/mesh_batch.ts";
import { type Batch, type BatchDim, batchFor } from "../../src/plan/batch.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { shardTensor } from "../../src/runtime/shard_io.ts";
import { realModelOrSkip } from "../support/cli.ts";
import { emulatedModel } from "../support/emulated.ts";
import { REPOSITORY, sharedOrSkip } from "../support/shared.ts";

/** All models that cannot be shared, and why. Activations in 8 bits have one scale for the whole batch. */
const REFUSED: Readonly<Record<string, RegExp>> = {
  "quantised/llama-int8/model.onnx": /DynamicQuantizeLinear may mix samples: it rounds by the largest value of all/,
  "quantised/llama-uint8-per-channel/model.onnx": /DynamicQuantizeLinear may mix samples: it rounds by the largest/,
};
/** How many can. */
const ACCEPTED = 78;
/** SHARDWISE_TEST_ALL=1 runs them all. */
const isAll = Deno.env.get("SHARDWISE_TEST_ALL") === "1";

function onnxFiles(folder: string): string[] {
  return [...Deno.readDirSync(folder)].flatMap(({ name, isDirectory }) => {
    const path = join(folder, name);
    return isDirectory ? onnxFiles(path) : name.endsWith(".onnx") ? [path] : [];
  }).sort();
}

const models = sharedOrSkip("models");

Deno.test({
  name: `the batches of ${ACCEPTED} models can be shared, of ${Object.keys(REFUSED).length} not`,
  ignore: models === undefined,
  fn() {
    let accepted = 0;
    const refused: string[] = [];
    for (const path of onnxFiles(models!)) {
      const name = relative(models!, path);
      try {
        batchOf(path, { dp: 2, tp: 1 });
        accepted++;
      } catch (error) {
        assert.ok(error instanceof PlanError, `${name}: ${error}`);
        assert.match(error.message, REFUSED[name] ?? /^$/, name);
        refused.push(name);
      }
    }
    assert.deepEqual(refused, Object.keys(REFUSED));
    assert.equal(accepted, ACCEPTED);
  },
});

const real = realModelOrSkip();

Deno.test({
  name: "the batch of the real chat model can be shared, in 32 bits and in 4",
  ignore: real === undefined,
  fn() {
    for (const file of ["model.onnx", "model_q4.onnx"]) {
      assert.equal(batchOf(join(real!, file), { dp: 2, tp: 1 }).symbol, "batch_size", file);
    }
  },
});

/** The rows of group `g` of two. */
function part(tensor: HostTensor, at: BatchDim | undefined, rows: number, g: number): HostTensor {
  if (!at) return tensor;
  return shardTensor(tensor, shard(at.dim, scale(balanced(rows, 2), tensor.shape[at.dim]! / rows)), g);
}

async function assertGroupsGiveTheWhole(path: string, whole: Batch, files: readonly string[]): Promise<number> {
  const engine = await openNativeEngine();
  let compared = 0;
  await using model = await emulatedModel(engine, path, 1);
  for (const file of files) {
    const inputs = Object.fromEntries(await readTensors(file)), batch = batchFor(whole, inputs);
    const [name, at] = [...batch.inputs].find(([name]) => inputs[name] !== undefined)!;
    const rows = inputs[name]!.shape[at.dim]!;
    if (rows < 2) continue;
    const all = await model.run(inputs);
    for (const g of [0, 1]) {
      const share = (tensors: Readonly<Record<string, HostTensor>>, places: Batch["inputs"]) =>
        Object.entries(tensors).map(([name, tensor]) => [name, part(tensor, places.get(name), rows, g)] as const);
      const got = await model.run(Object.fromEntries(share(inputs, batch.inputs)));
      const expected = new Map(share(all, batch.outputs));
      for (const { name, pass, problem, maxAbs } of compareTensors(got, expected, { atol: 2e-4, rtol: 2e-4 })) {
        assert.ok(pass, `${file}: ${name} ${problem ?? `is off by ${maxAbs}`}`);
      }
      compared++;
    }
  }
  return compared;
}

const folder = isAll ? models : join(REPOSITORY, "tests/data/models");
for (
  const [path, cases] of folder === undefined
    ? []
    : Map.groupBy(readCases([folder]).cases.filter((c) => c.kind === "outputs"), (c) => c.model)
) {
  if (models !== undefined && REFUSED[relative(models, path)]) continue;
  Deno.test(`groups give what the whole gives: ${path.split("/").slice(-2).join("/")}`, async () => {
    const compared = await assertGroupsGiveTheWhole(
      path,
      batchOf(path, { dp: 2, tp: 1 }),
      cases.map(({ inputs }) => inputs),
    );
    if (!isAll) assert.ok(compared > 0, "no case has two samples");
  });
}
