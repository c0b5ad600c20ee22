/** Text to token ids and back, by the library @huggingface/tokenizers, with errors that name the file. */
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { FormatError, InputError } from "../core/errors.ts";

/** What generation needs of a tokenizer. */
export interface Tokenizer {
  /** The ids of `text`; with the special tokens that the model wants around a text (`<s>`), unless that is refused. */
  readonly encode: (text: string, options?: { readonly addSpecialTokens?: boolean }) => number[];
  /** The text of `ids`, without special tokens. An incomplete UTF-8 character at the end becomes U+FFFD. */
  readonly decode: (ids: readonly number[]) => string;
  /** The id of a token as the vocabulary spells it, such as `<|im_end|>`. */
  readonly tokenId: (token: string) => number | undefined;
}

/**
 * A tokenizer from the contents of `tokenizer.json` and, if there is one, `tokenizer_config.json`.
 *
 * @param name What errors call it: the path of the file.
 * @throws {FormatError} If the contents are no tokenizer that the library knows.
 */
export function parseTokenizer(json: unknown, config: unknown, name: string): Tokenizer {
  if (!isObject(json) || !isObject(json.model)) {
    throw new FormatError(`Cannot read the tokenizer ${name}: it has no "model"`, {
      hint: "give the tokenizer.json that lies beside the model, in the format of Hugging Face's tokenizers",
    });
  }
  let library: HuggingFaceTokenizer;
  try {
    library = new HuggingFaceTokenizer(json, isObject(config) ? config : {});
  } catch (cause) {
    throw new FormatError(`Cannot read the tokenizer ${name}: the library does not know it`, {
      cause,
      hint: "give token ids with --prompt-ids instead",
    });
  }
  return {
    encode(text, { addSpecialTokens = true } = {}) {
      const { ids } = library.encode(text, { add_special_tokens: addSpecialTokens });
      if (ids.some((id) => id === undefined)) {
        throw new InputError(`Cannot tokenize ${JSON.stringify(excerpt(text))}: ${name} has no token for a part of it`);
      }
      return ids;
    },
    decode: (ids) => library.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false }),
    tokenId: (token) => library.token_to_id(token),
  };
}

function excerpt(text: string): string {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
