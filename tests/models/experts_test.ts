/** Mixtures of experts of which each rank holds some whole, as an override asks. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { readCases } from "../../cli/cases.ts";
import { compareTensors } from "../../cli/compare.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { isCall, valueOf } from "../../src/graph/graph.ts";
import { printPlacement } from "../../src/graph/placement.ts";
import { openNativeEngine } from "../../src/runtime/cpu/ort_native.ts";
import { EmulatedModel } from "../../src/runtime/emulation.ts";
import { sharded } from "../support/emulated.ts";
import { sharedOrSkip } from "../support/shared.ts";

for (const name of ["ms-moe-relu", "ms-moe-swiglu"]) {
  const folder = sharedOrSkip(`models/moe/${name}`);
  if (folder === undefined) continue;
  Deno.test(`${name} gives the outputs that it should with whole experts on 2, 3 and 5 ranks`, async () => {
    const engine = await openNativeEngine(), path = join(folder, "model.onnx");
    const cases = readCases([folder]).cases.filter((c) => c.kind === "outputs");
    assert.ok(cases.length > 0);
    for (const ranks of [2, 3, 5]) {
      using file = readOnnx(path);
      const graph = sharded(importOnnx(file), ranks, { overrides: { moe: "S(0)" } });
      const moe = graph.nodes.filter(isCall).find((n) => n.op === "MoE")!;
      assert.match(printPlacement(valueOf(graph, moe.inputs[2]!).placement!), /^S\(0/);
      await using model = await EmulatedModel.open(engine, graph, ranks);
      for (const c of cases) {
        const got = await model.run(Object.fromEntries(await readTensors(c.inputs)));
        for (const o of compareTensors(got, await readTensors(c.expected), c)) {
          assert.ok(o.pass, `${c.name} on ${ranks} ranks: ${o.name} ${o.problem ?? `is off by ${o.maxAbs}`}`);
        }
      }
    }
  });
}
