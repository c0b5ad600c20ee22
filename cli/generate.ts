/** `shardwise generate`: continues a prompt, token by token, with the KV cache split over the ranks. */
import { join } from "node:path";
import { fileSize } from "../src/formats/mapped_file.ts";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { Sampler, type SamplingOptions } from "../src/generate/sampler.ts";
import { meshSize, printMesh } from "../src/plan/mesh.ts";
import type { Tokenizer } from "../src/generate/tokenizer.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { DEVICE_OPTIONS, type GenerateJob, type GenerateReport, jobDevice, NPROC, ranksOf, startJob } from "./job.ts";
import { checkPlanFile, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { printNote } from "./print.ts";

const DEFAULT_NEW_TOKENS = 128;
/** Architectures, as config.json names them, that give something else than a next token. */
const NO_TEXT = /For(MaskedLM|PreTraining|\w*Classification|QuestionAnswering|MultipleChoice|ObjectDetection)$/;

/** The command. */
export const generate: Command = {
  name: "generate",
  summary: "continue a prompt or answer a question, streaming",
  usage: "MODEL (--chat TEXT | --prompt TEXT | --prompt-ids IDS | --inputs FILE) [--nproc N] [OPTIONS]",
  description:
    "MODEL is a model folder as the Hugging Face hub has them (the graph, tokenizer.json, chat template, config.json,\n" +
    "generation_config.json), or an .onnx file. A folder with encoder_model.onnx and a decoder (merged, or in two files) is an\n" +
    "encoder-decoder: the prompt goes to the encoder. One text streams to stdout as it comes; several are printed when they\n" +
    "are complete, a line of ids or a paragraph each. The time to the first token and tokens/s follow on stderr. A chat or\n" +
    "text ends at the model's end-of-text token; --prompt-ids does not, unless --eos says so. Without --temperature the\n" +
    "likeliest token is taken at each step. The same seed gives the same text at any N (as long as rounding does not decide).",
  options: {
    nproc: NPROC,
    mesh: {
      value: "dp=D,tp=T",
      help: "D groups of T ranks, instead of --nproc: groups share the prompts, of which there are at least D",
    },
    chat: { value: "TEXT", help: "a question, put into the model's chat template; - reads it from stdin" },
    system: { value: "TEXT", help: "the system message before --chat; default: what the template says" },
    prompt: {
      value: "TEXT",
      many: true,
      help: "text to continue; - reads it from stdin; repeated, the texts grow side by side",
    },
    "prompt-ids": {
      value: "1,2;3",
      help: "token ids to continue, several prompts by ;; prints ids, unless --tokenizer is given",
    },
    inputs: { value: "FILE", help: "the encoder's inputs (.safetensors, .npz): audio features, say" },
    "decoder-ids": { value: "IDS", help: "ids that an encoder-decoder's text begins with; default: the model's own" },
    "max-new-tokens": { short: "m", value: "K", help: `stop after K tokens; default ${DEFAULT_NEW_TOKENS}` },
    tokenizer: { value: "FILE", help: "tokenizer.json; default: the one in MODEL's folder" },
    temperature: { value: "X", help: "sample at this temperature; 0 takes the likeliest token (default)" },
    "top-k": { value: "K", help: "sample among the K likeliest tokens; 0 is all (default)" },
    "top-p": { value: "P", help: "sample among the likeliest tokens that together have probability P; default 1" },
    "min-p": {
      value: "P",
      help: "sample among tokens at least P times as likely as the likeliest; 0 is all (default)",
    },
    seed: { value: "N", help: "start of the random numbers; default 0" },
    "repetition-penalty": { value: "X", help: "above 1, make tokens less likely that have occurred; default 1" },
    "num-beams": { value: "B", help: "beam search: keep the B likeliest beginnings, print the best text; default 1" },
    "length-penalty": { value: "X", help: "of beams: above 0 favours long texts, below 0 short ones; default 1" },
    "early-stopping": { value: "WHEN", help: "of beams, when B texts have ended: true, false (default) or never" },
    stop: { value: "TEXT", many: true, help: "end before this text; may be repeated" },
    eos: { value: "IDS", help: "ids that end the text, instead of the model's own" },
    "ignore-eos": { help: "go on at the model's end-of-text token" },
    ids: { help: "print token ids instead of text" },
    echo: { help: "print the prompt before its continuation" },
    ...DEVICE_OPTIONS,
    ...PLAN_OPTIONS,
  },
  examples: [
    'shardwise generate smollm2/ --nproc 2 --chat "What is the capital of France?"',
    'shardwise generate model.onnx --prompt "Once upon" --tokenizer tokenizer.json --temperature 0.8 --top-p 0.9 --seed 1',
    "shardwise generate smollm2/ --mesh dp=2,tp=2 --prompt 'Once upon' --prompt 'In the beginning'",
    "shardwise generate model.onnx --nproc 3 --prompt-ids 24,79,85 --max-new-tokens 24",
    'shardwise generate t5-small/ --nproc 2 --prompt "translate English to German: Good morning." --num-beams 4',
  ],
  run: generateText,
};

async function generateText(args: ParsedArgs): Promise<number> {
  const folder = ModelFolder.open(args.only("MODEL"));
  const { nproc, mesh } = ranksOf(args, folder.model);
  checkPlanFile(args, planConfig(args), { ranks: mesh?.tp ?? nproc, model: folder.model });
  const { job, echo, promptTokens, limitNote } = generateJob(args, folder);
  if (echo !== undefined) await Deno.stdout.write(new TextEncoder().encode(echo));
  const { code, reports: [report] } = await startJob(job, nproc, { onClosedOutput: "stop" });
  if (report !== undefined) printNote(speedLine(report as GenerateReport, promptTokens, limitNote));
  const advice = job.print.kind === "text" && args.text("temperature") === undefined && job.beams === undefined
    ? samplingAdvice(folder)
    : undefined;
  if (code === 0 && advice !== undefined) printNote(advice);
  return code;
}

/** What a model's authors would have passed, where they sample: without it, chat models repeat themselves. */
export function samplingAdvice(folder: ModelFolder): string | undefined {
  const { sampling } = folder;
  if (sampling === undefined) return undefined;
  const { temperature, topK, topP } = sampling;
  const options = [
    `--temperature ${temperature}`,
    ...(topK === undefined ? [] : [`--top-k ${topK}`]),
    ...(topP === undefined ? [] : [`--top-p ${topP}`]),
  ];
  return `the likeliest tokens were taken; the model's generation_config.json samples: ${options.join(" ")}`;
}

/** `24 tokens, 51.3 tokens/s; first token after 112 ms (37 tokens of prompt); loaded in 1.9 s`, and why there are no more. */
export function speedLine(
  { tokens, firstTokens, loadMs, firstMs, restMs, ended }: GenerateReport,
  promptTokens: number,
  limitNote: string | undefined,
): string {
  const count = (n: number) => `${n} token${n === 1 ? "" : "s"}`;
  const seconds = (ms: number) => `${(ms / 1000).toPrecision(ms < 100_000 ? 2 : 3)} s`;
  const rest = tokens - firstTokens,
    speed = rest > 0 && restMs > 0 ? `, ${(rest / restMs * 1000).toFixed(1)} tokens/s` : "";
  const prompt = `${count(promptTokens)} of prompt`;
  return [
    `${count(tokens)}${speed}`,
    firstMs === undefined
      ? `all after ${seconds(restMs)} (${prompt})`
      : `first token after ${firstMs.toFixed(0)} ms (${prompt})`,
    `loaded in ${seconds(loadMs)}`,
    ...(!ended && limitNote !== undefined ? [limitNote] : []),
  ].join("; ");
}

/** What the arguments ask for. */
export interface GenerateCall {
  readonly job: GenerateJob;
  /** What to print before the continuation. */
  readonly echo: string | undefined;
  /** Tokens of all prompts. */
  readonly promptTokens: number;
  /** Why there are no more tokens when all that were asked of the ranks were made. */
  readonly limitNote: string | undefined;
}

/** The job that the arguments ask for; all that can be wrong with them is told here, before a rank starts. */
export function generateJob(args: ParsedArgs, folder: ModelFolder): GenerateCall {
  requireTextModel(args, folder);
  const { mesh } = ranksOf(args, folder.model), sampling = samplingOptions(args);
  const beams = beamOptions(args, sampling);
  const decoderPrompt = decoderIds(args, folder);
  const { prompts, echo, tokenizer } = readPrompts(args, folder);
  const count = typeof prompts === "string" ? 1 : prompts.length;
  if (mesh && count < mesh.dp) {
    throw args.error(
      `--mesh ${printMesh(mesh)} shares prompts among ${mesh.dp} groups of ranks, and there ${
        count === 1 ? "is one" : `are ${count}`
      }`,
      `give at least ${mesh.dp} prompts, or let all ranks share the layers: --nproc ${meshSize(mesh)}`,
    );
  }
  const print = printing(args, folder, tokenizer);
  const asked = args.number("max-new-tokens", { least: 1, whole: true }) ?? DEFAULT_NEW_TOKENS;
  const context = folder.contextLength;
  const lengths = typeof prompts === "string" ? [] : prompts.map((p) => p.length);
  const longest = decoderPrompt?.length ?? Math.max(...lengths);
  const room = context === undefined ? asked : context - longest;
  if (room < 1) {
    throw args.error(`the prompt has ${longest} tokens, but the model takes ${context}`, "shorten the prompt");
  }
  const limitNote = asked > room ? `stopped at the ${context} tokens that the model takes` : undefined;
  const wantsEcho = args.flag("echo");
  if (wantsEcho && prompts.length !== 1) throw args.error("--echo belongs to one prompt of text or ids");
  return {
    job: {
      kind: "generate",
      on: jobDevice(args),
      model: args.only("MODEL"),
      prompts,
      decoderPrompt,
      maxNewTokens: Math.min(asked, room),
      sampling,
      beams,
      plan: planConfig(args),
      ...(mesh && mesh.dp > 1 ? { mesh } : {}),
      endIds: endIds(args, folder),
      print,
    },
    promptTokens: lengths.reduce((a, b) => a + b, 0),
    limitNote,
    echo: wantsEcho ? (print.kind === "ids" ? (prompts[0] as readonly number[]).join(" ") + " " : echo) : undefined,
  };
}

/** @throws {UsageError} If the folder says that its model is made for something else than continuing text. */
function requireTextModel(args: ParsedArgs, folder: ModelFolder): void {
  const other = folder.architectures.find((name) => NO_TEXT.test(name));
  if (other !== undefined) {
    throw args.error(
      `${folder.folder} holds a ${other}, which does not continue text`,
      "shardwise run --help: outputs for inputs",
    );
  }
}

/** Beam search, if it is asked for. */
function beamOptions(args: ParsedArgs, sampling: SamplingOptions): GenerateJob["beams"] {
  const beams = args.number("num-beams", { least: 1, most: 64, whole: true }) ?? 1;
  const lengthPenalty = args.number("length-penalty");
  const when = args.text("early-stopping");
  if (beams === 1) {
    const idle = ["length-penalty", "early-stopping"].find((name) => args.text(name) !== undefined);
    if (idle !== undefined) {
      throw args.error(`--${idle} has no effect without beams`, "add --num-beams 4, or leave it out");
    }
    return undefined;
  }
  if (sampling.temperature) {
    throw args.error("--num-beams searches for the likeliest text, --temperature samples", "leave one of them out");
  }
  if (when !== undefined && !["true", "false", "never"].includes(when)) {
    throw args.error(`--early-stopping ${JSON.stringify(when)} is none of true, false and never`);
  }
  return { beams, lengthPenalty, earlyStopping: when === "never" ? when : when === "true" };
}

/** What the decoder starts from; undefined where there is no encoder. */
function decoderIds(args: ParsedArgs, folder: ModelFolder): readonly number[] | undefined {
  const given = args.numbers("decoder-ids");
  if (folder.encoder === undefined) {
    const idle = ["decoder-ids", "inputs"].find((name) => args.text(name) !== undefined);
    if (idle !== undefined) {
      throw args.error(`--${idle} is for models with an encoder, and there is no encoder_model.onnx`);
    }
    return undefined;
  }
  const ids = given ?? folder.decoderPrompt;
  if (ids.length > 0) return ids;
  throw args.error(
    "nobody says from which token the decoder starts",
    'pass --decoder-ids, or write "decoder_start_token_id" into generation_config.json',
  );
}

function samplingOptions(args: ParsedArgs): SamplingOptions {
  const sampling = {
    temperature: args.number("temperature", { least: 0 }),
    topK: args.number("top-k", { least: 0, whole: true }),
    topP: args.number("top-p", { least: 0, most: 1 }),
    minP: args.number("min-p", { least: 0, most: 1 }),
    repetitionPenalty: args.number("repetition-penalty", { least: 0 }),
    seed: args.number("seed", { whole: true }),
  };
  if (!sampling.temperature) {
    const idle = ["top-k", "top-p", "min-p", "seed"].find((name) => args.text(name) !== undefined);
    if (idle !== undefined) {
      throw args.error(`--${idle} has no effect at temperature 0`, "add --temperature 0.8, or leave it out");
    }
  }
  new Sampler(sampling); // throws for values out of range
  return sampling;
}

/** The prompts as ids (or the file of an encoder's inputs), the text of the first, and the tokenizer that made them. */
function readPrompts(
  args: ParsedArgs,
  folder: ModelFolder,
): { prompts: number[][] | string; echo: string; tokenizer: Tokenizer | undefined } {
  const ways = ["chat", "prompt", "prompt-ids", "inputs"].filter((name) => args.texts(name).length > 0);
  if (ways.length !== 1) {
    const problem = ways.length === 0
      ? "there is no prompt"
      : `${ways.map((name) => `--${name}`).join(" and ")} exclude each other`;
    throw args.error(problem, 'give one of --chat "question", --prompt "text" and --prompt-ids 1,2,3');
  }
  if (args.text("system") !== undefined && ways[0] !== "chat") throw args.error("--system belongs to --chat");
  const inputs = args.text("inputs");
  if (inputs !== undefined) {
    fileSize(inputs); // told here, not by a rank
    return { prompts: inputs, echo: "", tokenizer: folder.hasTokenizer ? folder.tokenizer() : undefined };
  }
  if (ways[0] === "prompt-ids") return { prompts: idLists(args), echo: "", tokenizer: undefined };
  const tokenizer = folder.tokenizer(args.text("tokenizer"));
  const question = textOrStdin(args.text("chat")), system = args.text("system");
  if (question === undefined) {
    const texts = args.texts("prompt").map(textOrStdin), prompts = texts.map((text) => tokenizer.encode(text));
    if (prompts.some((p) => p.length === 0)) throw args.error("the prompt is empty", "give at least one character");
    return { prompts, echo: texts[0]!, tokenizer };
  }
  const text = folder.chat([
    ...(system === undefined ? [] : [{ role: "system", content: system } as const]),
    { role: "user", content: question },
  ]);
  // The template writes the special tokens itself.
  return { prompts: [tokenizer.encode(text, { addSpecialTokens: false })], echo: text, tokenizer };
}

/** What `text` says, or stdin where it is `-`. A newline at its end is the shell's. */
function textOrStdin<T extends string | undefined>(text: T): T | string {
  if (text !== "-") return text;
  const parts: Uint8Array[] = [];
  for (const buffer = new Uint8Array(65536);;) {
    const n = Deno.stdin.readSync(buffer);
    if (n === null) break;
    parts.push(buffer.slice(0, n));
  }
  return new TextDecoder().decode(new Uint8Array(parts.flatMap((part) => [...part]))).replace(/\r?\n$/, "");
}

/** Prompts of ids, separated by semicolons. */
function idLists(args: ParsedArgs): number[][] {
  return args.required("prompt-ids").split(";").map((list) =>
    list.split(",").map((part) => {
      const id = part.trim() === "" ? NaN : Number(part);
      if (Number.isSafeInteger(id) && id >= 0) return id;
      throw args.error(`--prompt-ids holds ${JSON.stringify(part)}, which is no token id`, "write 1,2,3 or 1,2;3,4");
    })
  );
}

function printing(args: ParsedArgs, folder: ModelFolder, tokenizer: Tokenizer | undefined): GenerateJob["print"] {
  const stop = args.texts("stop");
  if (args.flag("ids") || (tokenizer === undefined && args.text("tokenizer") === undefined)) {
    if (stop.length > 0) {
      throw args.error("--stop needs text, but ids are printed", "use --eos, or pass --tokenizer tokenizer.json");
    }
    return { kind: "ids" };
  }
  const path = args.text("tokenizer");
  if (tokenizer === undefined) folder.tokenizer(path); // told here, not by a rank
  return { kind: "text", tokenizer: path ?? join(folder.folder, "tokenizer.json"), stop };
}

function endIds(args: ParsedArgs, folder: ModelFolder): readonly number[] {
  const given = args.numbers("eos");
  if (given !== undefined && args.flag("ignore-eos")) throw args.error("--eos and --ignore-eos exclude each other");
  if (given !== undefined) return given;
  return args.flag("ignore-eos") || args.text("prompt-ids") !== undefined ? [] : folder.endIds;
}
