/**
 * Sequences that grow token by token: what greedy search, sampling and beam search drive.
 *
 * A model that carries a cache sees the prompts once and then one token a step; one that does not sees whole sequences at
 * every step. A model whose first step is another graph (a merged decoder, one in two files) begins with that.
 */
import type { Dim } from "../core/dim.ts";
import { InputError } from "../core/errors.ts";
import { type HostTensor, toNumbers } from "../core/host_tensor.ts";
import type { Picking } from "../runtime/executor.ts";
import type { CausalModel, DecoderStep } from "./causal_model.ts";
import { CausalFeeds } from "./feeds.ts";
import type { Candidates, Logits } from "./sampler.ts";

/** How sequences are decoded. */
export interface DecodingOptions {
  /** How many tokens will be added to the prompts at most. */
  readonly maxNewTokens: number;
  /** Which logits of the next step are wanted, where the model can tell them apart; asked before each step. Default all. */
  readonly picking?: (() => Picking | undefined) | undefined;
  /** The id in padded columns, which the mask hides. Default 0. */
  readonly padId?: number | undefined;
  /** Tensors that are the same at every step, by name of the input, with a row for each prompt: what an encoder gave. */
  readonly given?: Readonly<Record<string, HostTensor>> | undefined;
}

/** Some sequences, and the model's state for them. */
export class Decoding<S> implements Disposable {
  readonly #model: CausalModel<S>;
  readonly #logits: string;
  readonly #picking: (() => Picking | undefined) | undefined;
  /** What made the last step. */
  #last: DecoderStep<S> | undefined;
  readonly #state: S | undefined;
  readonly #first: CausalFeeds | undefined;
  readonly #feeds: CausalFeeds;
  /** By row, padded on the left to one length. */
  #sequences: number[][];
  #past = 0;

  /** @throws {InputError} If a prompt is empty, or the model has no logits or inputs that nobody knows how to fill. */
  constructor(
    model: CausalModel<S>,
    prompts: readonly (readonly number[])[],
    { maxNewTokens, padId = 0, given = {}, picking }: DecodingOptions,
  ) {
    if (prompts.length === 0 || prompts.some((p) => p.length === 0)) {
      throw new InputError("Cannot generate from an empty prompt", { hint: "give at least one token" });
    }
    this.#model = model;
    this.#picking = picking;
    this.#logits = logitsName(model.outputs.map(({ name }) => name));
    const vocabulary = model.outputs.find(({ name }) => name === this.#logits)?.type?.shape?.at(-1);
    for (const prompt of prompts) checkVocabulary(prompt, vocabulary);
    const longest = Math.max(...prompts.map((p) => p.length));
    const pads = prompts.map((p) => longest - p.length);
    const options = { capacity: longest + maxNewTokens, pads, given };
    this.#first = model.first && new CausalFeeds(model.first.stepInputs, options);
    this.#feeds = new CausalFeeds(model.stepInputs, options);
    this.#sequences = prompts.map((p, i) => [...new Array<number>(pads[i]!).fill(padId), ...p]);
    if (pads.some((pad) => pad > 0)) this.#requireMask();
    this.#state = model.carried.length > 0
      ? model.start(prompts.length, { capacity: longest + maxNewTokens })
      : undefined;
  }

  /** The logits after all prompts, by row; views that the next step overwrites. */
  async begin(): Promise<Logits[]> {
    return await this.#run(this.#sequences);
  }

  /** The logits after one more token of every row. */
  async next(ids: readonly number[]): Promise<Logits[]> {
    this.#sequences.forEach((s, i) => s.push(ids[i]!));
    return await this.#run(this.#state === undefined ? this.#sequences : ids.map((id) => [id]));
  }

  /** All logits of row `row` after the last step, of which it gave only some. */
  whole(row: number): ArrayLike<number> {
    const logits = this.#last?.wholeOutput?.(this.#logits);
    if (!logits) throw new Error("unreachable: a model that gives some logits can give all");
    return lastRows(logits)[row]!;
  }

  /** Makes row i what row `rows[i]` was; all rows must have had the same prompt. */
  reorder(rows: readonly number[]): void {
    if (rows.every((row, i) => row === i)) return;
    this.#sequences = rows.map((row) => [...this.#sequences[row]!]);
    if (this.#state !== undefined) this.#model.reorder(this.#state, rows, { oneSource: true });
  }

  /** Gives the state's memory back, where it lies on a GPU: the next text takes it. */
  [Symbol.dispose](): void {
    (this.#state as Partial<Disposable> | undefined)?.[Symbol.dispose]?.();
  }

  async #run(now: readonly (readonly number[])[]): Promise<Logits[]> {
    const state = this.#state, isFirst = this.#past === 0 && this.#first !== undefined;
    const inputs = (isFirst ? this.#first! : this.#feeds).at(this.#past, now);
    const picking = this.#picking?.(), top = picking && { ...picking, output: this.#logits };
    this.#last = isFirst ? this.#model.first! : this.#model;
    const outputs = state === undefined ? await this.#model.run(inputs) : await this.#last.step(inputs, state, { top });
    if (state !== undefined) this.#past += now[0]!.length;
    const values = outputs[`${this.#logits}.values`], ids = outputs[`${this.#logits}.ids`];
    return values && ids ? candidates(values, ids, outputs[`${this.#logits}.sums`]) : lastRows(outputs[this.#logits]!);
  }

  /** Padding without a mask would be read as tokens. */
  #requireMask(): void {
    const inputs = [...this.#model.stepInputs, ...this.#model.first?.stepInputs ?? []];
    if (inputs.some(({ name }) => name === "attention_mask" || name === "decoder_attention_mask")) return;
    throw new InputError("Cannot generate from prompts of different lengths: the model has no attention_mask", {
      hint: "give prompts of one length, or one at a time",
    });
  }
}

/** The rows of `[rows, count]` tensors of values and ids. */
function candidates(values: HostTensor, ids: HostTensor, sums: HostTensor | undefined): Candidates[] {
  const [rows, count] = values.shape as [number, number];
  return Array.from({ length: rows }, (_, i) => ({
    values: toNumbers({ ...values, shape: [count], data: values.data.subarray(i * count, (i + 1) * count) }),
    ids: toNumbers({ ...ids, shape: [count], data: ids.data.subarray(i * count, (i + 1) * count) }),
    ...(sums ? { sum: Number(sums.data[i]) } : {}),
  }));
}

/** The logits of the last position of every row: `[rows, sequence, vocabulary]` → rows of `[vocabulary]`; views for float32. */
export function lastRows({ dtype, shape, data }: HostTensor): ArrayLike<number>[] {
  const vocabulary = shape.at(-1) ?? 0, rows = shape.length === 3 ? shape[0]! : 1;
  const stride = data.length / rows;
  if (shape.length < 2 || data.length === 0 || vocabulary === 0 || stride < vocabulary) {
    throw new InputError(`Cannot pick a token from logits of shape [${shape}]: expected [rows, sequence, vocabulary]`);
  }
  return Array.from({ length: rows }, (_, i) =>
    toNumbers({
      dtype,
      shape: [vocabulary],
      data: data.subarray((i + 1) * stride - vocabulary, (i + 1) * stride),
    }));
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
