/** The three sides of a case of `shardwise verify`: what the ranks give, what is stored, and what the model gives unsplit. */
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { LoadedFolder, loadModelFolder } from "../../src/folder_session.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { generate } from "../../src/generate/generate.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import { roundTensor } from "../../src/passes/round_values.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import { DataParallelModel } from "../../src/runtime/data_parallel_model.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { openUnsharded, type Unsharded } from "../../src/runtime/unsharded.ts";
import { parallelizeModel } from "../../src/session.ts";
import { compareIds, compareTensors, type Difference, type RoundedRun } from "../compare.ts";
import type { VerifyCase } from "../job.ts";

/** What a case gives: outputs by name, or ids. */
export type Given = ReadonlyMap<string, HostTensor> | readonly number[];

/** What the ranks of `model` give. All of them call it together. */
export async function givenByRanks(
  c: VerifyCase,
  model: ParallelModel | DataParallelModel | LoadedFolder,
): Promise<Given> {
  if (c.kind === "seq2seq" && model instanceof LoadedFolder) {
    const prompt = typeof c.prompt === "string" ? Object.fromEntries(await readTensors(c.prompt)) : c.prompt;
    const options = { maxNewTokens: c.expected.length, decoderPrompt: c.decoderPrompt, endIds: [] };
    return await Array.fromAsync(model.generate(prompt, options));
  }
  if (c.kind === "seq2seq" || model instanceof LoadedFolder) throw new Error(`Unreachable case ${c.kind}`);
  if (c.kind === "outputs") {
    return new Map(Object.entries(await model.run(Object.fromEntries(await readTensors(c.inputs)))));
  }
  if (model instanceof DataParallelModel) throw new Error(`Unreachable case ${c.kind}`);
  const options = { sampler: new Sampler(), maxNewTokens: c.expected.length };
  return await Array.fromAsync(generate(model, c.prompt, options));
}

/** What is stored. */
export async function givenByReference(c: VerifyCase): Promise<Given> {
  return c.kind === "outputs" ? await readTensors(c.expected) : c.expected;
}

const ROUND_TO = { fp16: "f16", bf16: "bf16" } as const;

/** What the model at `path` gives unsplit, on this rank alone. It is opened when a case first asks. */
export class UnsplitModel implements AsyncDisposable {
  readonly #path: string;
  readonly #alone: Communicator;
  readonly #opened = new AsyncDisposableStack();
  #session: Unsharded | undefined;
  #model: ParallelModel | LoadedFolder | undefined;
  #rounded: ParallelModel | undefined;

  /** `alone` is a group of this rank only. */
  constructor(path: string, alone: Communicator) {
    this.#path = path;
    this.#alone = alone;
  }

  /** Outputs of one session of the engine on the model's own file; ids of one rank that runs the model as it was written. */
  async give(c: VerifyCase): Promise<Given> {
    if (c.kind === "outputs") {
      this.#session ??= this.#opened.use(await openUnsharded(this.#path));
      return await this.#session.run(await readTensors(c.inputs));
    }
    const load = c.kind === "seq2seq" ? loadModelFolder : parallelizeModel;
    this.#model ??= this.#opened.use(
      await load(this.#path, { comm: this.#alone, device: "cpu", config: { fuse: false } }),
    );
    return await givenByRanks(c, this.#model);
  }

  /** What it gives on the CPU with every value rounded to `dtype`. */
  async giveRounded(c: VerifyCase & { readonly kind: "outputs" }, dtype: "fp16" | "bf16"): Promise<Given> {
    const config = { fuse: false, roundTo: ROUND_TO[dtype] };
    this.#rounded ??= this.#opened.use(
      await parallelizeModel(this.#path, { comm: this.#alone, device: "cpu", config }),
    );
    const inputs = [...await readTensors(c.inputs)].map(([name, t]) => [name, roundTensor(t, config.roundTo)] as const);
    return new Map(Object.entries(await this.#rounded.run(Object.fromEntries(inputs))));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened.disposeAsync();
  }
}

/** How far two sides of a case are apart; with what rounding does to it, whether that explains it. */
export function compareGiven(got: Given, expected: Given, c: VerifyCase, rounded?: RoundedRun): Difference {
  if (got instanceof Map && expected instanceof Map && c.kind === "outputs") {
    const outputs = compareTensors(Object.fromEntries(got), expected, c, rounded);
    return { pass: outputs.length > 0 && outputs.every(({ pass }) => pass), outputs };
  }
  return compareIds([...got.values()] as number[], [...expected.values()] as number[]);
}
