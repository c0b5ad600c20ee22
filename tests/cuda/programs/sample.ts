// deno-lint-ignore-file no-console
/**
 * Continues a prompt with a model folder on GPUs, one a rank, once for each line of sampling options; prints as JSON, by line, the ids, how
 * many bytes of logits a step gave, and what a sampler picks from the whole rows. Arguments: the folder, tokens, options as JSON.
 */
import { join } from "node:path";
import { byteLength } from "../../../src/core/dtype.ts";
import { generate } from "../../../src/generate/generate.ts";
import { Sampler, type SamplingOptions } from "../../../src/generate/sampler.ts";
import { init } from "../../../src/runtime/comm/init.ts";
import type { ModelState } from "../../../src/runtime/model_state.ts";
import type { CausalModel } from "../../../src/generate/causal_model.ts";
import { parallelizeModel } from "../../../src/session.ts";

const [folder, tokens, ...lines] = Deno.args as [string, string, ...string[]];
const prompt = [5, 17, 3, 29, 11];
await using comm = await init({ device: "cuda" });
await using model = await parallelizeModel(join(folder, "model.onnx"), {
  comm,
  device: "cuda",
  config: { logits: "last" },
});

/** The model, whose steps give whole logits, or what is asked for. */
function watched(whole: boolean, bytes: number[]): CausalModel<ModelState> {
  const { stepInputs, outputs, carried } = model;
  return {
    stepInputs,
    outputs,
    carried,
    run: (inputs) => model.run(inputs),
    start: (batch, o) => model.start(batch, o),
    reorder: (state, rows) => model.reorder(state, rows),
    wholeOutput: (name) => model.wholeOutput(name),
    step: async (inputs, state, options) => {
      const results = await model.step(inputs, state, whole ? {} : options);
      const logits = Object.entries(results).filter(([name]) => name.startsWith("logits"));
      bytes.push(logits.reduce((sum, [, t]) => sum + byteLength(t.dtype, t.shape.reduce((a, b) => a * b, 1)), 0));
      return results;
    },
  };
}

for (const line of lines) {
  const options = JSON.parse(line) as SamplingOptions, bytes: number[] = [];
  const ids = async (whole: boolean) => {
    const how = { sampler: new Sampler(options), maxNewTokens: Number(tokens) };
    return await Array.fromAsync(generate(watched(whole, bytes), prompt, how));
  };
  const drawn = await ids(false), given = [...bytes], host = await ids(true);
  if (comm.rank === 0) console.log(JSON.stringify({ options, drawn, host, bytes: given }));
}
