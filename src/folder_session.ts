/**
 * A model folder as one model that generates: a decoder, in one file or two, and the encoder beside it where there is one.
 */
import { InputError } from "./core/errors.ts";
import type { HostTensor } from "./core/host_tensor.ts";
import { type BeamResult, beamSearch, type BeamSearchOptions } from "./generate/beam_search.ts";
import { encode, type EncoderPrompt, readsEncoder } from "./generate/encoder_decoder.ts";
import { generate, generateBatch, type GenerateBatchOptions, inTurn } from "./generate/generate.ts";
import { isCall, opKey } from "./graph/graph.ts";
import { graphsBeside, ModelFolder } from "./generate/model_folder.ts";
import { Sampler, type SamplingOptions } from "./generate/sampler.ts";
import { withoutPlan } from "./passes/context.ts";
import type { ParallelModel } from "./runtime/parallel_model.ts";
import { parallelizeDecoder, parallelizeModel, type ParallelizeOptions } from "./session.ts";

/** How a loaded folder generates. */
export interface FolderGenerateOptions {
  /** How to pick tokens; greedy by default. */
  readonly sampling?: SamplingOptions | undefined;
  /** The text ends here at the latest. */
  readonly maxNewTokens: number;
  /** Ids that end a text; the folder's own by default. */
  readonly endIds?: readonly number[] | undefined;
  /** What an encoder-decoder's decoder starts from; the folder's own by default. */
  readonly decoderPrompt?: readonly number[] | undefined;
}

/** How a loaded folder goes on with several texts. */
export interface FolderBatchOptions extends FolderGenerateOptions, Pick<GenerateBatchOptions, "ends"> {}

/** How a loaded folder searches. */
export interface FolderBeamOptions
  extends Omit<BeamSearchOptions, "given">, Pick<FolderGenerateOptions, "decoderPrompt"> {}

/** The parts of a model folder, split over the ranks. All ranks call the same methods in the same order. */
export class LoadedFolder implements AsyncDisposable {
  /** The files. */
  readonly folder: ModelFolder;
  /** What gives logits. */
  readonly decoder: ParallelModel;
  /** What reads the prompt of an encoder-decoder. */
  readonly encoder: ParallelModel | undefined;

  /** Made by {@linkcode loadModelFolder}. */
  constructor(folder: ModelFolder, decoder: ParallelModel, encoder: ParallelModel | undefined) {
    this.folder = folder;
    this.decoder = decoder;
    this.encoder = encoder;
  }

  /**
   * The new tokens after `prompt`, one at a time; of an encoder-decoder, the decoder's tokens.
   *
   * @throws {InputError} If the prompt is empty, or not of the kind that the model takes.
   */
  async *generate(prompt: EncoderPrompt, options: FolderGenerateOptions): AsyncGenerator<number, void, void> {
    const { rows: [row], given } = await this.#prompts([prompt], options);
    const { sampling, maxNewTokens, endIds = this.folder.endIds } = options;
    yield* generate(this.decoder, row!, { sampler: new Sampler(sampling), maxNewTokens, endIds, given });
  }

  /**
   * The new tokens after each of `prompts`, a step at a time: see `generateBatch`.
   *
   * @throws {InputError} As {@linkcode generate} does.
   */
  async *generateBatch(
    prompts: readonly EncoderPrompt[],
    options: FolderBatchOptions,
  ): AsyncGenerator<(number | undefined)[], void, void> {
    const { rows, given } = await this.#prompts(prompts, options);
    const { sampling, maxNewTokens, ends, endIds = this.folder.endIds } = options;
    const batch = { sampling, maxNewTokens, ends, endIds, given, padId: this.folder.padId };
    if (rows.every((row) => row.length === rows[0]!.length) || !countsTokens(this.decoder)) {
      return yield* generateBatch(this.decoder, rows, batch);
    }
    const alone = rows.map((row, i) =>
      generateBatch(this.decoder, [row], { ...batch, ends: ends && ((_, id) => ends(i, id)) })
    );
    for await (const step of inTurn(alone)) yield step.map((ids) => ids?.[0]);
  }

  /**
   * The best texts after `prompt`: see `beamSearch`.
   *
   * @throws {InputError} As {@linkcode generate} does.
   */
  async beamSearch(prompt: EncoderPrompt, options: FolderBeamOptions): Promise<BeamResult[]> {
    const { rows: [row], given } = await this.#prompts([prompt], options);
    const { endIds = this.folder.endIds } = options;
    return await beamSearch(this.decoder, row!, { ...options, endIds, given });
  }

  /** What the decoder begins with, and what it is given at every step. */
  async #prompts(
    prompts: readonly EncoderPrompt[],
    { decoderPrompt = this.folder.decoderPrompt }: Pick<FolderGenerateOptions, "decoderPrompt">,
  ): Promise<{ readonly rows: readonly (readonly number[])[]; readonly given: Record<string, HostTensor> }> {
    if (this.encoder === undefined) {
      return {
        rows: prompts.map((p) => {
          if (Array.isArray(p)) return p as readonly number[];
          throw new InputError("Cannot generate from tensors: the model has no encoder", { hint: "give token ids" });
        }),
        given: {},
      };
    }
    if (decoderPrompt.length === 0) {
      throw new InputError("Cannot generate: nobody says from which token the decoder starts", {
        hint: 'write "decoder_start_token_id" into generation_config.json, or give decoderPrompt',
      });
    }
    const given = await encode(this.encoder, prompts, { padId: this.folder.padId });
    return { rows: prompts.map(() => decoderPrompt), given };
  }

  /** Releases the sessions. Does not wait for other ranks. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.encoder?.[Symbol.asyncDispose]();
    await this.decoder[Symbol.asyncDispose]();
  }
}

/**
 * Whether the model's attention takes the number of tokens of a text instead of a mask, so that padding must stand behind
 * them and not before: prompts of different lengths then cannot grow side by side.
 */
function countsTokens(model: ParallelModel): boolean {
  return model.graph.nodes.some((n) => isCall(n) && opKey(n) === "com.microsoft.GroupQueryAttention");
}

/**
 * Reads the model folder (or `.onnx` file) at `path` and splits its parts over the ranks of `comm`. All ranks call it
 * together. The decoder gives logits of the last position only, unless `config` says otherwise.
 *
 * @throws {FormatError} If there is no model, it is broken, or a decoder lies there without the encoder that it needs.
 * @example
 * ```ts ignore
 * await using comm = await init();
 * await using model = await loadModelFolder("t5-small/", { comm });
 * const prompt = model.folder.tokenizer().encode("translate English to German: How are you?");
 * for await (const id of model.generate(prompt, { maxNewTokens: 64 })) console.log(id);
 * ```
 */
export async function loadModelFolder(path: string, given: ParallelizeOptions): Promise<LoadedFolder> {
  const folder = ModelFolder.open(path), { config } = given;
  // A stored plan is one of the model with all of its logits.
  const options = config?.plan ? given : { ...given, config: { logits: "last" as const, ...config } };
  const { model, firstStep, encoder: encoderPath } = folder;
  const ofDecoder = { ...options, beside: graphsBeside(model) };
  const decoder = firstStep === undefined
    ? await parallelizeModel(model, ofDecoder)
    : await parallelizeDecoder({ first: firstStep, next: model }, ofDecoder);
  if (!readsEncoder(decoder)) return new LoadedFolder(folder, decoder, undefined);
  if (encoderPath === undefined) {
    await decoder[Symbol.asyncDispose]();
    throw new InputError(`Cannot generate with ${model} alone: it reads what an encoder gives`, {
      hint: "keep encoder_model.onnx beside it",
    });
  }
  const ofEncoder = {
    ...options,
    config: withoutPlan(options.config ?? {}),
    beside: graphsBeside(encoderPath),
  };
  return new LoadedFolder(folder, decoder, await parallelizeModel(encoderPath, ofEncoder));
}
