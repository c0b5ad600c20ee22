/** What each rank does for `shardwise trace`; rank 0 reports. */
import { InputError } from "../../src/core/errors.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import type { EncoderPrompt } from "../../src/generate/encoder_decoder.ts";
import { ModelFolder } from "../../src/generate/model_folder.ts";
import type { LoadedFolder } from "../../src/folder_session.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import type { RankContext, TraceJob, TraceReport } from "../job.ts";
import { loadFolder, loadModel } from "./load_model.ts";

/** Steps that run before, so that memory is there and caches are warm. */
const WARM_STEPS = 3;

/** Carries out `job`. */
export async function traceOnRank(job: TraceJob, { comm, report }: RankContext): Promise<void> {
  await using subject = await open(job, comm);
  const { model, steps } = subject;
  await steps(Math.min(job.steps, WARM_STEPS));
  const trace = await model.trace(() => steps(job.steps));
  report({ trace } satisfies TraceReport);
}

/** What is traced, and what makes a number of steps of it. */
interface Subject extends AsyncDisposable {
  readonly model: ParallelModel;
  readonly steps: (count: number) => Promise<void>;
}

/** Inputs of an encoder-decoder are what its encoder reads; of another model, they are its own. */
async function open(job: TraceJob, comm: RankContext["comm"]): Promise<Subject> {
  const options = { comm, on: job.on, plan: job.plan };
  const inputs = job.inputs === undefined ? undefined : Object.fromEntries(await readTensors(job.inputs));
  if (inputs === undefined || ModelFolder.open(job.model).encoder !== undefined) {
    return generation(await loadFolder(job.model, options), inputs ?? job.prompt);
  }
  const model = await loadModel(job.model, options);
  return {
    model,
    async steps(count) {
      for (let i = 0; i < count; i++) await model.run(inputs);
    },
    [Symbol.asyncDispose]: () => model[Symbol.asyncDispose](),
  };
}

/** The decoder's steps after `prompt`. */
function generation(folder: LoadedFolder, prompt: EncoderPrompt): Subject {
  const { decoder: model } = folder;
  if (model.carried.length === 0) {
    throw new InputError("Cannot trace a model without a cache on a prompt", {
      hint: "pass its inputs: --inputs in.safetensors",
    });
  }
  // A first step that is a graph of its own is none of the steps that are recorded.
  const before = model.first ? 1 : 0;
  return {
    model,
    async steps(count) {
      for await (const _ of folder.generate(prompt, { maxNewTokens: count + before, endIds: [] }));
    },
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}
