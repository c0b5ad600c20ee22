/** The loop of text generation: feed, pick, feed what was picked. */
import type { Dim } from "../core/dim.ts";
import { InputError } from "../core/errors.ts";
import { type HostTensor, toNumbers } from "../core/host_tensor.ts";
import type { Shape } from "../graph/types.ts";
import { CausalFeeds, type FeedInput } from "./feeds.ts";
import type { Sampler } from "./sampler.ts";

/** What the loop needs of a model; a parallel model fits. `S` is the state that it carries from step to step. */
export interface CausalModel<S> {
  /** All inputs, carried ones included. */
  readonly inputs: readonly FeedInput[];
  /** Must include `logits`. */
  readonly outputs: readonly { readonly name: string; readonly type?: { readonly shape: Shape | undefined } }[];
  /** The carried inputs (the KV cache) and the outputs that become them; empty for a model without a cache. */
  readonly carried: readonly { readonly input: string; readonly output?: string }[];
  /** Runs once on all inputs. */
  readonly run: (inputs: Record<string, HostTensor>) => Promise<Record<string, HostTensor>>;
  /** An empty state for `batch` sequences. */
  readonly start: (batch: number) => S;
  /** Runs on the inputs that are not carried, and moves `state` on. */
  readonly step: (inputs: Record<string, HostTensor>, state: S) => Promise<Record<string, HostTensor>>;
}

/** How to go on, and when to stop. */
export interface GenerateOptions {
  /** Picks a token from logits. */
  readonly sampler: Sampler;
  /** The text ends here at the latest. */
  readonly maxNewTokens: number;
  /** Ids that end the text; such an id is given, and is the last one. Default none. */
  readonly endIds?: readonly number[] | undefined;
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
  { sampler, maxNewTokens, endIds = [] }: GenerateOptions,
): AsyncGenerator<number, void, void> {
  if (prompt.length === 0) {
    throw new InputError("Cannot generate from an empty prompt", { hint: "give at least one token" });
  }
  const logits = logitsName(model.outputs.map(({ name }) => name));
  checkVocabulary(prompt, model.outputs.find(({ name }) => name === logits)?.type?.shape?.at(-1));
  const carriedInputs = new Set(model.carried.map(({ input }) => input));
  const own = model.inputs.filter(({ name }) => !carriedInputs.has(name));
  const feeds = new CausalFeeds(own, prompt.length + maxNewTokens);
  const cached = model.carried.length > 0;
  const state = cached ? model.start(1) : undefined;
  const all = [...prompt];
  let past = 0;
  let now: readonly number[] = prompt;
  for (let made = 0; made < maxNewTokens; made++) {
    const inputs = feeds.at(past, now);
    const outputs = state === undefined ? await model.run(inputs) : await model.step(inputs, state);
    const id = sampler.pick(lastRow(outputs[logits]!));
    yield id;
    if (endIds.includes(id)) return;
    if (cached) {
      past += now.length;
      now = [id];
    } else {
      all.push(id);
      now = all;
    }
  }
}

/** The logits of the last position: `[1, sequence, vocabulary]` → `[vocabulary]`; a view for float32. */
export function lastRow(logits: HostTensor): ArrayLike<number> {
  const { dtype, shape, data } = logits;
  const vocabulary = shape.at(-1) ?? 0;
  if (shape.length < 2 || data.length < vocabulary || vocabulary === 0) {
    throw new InputError(`Cannot pick a token from logits of shape [${shape}]: expected [1, sequence, vocabulary]`);
  }
  return toNumbers({ dtype, shape: [vocabulary], data: data.subarray(data.length - vocabulary) });
}

/** An id beyond the vocabulary would not fail in a split embedding: no rank has its row, and their sum is zero. */
function checkVocabulary(prompt: readonly number[], vocabulary: Dim | undefined): void {
  const wrong = typeof vocabulary === "number" ? prompt.find((id) => id < 0 || id >= vocabulary) : undefined;
  if (wrong === undefined) return;
  throw new InputError(`Cannot generate from token ${wrong}: the model's vocabulary has ${vocabulary} tokens`, {
    hint: `give ids from 0 to ${Number(vocabulary) - 1}`,
  });
}

function logitsName(outputs: readonly string[]): string {
  if (outputs.includes("logits")) return "logits";
  throw new InputError(
    `Cannot generate with this model: it has no output "logits", only ${outputs.slice(0, 4).join(", ")}`,
    {
      hint: "export the model for text generation (with a language modelling head), or use `run`",
    },
  );
}
