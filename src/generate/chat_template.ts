/** Puts a chat into the text that a model was trained on, by the Jinja template that comes with it (library @huggingface/jinja). */
import { Template } from "@huggingface/jinja";
import { FormatError } from "../core/errors.ts";

/** One message of a chat. */
export interface ChatMessage {
  /** Who says it. */
  readonly role: "system" | "user" | "assistant";
  /** What is said. */
  readonly content: string;
}

/** What a template may name beside the messages. */
export interface ChatTemplateOptions {
  /** Adds what stands before the model's answer. Default true. */
  readonly addGenerationPrompt?: boolean;
  /** Special tokens by the names that templates use: `bos_token`, `eos_token`, … */
  readonly specialTokens?: Readonly<Record<string, string>>;
}

/**
 * The text of `messages`.
 *
 * @throws {FormatError} If the template is malformed, or refuses the messages (some accept no system message).
 */
export function renderChat(
  template: string,
  messages: readonly ChatMessage[],
  { addGenerationPrompt = true, specialTokens = {} }: ChatTemplateOptions = {},
): string {
  try {
    return new Template(template).render({
      ...specialTokens,
      messages,
      add_generation_prompt: addGenerationPrompt,
    });
  } catch (cause) {
    throw new FormatError("Cannot apply the chat template to the messages", {
      cause,
      hint: "write the prompt out with --prompt, special tokens included",
    });
  }
}

/**
 * The chat template among a model folder's files: `chat_template.jinja`, or `chat_template` in the tokenizer's configuration (a string,
 * or named ones, of which `default` counts).
 */
export function findChatTemplate(jinja: string | undefined, tokenizerConfig: unknown): string | undefined {
  if (jinja !== undefined) return jinja;
  const found = (tokenizerConfig as { chat_template?: unknown } | undefined)?.chat_template;
  if (typeof found === "string") return found;
  if (!Array.isArray(found)) return undefined;
  const named = found.find((entry) => entry?.name === "default") ?? found[0];
  return typeof named?.template === "string" ? named.template : undefined;
}

/** The special tokens of a tokenizer's configuration, by the names that templates use. */
export function specialTokensOf(tokenizerConfig: unknown): Record<string, string> {
  const tokens: Record<string, string> = {};
  for (const [name, value] of Object.entries(tokenizerConfig ?? {})) {
    if (!name.endsWith("_token")) continue;
    const content = typeof value === "string" ? value : (value as { content?: unknown } | null)?.content;
    if (typeof content === "string") tokens[name] = content;
  }
  return tokens;
}
