/** The loop of text generation: feed, pick, feed what was picked. */
import type { HostTensor } from "../core/host_tensor.ts";
import type { Picking } from "../runtime/executor.ts";
import type { CausalModel } from "./causal_model.ts";
import { Decoding } from "./decoding.ts";
import { Sampler, type SamplingOptions } from "./sampler.ts";

/** How to go on, and when to stop. */
export interface GenerateOptions {
  /** Picks a token from logits. */
  readonly sampler: Sampler;
  /** The text ends here at the latest. */
  readonly maxNewTokens: number;
  /** Ids that end the text; such an id is given, and is the last one. Default none. */
  readonly endIds?: readonly number[] | undefined;
  /** Tensors that are the same at every step, by name of the input: what an encoder gave. */
  readonly given?: Readonly<Record<string, HostTensor>> | undefined;
}

/**
 * The new tokens after `prompt`, one at a time. Every rank of the model must take them all in step.
 *
 * A model that carries a cache sees the prompt once and then one token a step; one that does not sees the whole sequence at every
 * step. Leaving the loop early (`break`) is safe when all ranks do so at the same token.
 *
 * @throws {InputError} If the prompt is empty, or the model has no logits or inputs that nobody knows how to fill.
 */
export async function* generate<S>(
  model: CausalModel<S>,
  prompt: readonly number[],
  { sampler, maxNewTokens, endIds = [], given }: GenerateOptions,
): AsyncGenerator<number, void, void> {
  const seen = new Set(prompt);
  using decoding = new Decoding(model, [prompt], { maxNewTokens, given, picking: () => pickingOf([sampler], [seen]) });
  for (let made = 0, last = -1; made < maxNewTokens; made++) {
    const [logits] = made === 0 ? await decoding.begin() : await decoding.next([last]);
    last = sampler.pick(sampler.suffices(logits!, seen) ? logits! : decoding.whole(0), seen);
    yield last;
    if (endIds.includes(last)) return;
    seen.add(last);
  }
}

/** Which logits samplers of equal options want of the next step, by row; undefined where that is all of them. */
function pickingOf(samplers: readonly Sampler[], seen: readonly Iterable<number>[]): Picking | undefined {
  const wants = samplers[0]?.wants;
  if (!wants) return undefined;
  const { penalty, draws, ...picking } = wants;
  return {
    ...picking,
    ...(draws ? { draws: samplers.map((s) => s.nextNumber) } : {}),
    ...(penalty === undefined ? {} : { penalty: { factor: penalty, seen } }),
  };
}

/** How several texts go on. */
export interface GenerateBatchOptions extends Omit<GenerateOptions, "sampler"> {
  /** How to pick; every text has random numbers of its own, from the same seed. */
  readonly sampling?: SamplingOptions | undefined;
  /** Whether the text of a prompt ends with the token that it just got, beside `endIds`: a stop string, say. */
  readonly ends?: ((prompt: number, id: number) => boolean) | undefined;
  /** The id that fills shorter prompts and ended texts; the mask hides it. Default 0. */
  readonly padId?: number | undefined;
}

/**
 * The new tokens after each of `prompts`, one step at a time: by prompt, its next token, or undefined when it has ended.
 * The ids are those that each prompt alone gives. Ends when all have.
 *
 * Prompts of different lengths are padded on the left, so the model needs an attention mask.
 *
 * @throws {InputError} As {@linkcode generate} does, and if padding is needed but there is no mask.
 */
export async function* generateBatch<S>(
  model: CausalModel<S>,
  prompts: readonly (readonly number[])[],
  { sampling, maxNewTokens, endIds = [], given, padId = 0, ends }: GenerateBatchOptions,
): AsyncGenerator<(number | undefined)[], void, void> {
  const samplers = prompts.map(() => new Sampler(sampling));
  const seen = prompts.map((prompt) => new Set(prompt));
  using decoding = new Decoding(model, prompts, {
    maxNewTokens,
    given,
    padId,
    picking: () => pickingOf(samplers, seen),
  });
  const ended = prompts.map(() => false);
  let ids: readonly (number | undefined)[] = [];
  for (let made = 0; made < maxNewTokens && ended.includes(false); made++) {
    const logits = made === 0 ? await decoding.begin() : await decoding.next(ids.map((id) => id ?? padId));
    const picked = logits.map((row, i) => {
      if (ended[i]) return undefined;
      return samplers[i]!.pick(samplers[i]!.suffices(row, seen[i]) ? row : decoding.whole(i), seen[i]);
    });
    ids = picked;
    picked.forEach((id, i) => {
      if (id === undefined) return;
      seen[i]!.add(id);
      if (endIds.includes(id) || ends?.(i, id)) ended[i] = true;
    });
    yield picked;
  }
}

/**
 * What several generators give, a step at a time: one value of each in turn, undefined of those that have ended. Ends when all
 * have. For texts that cannot be one batch: each is still there as soon as it is made.
 */
export async function* inTurn<T>(
  generators: readonly AsyncGenerator<T, void, void>[],
): AsyncGenerator<(T | undefined)[], void, void> {
  for (;;) {
    const step: IteratorResult<T, void>[] = [];
    for (const generator of generators) step.push(await generator.next());
    if (step.every(({ done }) => done)) return;
    yield step.map(({ done, value }) => done ? undefined : value as T);
  }
}
