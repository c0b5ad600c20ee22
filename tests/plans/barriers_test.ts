/** The barriers that plans are priced with are those of the programs that carry them out. */
import assert from "node:assert/strict";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { cleanModel } from "../../src/passes/clean_model.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { localize } from "../../src/passes/localize.ts";
import { shardPipeline } from "../../src/passes/pipelines.ts";
import { barriersOf } from "../../src/plan/barriers.ts";
import { segment } from "../../src/program/segment.ts";
import { testModel } from "../support/cli.ts";

for (const model of ["llama", "gpt2", "bert", "gpt-neox"]) {
  Deno.test(`plans of ${model} have as many barriers as their programs`, () => {
    for (const baseline of [undefined, "rowwise", "columnwise"] as const) {
      for (const ranks of [2, 3]) {
        using file = readOnnx(testModel(model, "model.onnx"));
        const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: baseline ? { baseline } : {} });
        const clean = cleanModel(importOnnx(file), ctx), sharded = shardPipeline().run(clean, ctx);
        const { steps } = segment(localize(sharded, 0, ranks), 0, ranks);
        const { count, collectives } = barriersOf(clean, ctx.requirePlan());
        const met = steps.flatMap((step) => step.kind === "barrier" ? [step.collectives.length] : []);
        const said = `${baseline ?? "solver"} on ${ranks}`;
        assert.equal(count, met.length, said);
        assert.equal(collectives, met.reduce((a, b) => a + b, 0), said);
      }
    }
  });
}
