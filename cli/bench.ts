/** `shardwise bench`: how fast a model is, and which part of what the machine could do that is. */
import { importOnnx } from "../src/formats/import_onnx.ts";
import { readOnnx } from "../src/formats/onnx_file.ts";
import { readTensors } from "../src/formats/tensor_file.ts";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { hostMeasurement } from "../src/measured_costs.ts";
import { shardedFor, shardedGraph } from "../src/sharded_folder.ts";
import { benchJson, benchScreen } from "./bench_report.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { type BenchJob, type BenchReport, DEVICE_OPTIONS, jobDevice, NPROC, rankCount, startJob } from "./job.ts";
import { namedSizes } from "./named_sizes.ts";
import { checkPlanFile, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { printResult } from "./print.ts";

const DEFAULTS = { prompts: [16, 128], pasts: [64, 512], newTokens: 32, rounds: 5 } as const;

/** The command. */
export const bench: Command = {
  name: "bench",
  summary: "measure how fast a model is, against what the machine could do",
  usage: "MODEL [--nproc N] [--prompt-lengths 16,128] [--past 64,512] [--new 32] [--rounds 5] [--json]",
  description:
    "MODEL is a model folder or an .onnx file. Of one that generates: tokens/s of prompts of these lengths, up to the pick of the\n" +
    "first token, and of single tokens behind these pasts. Of others: the time of a run, of each length that they leave open.\n" +
    "Medians of the rounds, and the least and largest of them; cases take turns, after a round that only warms up. Token ids are\n" +
    "random, the same for a seed, so that no tokenizer is needed; greedy picks are part of the time.\n\n" +
    "Beside it: time to load, weights and memory of a rank, and for each case what it does at least. A token reads all weights and\n" +
    "the cache once: that a second, as a share of the memory's speed. A prompt multiplies: its arithmetic, as a share of what\n" +
    "products of as many rows reach. What is possible, a GPU says by itself (clocks, buses; tensor cores by NVIDIA's papers), and\n" +
    "of CPUs `shardwise calibrate` measures it. Nothing else should run meanwhile.",
  options: {
    nproc: NPROC,
    "prompt-lengths": {
      value: "N,…",
      help: `tokens of prompts, or of what a model that only runs leaves open; default ${DEFAULTS.prompts}`,
    },
    past: { value: "N,…", help: `tokens before those that are decoded; default ${DEFAULTS.pasts}` },
    new: { value: "K", help: `tokens decoded behind each past; default ${DEFAULTS.newTokens}` },
    batch: { value: "B", help: "sequences side by side; default 1" },
    rounds: { value: "R", help: `rounds that count; default ${DEFAULTS.rounds}` },
    seed: { value: "S", help: "of the token ids; default 0" },
    inputs: {
      short: "i",
      value: "FILE",
      help:
        "inputs of a model that only runs, or of an encoder (.safetensors, .npz, a folder of .npy), instead of drawn ones",
    },
    set: { value: "NAME=SIZE", many: true, help: "size of a symbolic dim of drawn inputs, as in num_channels=3" },
    ...DEVICE_OPTIONS,
    ...PLAN_OPTIONS,
    json: { help: "print everything as JSON: each round of each case, in ms and bytes" },
  },
  examples: [
    "shardwise bench smollm2/ --nproc 2",
    "shardwise bench smollm2/ --nproc 2 --quantize int4 --prompt-lengths 512 --past 16,1024 --new 64",
    "shardwise bench llama/ --nproc 4 --device cuda --dtype bf16 --batch 8 --json",
    "shardwise bench bert.onnx --nproc 2 --prompt-lengths 128,384",
  ],
  run: measure,
};

async function measure(args: ParsedArgs): Promise<number> {
  const folder = ModelFolder.open(args.only("MODEL")), nproc = rankCount(args, folder.model);
  const job = await benchJob(args, folder);
  checkPlanFile(args, job.plan, { ranks: nproc, model: folder.model });
  const { code, reports: [report] } = await startJob(job, nproc);
  if (code !== 0 || report === undefined) return code === 0 ? 1 : code;
  const run = { job, report: report as BenchReport, calibrated: hostMeasurement(nproc) };
  printResult(args.flag("json") ? JSON.stringify(benchJson(run), undefined, 1) : benchScreen(run));
  return 0;
}

/** The job that the arguments ask for. @throws {UsageError} For all that can be told before a rank starts. */
export async function benchJob(args: ParsedArgs, folder: ModelFolder): Promise<BenchJob> {
  const prompts = lengths(args, "prompt-lengths") ?? fitting(folder, DEFAULTS.prompts, 0);
  const generates = carriesStates(folder), inputs = args.text("inputs");
  const newTokens = args.number("new", { least: 1, most: 100_000, whole: true }) ?? DEFAULTS.newTokens;
  if (!generates) {
    const idle = ["past", "new"].find((name) => args.text(name) !== undefined);
    if (idle !== undefined) {
      throw args.error(
        `--${idle} is for models that generate token by token, and ${folder.model} carries no cache`,
        "leave it out: --prompt-lengths are the lengths of its runs",
      );
    }
    if (inputs === undefined && shardedFor(folder.model) !== undefined) {
      throw args.error(`nobody says what the inputs of ${folder.model} hold`, "pass --inputs FILE");
    }
  }
  if (inputs !== undefined) {
    if (generates && folder.encoder === undefined) {
      throw args.error("--inputs is for models that only run, and for encoders", "use --prompt-lengths");
    }
    if (args.text("prompt-lengths") !== undefined) {
      throw args.error("--inputs and --prompt-lengths exclude each other");
    }
    await readTensors(inputs); // told here, not by a rank
  }
  const pasts = generates ? lengths(args, "past") ?? fitting(folder, DEFAULTS.pasts, newTokens) : [];
  const context = folder.contextLength ?? Infinity;
  const wanted = [
    // Of an encoder nobody says how much it takes.
    ...(folder.encoder ? [] : prompts.map((n) => ["prompt-lengths", n, n] as const)),
    ...pasts.map((n) => ["past", n, n + newTokens] as const),
  ];
  for (const [option, n, total] of wanted) {
    if (total <= context) continue;
    const what = option === "past" ? `a past of ${n} and ${newTokens} new tokens are` : `a length of ${n} is`;
    throw args.error(`${what} more than the ${context} tokens that the model takes`, `pass a smaller --${option}`);
  }
  return {
    kind: "bench",
    on: jobDevice(args),
    // A folder has what belongs to a decoder beside it.
    model: generates ? args.only("MODEL") : folder.model,
    generates,
    prompts,
    pasts,
    newTokens,
    batch: args.number("batch", { least: 1, most: 4096, whole: true }) ?? 1,
    rounds: args.number("rounds", { least: 1, most: 10_000, whole: true }) ?? DEFAULTS.rounds,
    seed: args.number("seed", { whole: true }) ?? 0,
    inputs,
    sizes: namedSizes(args),
    plan: planConfig(args),
  };
}

/** Different lengths, each from 1 on. */
function lengths(args: ParsedArgs, option: string): number[] | undefined {
  const all = args.numbers(option, { least: 1 });
  return all && [...new Set(all)];
}

/** Of the default lengths those that the model takes with `more` tokens behind them, or one in its middle. */
function fitting(
  { contextLength = Infinity }: ModelFolder,
  defaults: readonly number[],
  more: number,
): readonly number[] {
  const some = defaults.filter((n) => n + more <= contextLength);
  return some.length > 0 ? some : [Math.max(1, Math.floor((contextLength - more) / 2))];
}

/** Whether the model carries a cache from step to step. */
function carriesStates({ model }: ModelFolder): boolean {
  if (shardedFor(model) !== undefined) return shardedGraph(model).carried.length > 0;
  using file = readOnnx(model);
  return importOnnx(file).carried.length > 0;
}
