/** Cases of models that generate: prompts into an empty cache, and single tokens behind a past. */
import { InputError } from "../../src/core/errors.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import type { LoadedFolder } from "../../src/folder_session.ts";
import { Decoding } from "../../src/generate/decoding.ts";
import { encode, type EncoderPrompt } from "../../src/generate/encoder_decoder.ts";
import { type Logits, Sampler } from "../../src/generate/sampler.ts";
import type { BenchJob } from "../job.ts";
import { type Case, type Measured, Watch } from "./bench_case.ts";
import { drawn, randomIds } from "./bench_inputs.ts";

/** Single tokens that are not counted: a GPU lowers the program of a text with the second, and records it with the third. */
const WARM_TOKENS = 4;
/** Ids below it are in every vocabulary whose size a model leaves open. */
const SMALL_VOCABULARY = 8;

/** What the cases share. */
interface Subject {
  readonly job: BenchJob;
  readonly folder: LoadedFolder;
  readonly decoder: Watch;
  readonly encoder: Watch | undefined;
  readonly sampler: Sampler;
  readonly vocabulary: number;
}

/** The cases of `job`, in the order in which they take turns. */
export async function generationCases(job: BenchJob, folder: LoadedFolder): Promise<Case[]> {
  const { decoder, encoder } = folder, size = decoder.outputs.find((o) => o.name === "logits")?.type.shape?.at(-1);
  const subject: Subject = {
    job,
    folder,
    decoder: new Watch(decoder),
    encoder: encoder && new Watch(encoder),
    sampler: new Sampler(),
    vocabulary: typeof size === "number" ? size : SMALL_VOCABULARY,
  };
  const takesIds = encoder === undefined || encoder.inputs.some((i) => i.name === "input_ids");
  const prompts: { readonly tokens: number | undefined; readonly prompts: readonly EncoderPrompt[] }[] = [];
  if (takesIds && job.inputs === undefined) {
    for (const tokens of job.prompts) prompts.push({ tokens, prompts: ids(subject, tokens) });
  } else if (encoder) prompts.push({ tokens: undefined, prompts: [await encoderInputs(job, folder)] });
  return [
    ...prompts.map((p): Case => ({ kind: "prefill", tokens: p.tokens, run: () => prefill(subject, p.prompts) })),
    ...job.pasts.map((tokens): Case => ({
      kind: "decode",
      tokens,
      run: () => decode(subject, tokens, prompts[0]!.prompts),
    })),
  ];
}

function ids({ job: { batch, seed }, vocabulary }: Subject, length: number): number[][] {
  return randomIds({ rows: batch, length, vocabulary, seed: seed + length });
}

/** Inputs of an encoder that takes no ids. */
async function encoderInputs(job: BenchJob, { folder }: LoadedFolder): Promise<Record<string, HostTensor>> {
  if (job.batch > 1) {
    throw new InputError("Cannot measure a batch of texts after an encoder that takes no token ids", {
      hint: "leave --batch out",
    });
  }
  if (job.inputs !== undefined) return Object.fromEntries(await readTensors(job.inputs));
  return drawn(folder.encoder!, job, job.prompts[0]!);
}

/** What the decoder takes of an encoder, and what it begins with. */
async function begun(
  { folder, encoder }: Subject,
  prompts: readonly EncoderPrompt[],
): Promise<{ readonly rows: readonly (readonly number[])[]; readonly given: Record<string, HostTensor> }> {
  if (!encoder) return { rows: prompts as readonly (readonly number[])[], given: {} };
  const { decoderPrompt } = folder.folder;
  const rows = prompts.map(() => decoderPrompt.length > 0 ? decoderPrompt : [0]);
  return { rows, given: await encode(encoder.model, prompts, { padId: folder.folder.padId }) };
}

/** From the prompt to the pick of the first token. */
async function prefill(subject: Subject, prompts: readonly EncoderPrompt[]): Promise<Measured> {
  const { decoder, encoder, sampler } = subject, began = performance.now();
  const { rows, given } = await begun(subject, prompts);
  using decoding = new Decoding(decoder.model, rows, { maxNewTokens: 1, given, picking: () => ({ count: 1 }) });
  pick(sampler, await decoding.begin());
  const ms = performance.now() - began, work = decoder.taken(), read = encoder?.taken();
  return {
    ms,
    waitingMs: work.waitingMs + (read?.waitingMs ?? 0),
    flops: work.flops + (read?.flops ?? 0),
    weightBytes: work.weightBytes + (read?.weightBytes ?? 0),
    stateBytes: work.stateBytes,
  };
}

/** The mean of `newTokens` single tokens, of which the first has `past` tokens before it. */
async function decode(subject: Subject, past: number, encoded: readonly EncoderPrompt[]): Promise<Measured> {
  const { decoder, encoder, sampler, job: { newTokens } } = subject;
  const warm = Math.min(WARM_TOKENS, past - 1);
  const { given } = encoder ? await begun(subject, encoded) : { given: {} };
  const rows = ids(subject, past - warm);
  if (encoder) rows.splice(encoded.length);
  using decoding = new Decoding(decoder.model, rows, {
    maxNewTokens: warm + newTokens,
    given,
    picking: () => ({ count: 1 }),
  });
  let next = pick(sampler, await decoding.begin());
  for (let i = 0; i < warm; i++) next = pick(sampler, await decoding.next(next));
  decoder.forget();
  const began = performance.now();
  for (let i = 0; i < newTokens; i++) next = pick(sampler, await decoding.next(next));
  const ms = (performance.now() - began) / newTokens;
  return { ms, ...decoder.taken() };
}

function pick(sampler: Sampler, rows: readonly Logits[]): number[] {
  return rows.map((row) => sampler.pick(row));
}
