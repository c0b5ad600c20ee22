/** Generation by an encoder and a decoder: T5, BART, Whisper. */
import { InputError } from "../core/errors.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import type { CausalModel } from "./causal_model.ts";
import type { FeedInput } from "./feeds.ts";

/** What is encoded: token ids, or the encoder's own inputs by name (an audio model's `input_features`), with one row. */
export type EncoderPrompt = readonly number[] | Readonly<Record<string, HostTensor>>;

/** What encoding needs of a model; a parallel model fits. */
export interface Encoder {
  /** By which it is told how to feed ids. */
  readonly inputs: readonly FeedInput[];
  /** Runs once on all inputs. */
  readonly run: (inputs: Record<string, HostTensor>) => Promise<Record<string, HostTensor>>;
}

/** By what name an encoder's result may go, and by what name decoders take it. */
const HIDDEN = { outputs: ["last_hidden_state", "encoder_hidden_states"], input: "encoder_hidden_states" } as const;
const MASK = "encoder_attention_mask";

/**
 * What `decoder` takes of the encoded prompts at every step, by name: `encoder_hidden_states` `[rows, sequence, width]` and
 * `encoder_attention_mask` `[rows, sequence]`. Prompts of token ids may differ in length; shorter ones are padded on the
 * right with `padId`.
 *
 * @throws {InputError} If the encoder takes something else, or gives no hidden states.
 */
export async function encode(
  encoder: Encoder,
  prompts: readonly EncoderPrompt[],
  { padId = 0 }: { readonly padId?: number } = {},
): Promise<Record<string, HostTensor>> {
  const inputs = prompts.every(isIds) ? idInputs(encoder.inputs, prompts, padId) : tensorInputs(prompts);
  const outputs = await encoder.run(inputs);
  const name = HIDDEN.outputs.find((n) => Object.hasOwn(outputs, n));
  if (name === undefined) {
    throw new InputError(
      `Cannot decode what the encoder gives: it has no output "last_hidden_state", only ${
        Object.keys(outputs).slice(0, 4).join(", ")
      }`,
    );
  }
  const mask = inputs.attention_mask ?? inputs.encoder_attention_mask;
  const hidden = outputs[name]!;
  return { [HIDDEN.input]: hidden, [MASK]: mask ?? ones(hidden.shape.slice(0, 2)) };
}

/** Whether the decoder reads what an encoder gives. */
export function readsEncoder<S>(decoder: CausalModel<S>): boolean {
  return [decoder, decoder.first].some((step) => step?.stepInputs.some(({ name }) => name === HIDDEN.input));
}

function isIds(prompt: EncoderPrompt): prompt is readonly number[] {
  return Array.isArray(prompt);
}

function idInputs(
  inputs: readonly FeedInput[],
  prompts: readonly (readonly number[])[],
  padId: number,
): Record<string, HostTensor> {
  const length = Math.max(...prompts.map((p) => p.length));
  if (prompts.length === 0 || prompts.some((p) => p.length === 0)) {
    throw new InputError("Cannot generate from an empty prompt", { hint: "give at least one token" });
  }
  const shape = [prompts.length, length];
  const fill = (value: (prompt: readonly number[], i: number) => number): HostTensor => ({
    dtype: "i64",
    shape,
    data: BigInt64Array.from(prompts.flatMap((p) => Array.from({ length }, (_, i) => BigInt(value(p, i))))),
  });
  return Object.fromEntries(inputs.map(({ name }) => {
    if (name === "input_ids") return [name, fill((p, i) => p[i] ?? padId)];
    if (name === "attention_mask") return [name, fill((p, i) => Number(i < p.length))];
    throw new InputError(`Cannot encode token ids: nobody says what the encoder's input "${name}" holds`, {
      hint: "give the encoder's inputs as tensors, by name: --inputs FILE",
    });
  }));
}

function tensorInputs(prompts: readonly EncoderPrompt[]): Record<string, HostTensor> {
  const [prompt] = prompts;
  if (prompts.length !== 1 || prompt === undefined || isIds(prompt)) {
    throw new InputError("Cannot encode several prompts of tensors at once", {
      hint: "generate from one after the other",
    });
  }
  return { ...prompt };
}

function ones(shape: readonly number[]): HostTensor {
  return { dtype: "i64", shape, data: new BigInt64Array(shape.reduce((a, b) => a * b, 1)).fill(1n) };
}
