/**
 * A model as the Hugging Face hub stores it: the graph, and beside it the tokenizer, the chat template and how to generate.
 *
 * Also a bare `.onnx` file, with whatever of these lies in its folder.
 */
import { basename, dirname, join } from "node:path";
import { FormatError, UsageError } from "../core/errors.ts";
import { isFile, isFolder } from "../core/paths.ts";
import { fileSize } from "../formats/mapped_file.ts";
import { type ChatMessage, findChatTemplate, renderChat, specialTokensOf } from "./chat_template.ts";
import { parseTokenizer, type Tokenizer } from "./tokenizer.ts";

/** Where the graph may lie in a folder (or its folder `onnx`), likeliest first. */
const GRAPHS = ["model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx"] as const;
/** The first step of a decoder in two files, whose later steps are `decoder_with_past_model.onnx`. */
const FIRST_STEP = "decoder_model.onnx";
const ENCODER = "encoder_model.onnx";
/** The folder of the encoder's parts in the folder of a model in parts. */
export const PARTS_OF_ENCODER = "encoder";
/** Names under which configurations of various families keep the longest sequence. */
const CONTEXT_LENGTHS = ["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"] as const;

/** By what people know the model at `path`: its folder's name, or that of a file that has one of its own. */
export function modelName(path: string): string {
  const folders = path.split("/").filter((part) => part !== "" && part !== "." && part !== "onnx");
  const last = folders.at(-1) ?? path;
  return (GRAPHS as readonly string[]).includes(last) ? folders.at(-2) ?? last : last.replace(/\.onnx$/, "");
}

/** Files of the other graphs of the model that has its graph at `file`: of an encoder its decoder, of a decoder its encoder and first step. */
export function graphsBeside(file: string): string[] {
  const names = [ENCODER, FIRST_STEP, ...GRAPHS.slice(1)], own = basename(file);
  if (!names.includes(own)) return [];
  return names.filter((name) => name !== own).map((name) => join(dirname(file), name)).filter(isFile);
}

/** The files of one model. Nothing is read before it is asked for. */
export class ModelFolder {
  /**
   * Path of the graph; of an encoder-decoder, the decoder's; of a decoder in two files, that of the later steps; of a model in
   * parts, of the folder.
   */
  readonly model: string;
  /** The folder of tokenizer and configurations. */
  readonly folder: string;

  private constructor(model: string, folder: string) {
    this.model = model;
    this.folder = folder;
  }

  /**
   * The model at `path`: a folder, an `.onnx` file, or the folder of a model that was split into parts.
   *
   * @throws {FormatError} If there is nothing, or a folder without a graph or with several that might be meant.
   */
  static open(path: string): ModelFolder {
    if (!isFolder(path)) {
      fileSize(path);
      const folder = dirname(path);
      return new ModelFolder(
        path,
        basename(folder) === "onnx" && !isFile(join(folder, "config.json")) ? dirname(folder) : folder,
      );
    }
    if (isParts(path)) return new ModelFolder(path, path);
    const places = GRAPHS.flatMap((name) => [join(path, name), join(path, "onnx", name)]);
    const known = places.find((file) =>
      isFile(file) && (basename(file) !== GRAPHS[2] || isFile(join(dirname(file), FIRST_STEP)))
    );
    if (known !== undefined) return new ModelFolder(known, path);
    const graphs = ["", "onnx"].flatMap((sub) => onnxFiles(join(path, sub)).map((name) => join(sub, name)));
    if (graphs.length === 1) return new ModelFolder(join(path, graphs[0]!), path);
    throw new FormatError(
      graphs.length === 0
        ? `Cannot find a model in ${path}: the folder holds no .onnx file`
        : `Cannot tell which model of ${path} is meant: it holds ${graphs.slice(0, 6).join(", ")}`,
      { hint: "name the .onnx file itself" },
    );
  }

  /** Path of the first step's graph, where the decoder comes in two files. */
  get firstStep(): string | undefined {
    return basename(this.model) === GRAPHS[2] ? this.#beside(FIRST_STEP) : undefined;
  }

  /** Path of the encoder's graph, or of the folder of its parts, where the model is a decoder with an encoder beside it. */
  get encoder(): string | undefined {
    if (isParts(this.model)) {
      const folder = join(this.model, PARTS_OF_ENCODER);
      return isParts(folder) ? folder : undefined;
    }
    return basename(this.model).startsWith("decoder_") ? this.#beside(ENCODER) : undefined;
  }

  #beside(name: string): string | undefined {
    const file = join(dirname(this.model), name);
    return isFile(file) ? file : undefined;
  }

  /**
   * The ids that an encoder-decoder's decoder starts from: `decoder_start_token_id`, and `forced_bos_token_id` where there is
   * one; empty if the folder does not say.
   */
  get decoderPrompt(): readonly number[] {
    return ["decoder_start_token_id", "forced_bos_token_id"].flatMap((key) => this.#id(key) ?? []);
  }

  /** The id that pads shorter prompts; 0 if the folder does not say. */
  get padId(): number {
    return this.#id("pad_token_id") ?? 0;
  }

  /** The id under `key` of generation_config.json, else of config.json. */
  #id(key: string): number | undefined {
    const values = ["generation_config.json", "config.json"].map((file) => this.#json(file)?.[key]);
    return values.find((id): id is number => Number.isInteger(id));
  }

  /**
   * The tokenizer at `path`, or else in the folder.
   *
   * @throws {UsageError} If there is none. @throws {FormatError} If it cannot be read.
   */
  tokenizer(path?: string): Tokenizer {
    const file = path ?? join(this.folder, "tokenizer.json");
    if (path === undefined && !isFile(file)) {
      throw new UsageError(`Cannot turn text into tokens: there is no tokenizer.json in ${this.folder}`, {
        hint: "pass --tokenizer tokenizer.json, or token ids with --prompt-ids",
      });
    }
    fileSize(file);
    const beside = join(dirname(file), "tokenizer_config.json");
    return parseTokenizer(readJson(file), isFile(beside) ? readJson(beside) : undefined, file);
  }

  /** Whether {@linkcode tokenizer} finds one in the folder. */
  get hasTokenizer(): boolean {
    return isFile(join(this.folder, "tokenizer.json"));
  }

  /**
   * The text of a chat, by the folder's template.
   *
   * @throws {UsageError} If there is no template.
   */
  chat(messages: readonly ChatMessage[]): string {
    const file = join(this.folder, "chat_template.jinja");
    const config = this.#json("tokenizer_config.json");
    const template = findChatTemplate(isFile(file) ? Deno.readTextFileSync(file) : undefined, config);
    if (template === undefined) {
      throw new UsageError(`Cannot write a chat for this model: ${this.folder} has no chat template`, {
        hint: "it may be no chat model: use --prompt; or add chat_template.jinja to the folder",
      });
    }
    return renderChat(template, messages, { specialTokens: specialTokensOf(config) });
  }

  /** The ids that end a text: `eos_token_id` of generation_config.json, else of config.json. */
  get endIds(): readonly number[] {
    for (const file of ["generation_config.json", "config.json"]) {
      const ids = [this.#json(file)?.eos_token_id].flat().filter((id): id is number => Number.isInteger(id));
      if (ids.length > 0) return ids;
    }
    return [];
  }

  /** How generation_config.json would sample, where it would: what its authors found to read best. */
  get sampling(): { readonly temperature: number; readonly topK?: number; readonly topP?: number } | undefined {
    const config = this.#json("generation_config.json");
    if (config?.do_sample !== true) return undefined;
    const number = (key: string) => (typeof config[key] === "number" ? config[key] : undefined);
    const topK = number("top_k"), topP = number("top_p");
    return {
      temperature: number("temperature") ?? 1,
      ...(topK === undefined ? {} : { topK }),
      ...(topP === undefined ? {} : { topP }),
    };
  }

  /** The classes of the model in config.json: `LlamaForCausalLM`; none if the folder does not say. */
  get architectures(): readonly string[] {
    return [this.#json("config.json")?.architectures].flat().filter((name) => typeof name === "string");
  }

  /** The longest sequence that the model was made for; undefined if the folder does not say. */
  get contextLength(): number | undefined {
    const config = this.#json("config.json");
    const found = CONTEXT_LENGTHS.map((name) => config?.[name]).filter((n) => typeof n === "number" && n > 0);
    return found.length > 0 ? Math.min(...found as number[]) : undefined;
  }

  #json(name: string): Record<string, unknown> | undefined {
    const file = join(this.folder, name);
    return isFile(file) ? readJson(file) : undefined;
  }
}

function readJson(file: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(Deno.readTextFileSync(file));
    if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  } catch (cause) {
    throw new FormatError(`Cannot read ${file}: it is not valid JSON`, { cause });
  }
  throw new FormatError(`Cannot read ${file}: it holds no JSON object`);
}

function onnxFiles(folder: string): string[] {
  if (!isFolder(folder)) return [];
  return Array.from(Deno.readDirSync(folder), ({ name }) => name).filter((name) => name.endsWith(".onnx")).sort();
}

/** Whether the folder holds a model in parts. */
function isParts(folder: string): boolean {
  return isFile(join(folder, "plan.json")) && isFile(join(folder, "rank0.onnx"));
}
