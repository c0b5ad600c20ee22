/**
 * The ONNX project's own node tests: every op as its specification asks for, whole and split over 2 and 3 ranks by a random legal plan, all
 * ranks in one session. SHARDWISE_TEST_SEED replays the plans of a run.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import { FormatError } from "../../src/core/errors.ts";
import { dtypeInfo } from "../../src/core/dtype.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { type Graph, outputOf } from "../../src/graph/graph.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import type { Engine } from "../../src/runtime/cpu/engine.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { nodeTensors, nodeTolerance } from "../support/node_tests.ts";
import { randomPlan } from "../support/random_plan.ts";
import { sharedOrSkip } from "../support/shared.ts";

const SEED = Number(Deno.env.get("SHARDWISE_TEST_SEED") ?? Date.now() % 2 ** 31);

/** A number in [0, 1) at each call, the same ones for a seed and a text: each test draws its own. */
function randoms(seed: number, text: string): () => number {
  let state = seed;
  for (const character of text) state = (Math.imul(state, 31) + character.codePointAt(0)!) >>> 0;
  return () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
}

function shard(graph: Graph<"global">, ranks: number, random: () => number): Graph<"sharded"> {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0 });
  const clean = cleanPipeline().run(graph, ctx);
  ctx.plan = randomPlan(clean, ranks, random);
  return shardPipeline().run(clean, ctx);
}

/** Runs one test at all rank counts: its problems, and how many calls were split. */
async function runTest(engine: Engine, folder: string): Promise<{ problems: string[]; split: number }> {
  using file = readOnnx(join(folder, "model.onnx"));
  const graph = importOnnx(file);
  const inputs = nodeTensors(folder, "input"), outputs = nodeTensors(folder, "output");
  const names = graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [n.outputs[0]] : []));
  assert.equal(names.length, inputs.length, "inputs in files");
  const feeds = Object.fromEntries(names.map((name, i) => [name, inputs[i]!]));
  const expected = new Map(outputOf(graph).names.map((name, i) => [name, outputs[i]!]));
  const problems: string[] = [];
  let split = 0;
  for (const ranks of [1, 2, 3]) {
    const random = randoms(SEED + ranks, folder);
    const sharded = shard(graph, ranks, random);
    split += [...sharded.values.values()].filter((v) => v.placement !== undefined && v.placement.kind !== "R").length;
    await using model = await EmulatedModel.open(engine, sharded, ranks);
    for (const o of compareTensors(await model.run(feeds), expected, nodeTolerance(outputs))) {
      if (!o.pass) problems.push(`at ${ranks} ranks: ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
    }
  }
  return { problems, split };
}

/** The dtype of a tensor that ONNX Runtime does not slice, so that it cannot be cut, if there is one. */
function unsliced(folder: string): string | undefined {
  for (const kind of ["input", "output"] as const) {
    for (const { dtype } of nodeTensors(folder, kind)) {
      const { float, bits } = dtypeInfo(dtype);
      if (dtype === "string" || (float && bits < 16)) return dtype;
    }
  }
  return undefined;
}

const root = sharedOrSkip("onnx-node-tests");
const folders = root === undefined ? [] : [...Deno.readDirSync(root)].filter((e) => e.isDirectory).map((e) => e.name);
/** What became of them all: a plan that splits nothing, or a skip of everything, would prove nothing. */
const seen = { run: 0, split: 0, skipped: [] as string[] };
/** By the op's name in the test's. */
const families = Map.groupBy(folders.sort(), (name) => name.split("_")[1]!);

for (const [family, names] of families) {
  Deno.test(`ONNX's ${names.length} node tests of ${family} pass on 1, 2 and 3 ranks (seed ${SEED})`, async () => {
    const engine = await openNativeEngine();
    const problems: string[] = [];
    for (const name of names) {
      const folder = join(root!, name);
      const dtype = unsliced(folder);
      if (dtype !== undefined) {
        seen.skipped.push(`${name}: ONNX Runtime does not slice ${dtype}`);
        continue;
      }
      try {
        const { problems: found, split } = await runTest(engine, folder);
        problems.push(...found.map((p) => `${name} ${p}`));
        seen.run++;
        if (split > 0) seen.split++;
      } catch (error) {
        // Forms of ops that no exporter of today writes.
        if (error instanceof FormatError && error.message.includes("older than the supported")) {
          seen.skipped.push(`${name}: its opset is too old`);
          continue;
        }
        problems.push(`${name}: ${error instanceof Error ? error.message : error}`);
      }
    }
    assert.deepEqual(problems, []);
  });
}

if (folders.length > 0) {
  Deno.test("most of ONNX's node tests were run, and most of those were split", () => {
    // deno-lint-ignore no-console -- a skipped test says what is missing
    if (seen.skipped.length > 0) console.log(`skipped ${seen.skipped.length}:\n  ${seen.skipped.join("\n  ")}`);
    assert.ok(seen.skipped.length < 40, `${seen.skipped.length} of ${folders.length} were skipped`);
    assert.equal(seen.run + seen.skipped.length, folders.length);
    assert.ok(seen.split > seen.run * 0.8, `${seen.split} of ${seen.run} were split`);
  });
}
