/** Models in parts, as folders: what ranks read from them computes what a direct run computes. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareTensors } from "../../cli/compare.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { openRanges } from "../../src/formats/mapped_file.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { type HostTensor, hostTensor } from "../../src/core/host_tensor.ts";
import { outputOf, valueOf } from "../../src/graph/graph.ts";
import { printGraph } from "../../src/graph/text.ts";
import { localize } from "../../src/passes/localize.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { shardTensor } from "../../src/runtime/shard_io.ts";
import { shardModel } from "../../src/shard_model.ts";
import { openRankPart, shardedFor } from "../../src/sharded_folder.ts";
import { emulatedStep, sharded } from "../support/emulated.ts";
import { REPOSITORY } from "../support/shared.ts";

function model(name: string, file = "model.onnx"): string {
  return join(REPOSITORY, "tests/data/models", name, file);
}

async function inTemp(body: (folder: string) => Promise<void> | void): Promise<void> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-folder-" });
  try {
    await body(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

async function inputsOf(name: string): Promise<Record<string, HostTensor>> {
  if (name === "mlp") {
    return { x: hostTensor("f32", [1, 3, 32], Float32Array.from({ length: 96 }, (_, i) => i / 50 - 1)) };
  }
  const file = name === "bert" ? "batch.inputs.safetensors" : "decode.inputs.safetensors";
  return Object.fromEntries(await readTensors(model(name, file)));
}

const CASES = { mlp: [2, 3, 4], llama: [2, 3, 4], gpt2: [4], bloom: [3], phi3: [2], bert: [3] };
for (const [name, sizes] of Object.entries(CASES)) {
  Deno.test(`a folder of ${name}'s parts computes what the model computes at ${sizes} ranks`, async () => {
    const engine = await openNativeEngine();
    const inputs = await inputsOf(name);
    for (const ranks of sizes) {
      await inTemp(async (folder) => {
        shardModel(model(name), folder, { ranks });
        assert.equal(shardedFor(folder), ranks);
        using file = readOnnx(model(name));
        const graph = sharded(importOnnx(file), ranks);
        const all = Array.from({ length: ranks }, (_, rank) => rank);
        const parts = all.map((rank) => openRankPart(folder, { rank, ranks, open: openRanges }));
        try {
          assert.equal(printGraph(parts[0]!.sharded), printGraph(graph));
          const feeds = all.map((rank) =>
            new Map(
              Object.entries(inputs).map(([n, t]) => [n, shardTensor(t, valueOf(graph, n).placement!, rank)] as const),
            )
          );
          const same = async (plain: boolean) => {
            const locals = parts.map((p) => (plain ? p.plain() : p.local));
            const expected = await emulatedStep(
              engine,
              all.map((rank) => localize(graph, rank, ranks, { plain })),
              feeds,
            );
            const got = await emulatedStep(engine, locals, feeds);
            got.forEach((outputs, rank) => {
              const names = outputOf(locals[rank]!).names;
              const byName = (list: readonly HostTensor[]) => names.map((n, i) => [n, list[i]!] as const);
              // Initializers stand in another order in the file, and ONNX Runtime fuses in the order that it meets.
              const differences = compareTensors(
                Object.fromEntries(byName(outputs)),
                new Map(byName(expected[rank]!)),
                { atol: 2e-6, rtol: 2e-6 },
              );
              assert.deepEqual(differences.filter(({ pass }) => !pass), [], `rank ${rank} of ${ranks}`);
              assert.equal(differences.length, names.length);
            });
          };
          await same(false);
          // The model has fused ops with limits of size, so the folder has plain ops for beyond them.
          if (name === "llama" && ranks === 2) await same(true);
        } finally {
          for (const part of parts) part[Symbol.dispose]();
        }
      });
    }
  });
}
