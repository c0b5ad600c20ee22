/** `shardwise generate`: continues a prompt, token by token, with the KV cache split over the ranks. */
import { join } from "node:path";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { Sampler, type SamplingOptions } from "../src/generate/sampler.ts";
import type { Tokenizer } from "../src/generate/tokenizer.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { DEVICE_OPTIONS, type GenerateJob, type GenerateReport, jobDevice, NPROC, rankCount, startJob } from "./job.ts";
import { checkPlanFile, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { printNote } from "./print.ts";

const DEFAULT_NEW_TOKENS = 128;

/** The command. */
export const generate: Command = {
  name: "generate",
  summary: "continue a prompt or answer a question, streaming",
  usage: "MODEL (--chat TEXT | --prompt TEXT | --prompt-ids IDS) [--nproc N] [OPTIONS]",
  description:
    "MODEL is a model folder as the Hugging Face hub has them (the graph, tokenizer.json, chat template, config.json,\n" +
    "generation_config.json), or an .onnx file. The text streams to stdout as it comes; the time to the first token and\n" +
    "tokens/s follow on stderr. A chat or text ends at the model's end-of-text token; --prompt-ids does not, unless --eos\n" +
    "says so. Without --temperature the likeliest token is taken at each step. The same seed gives the same text at any N\n" +
    "(as long as rounding does not decide).",
  options: {
    nproc: NPROC,
    chat: { value: "TEXT", help: "a question, put into the model's chat template" },
    system: { value: "TEXT", help: "the system message before --chat; default: what the template says" },
    prompt: { value: "TEXT", help: "text to continue" },
    "prompt-ids": { value: "1,2,3", help: "token ids to continue; prints ids, unless --tokenizer is given" },
    "max-new-tokens": { short: "m", value: "K", help: `stop after K tokens; default ${DEFAULT_NEW_TOKENS}` },
    tokenizer: { value: "FILE", help: "tokenizer.json; default: the one in MODEL's folder" },
    temperature: { value: "X", help: "sample at this temperature; 0 takes the likeliest token (default)" },
    "top-k": { value: "K", help: "sample among the K likeliest tokens; 0 is all (default)" },
    "top-p": { value: "P", help: "sample among the likeliest tokens that together have probability P; default 1" },
    seed: { value: "N", help: "start of the random numbers; default 0" },
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
    "shardwise generate model.onnx --nproc 3 --prompt-ids 24,79,85 --max-new-tokens 24",
  ],
  run: generateText,
};

async function generateText(args: ParsedArgs): Promise<number> {
  const folder = ModelFolder.open(args.only("MODEL"));
  const nproc = rankCount(args, folder.model);
  checkPlanFile(args, planConfig(args), { ranks: nproc, model: folder.model });
  const { job, echo, limitNote } = generateJob(args, folder);
  if (echo !== undefined) await Deno.stdout.write(new TextEncoder().encode(echo));
  const { code, reports: [report] } = await startJob(job, nproc);
  if (report !== undefined) printNote(speedLine(report as GenerateReport, job.prompt.length, limitNote));
  return code;
}

/** `24 tokens, 51.3 tokens/s; first token after 112 ms (37 tokens of prompt)`, and why there are no more. */
export function speedLine(
  { tokens, firstMs, restMs, ended }: GenerateReport,
  promptTokens: number,
  limitNote: string | undefined,
): string {
  const count = (n: number) => `${n} token${n === 1 ? "" : "s"}`;
  const speed = tokens > 1 && restMs > 0 ? `, ${((tokens - 1) / restMs * 1000).toFixed(1)} tokens/s` : "";
  const first = `first token after ${firstMs.toFixed(0)} ms (${count(promptTokens)} of prompt)`;
  return `${count(tokens)}${speed}; ${first}${!ended && limitNote !== undefined ? `; ${limitNote}` : ""}`;
}

/** What the arguments ask for. */
export interface GenerateCall {
  readonly job: GenerateJob;
  /** What to print before the continuation. */
  readonly echo: string | undefined;
  /** Why there are no more tokens when all that were asked of the ranks were made. */
  readonly limitNote: string | undefined;
}

/** The job that the arguments ask for; all that can be wrong with them is told here, before a rank starts. */
export function generateJob(args: ParsedArgs, folder: ModelFolder): GenerateCall {
  const sampling = samplingOptions(args);
  const { prompt, echo, tokenizer } = readPrompt(args, folder);
  const print = printing(args, folder, tokenizer);
  const asked = args.number("max-new-tokens", { least: 1, whole: true }) ?? DEFAULT_NEW_TOKENS;
  const context = folder.contextLength;
  const room = context === undefined ? asked : context - prompt.length;
  if (room < 1) {
    throw args.error(`the prompt has ${prompt.length} tokens, but the model takes ${context}`, "shorten the prompt");
  }
  const limitNote = asked > room ? `stopped at the ${context} tokens that the model takes` : undefined;
  return {
    job: {
      kind: "generate",
      on: jobDevice(args),
      model: folder.model,
      prompt,
      maxNewTokens: Math.min(asked, room),
      sampling,
      plan: planConfig(args),
      endIds: endIds(args, folder),
      print,
    },
    limitNote,
    echo: args.flag("echo") ? (print.kind === "ids" ? prompt.join(" ") + " " : echo) : undefined,
  };
}

function samplingOptions(args: ParsedArgs): SamplingOptions {
  const sampling = {
    temperature: args.number("temperature", { least: 0 }),
    topK: args.number("top-k", { least: 0, whole: true }),
    topP: args.number("top-p", { least: 0, most: 1 }),
    seed: args.number("seed", { whole: true }),
  };
  if (!sampling.temperature) {
    const idle = ["top-k", "top-p", "seed"].find((name) => args.text(name) !== undefined);
    if (idle !== undefined) {
      throw args.error(`--${idle} has no effect at temperature 0`, "add --temperature 0.8, or leave it out");
    }
  }
  new Sampler(sampling); // throws for values out of range
  return sampling;
}

function readPrompt(
  args: ParsedArgs,
  folder: ModelFolder,
): { prompt: number[]; echo: string; tokenizer: Tokenizer | undefined } {
  const ways = ["chat", "prompt", "prompt-ids"].filter((name) => args.text(name) !== undefined);
  if (ways.length !== 1) {
    const problem = ways.length === 0
      ? "there is no prompt"
      : `${ways.map((name) => `--${name}`).join(" and ")} exclude each other`;
    throw args.error(problem, 'give one of --chat "question", --prompt "text" and --prompt-ids 1,2,3');
  }
  if (args.text("system") !== undefined && ways[0] !== "chat") throw args.error("--system belongs to --chat");
  const ids = args.numbers("prompt-ids");
  if (ids !== undefined) return { prompt: ids, echo: "", tokenizer: undefined };
  const tokenizer = folder.tokenizer(args.text("tokenizer"));
  const question = args.text("chat"), system = args.text("system");
  if (question === undefined) {
    const text = args.required("prompt");
    const prompt = tokenizer.encode(text);
    if (prompt.length === 0) throw args.error("the prompt is empty", "give at least one character");
    return { prompt, echo: text, tokenizer };
  }
  const text = folder.chat([
    ...(system === undefined ? [] : [{ role: "system", content: system } as const]),
    { role: "user", content: question },
  ]);
  // The template writes the special tokens itself.
  return { prompt: tokenizer.encode(text, { addSpecialTokens: false }), echo: text, tokenizer };
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
