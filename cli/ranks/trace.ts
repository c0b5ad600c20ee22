/** What each rank does for `shardwise trace`; rank 0 reports. */
import { InputError } from "../../src/core/errors.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { generate } from "../../src/generate/generate.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import type { RankContext, TraceJob, TraceReport } from "../job.ts";
import { loadModel } from "./load_model.ts";

/** Steps that run before, so that memory is there and caches are warm. */
const WARM_STEPS = 3;

/** Carries out `job`. */
export async function traceOnRank(job: TraceJob, { comm, report }: RankContext): Promise<void> {
  await using model = await loadModel(job.model, { comm, on: job.on, plan: job.plan });
  const steps = await stepsOf(job, model);
  await steps(Math.min(job.steps, WARM_STEPS));
  const trace = await model.trace(() => steps(job.steps));
  report({ trace } satisfies TraceReport);
}

/** Makes a number of steps. */
async function stepsOf(job: TraceJob, model: ParallelModel): Promise<(count: number) => Promise<void>> {
  if (job.inputs !== undefined) {
    const inputs = Object.fromEntries(await readTensors(job.inputs));
    return async (count) => {
      for (let i = 0; i < count; i++) await model.run(inputs);
    };
  }
  if (model.carried.length === 0) {
    throw new InputError("Cannot trace a model without a cache on a prompt", {
      hint: "pass its inputs: --inputs in.safetensors",
    });
  }
  return async (count) => {
    const options = { sampler: new Sampler(), maxNewTokens: count };
    for await (const _ of generate(model, job.prompt, options));
  };
}
