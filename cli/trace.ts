/** `shardwise trace`: what every rank does when, as a file for Perfetto and as a page. */
import { resolve } from "node:path";
import { readTensors } from "../src/formats/tensor_file.ts";
import { ModelFolder, modelName } from "../src/generate/model_folder.ts";
import { reportHtml } from "../src/report/html.ts";
import { traceView } from "../src/report/trace_view.ts";
import { chromeTrace } from "../src/trace/chrome.ts";
import type { RunTrace } from "../src/trace/run_trace.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { DEVICE_OPTIONS, jobDevice, NPROC, rankCount, startJob, type TraceReport } from "./job.ts";
import { checkPlanFile, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { checkOutput, writeOutput } from "./output_file.ts";
import { printResult } from "./print.ts";

const DEFAULT_STEPS = 16;
/** A prompt for models that nobody gives one: ids that every vocabulary has. */
const DEFAULT_PROMPT = [1, 2, 3, 4, 5, 6, 7, 8];

/** The command. */
export const trace: Command = {
  name: "trace",
  summary: "record what each rank does when: compute, waiting, collectives",
  usage: "MODEL [--nproc N] --out trace.json [--html trace.html] [--steps K]",
  description:
    "Runs K steps and writes what each rank did, on one clock, in Chrome's trace format: open it in ui.perfetto.dev, or as one\n" +
    "HTML file with --html, with a flame of where a step's time went. A model with a cache continues --prompt-ids: the first step\n" +
    "is the prompt, each other one token. Of an encoder-decoder (whose encoder reads the prompt, or --inputs) these are steps of the\n" +
    "decoder; a first step in a graph of its own is left out. Other models run on --inputs, K times. A few steps run before, untraced.",
  options: {
    nproc: NPROC,
    out: { short: "o", value: "FILE", help: "trace.json to write; this or --html is required" },
    html: { value: "FILE", help: "also as one HTML file that needs no network" },
    steps: { value: "K", help: `steps to trace; default ${DEFAULT_STEPS}` },
    "prompt-ids": { value: "1,2,3", help: `token ids to continue; default ${DEFAULT_PROMPT}` },
    inputs: { short: "i", value: "PATH", help: "in.safetensors, or a folder of .npy files, instead of a prompt" },
    ...DEVICE_OPTIONS,
    ...PLAN_OPTIONS,
  },
  examples: [
    "shardwise trace smollm2/ --nproc 2 --out trace.json --html trace.html",
    "shardwise trace bert.onnx --nproc 4 --inputs in.safetensors --steps 20 --html trace.html",
  ],
  run: traceModel,
};

async function traceModel(args: ParsedArgs): Promise<number> {
  const { model } = ModelFolder.open(args.only("MODEL"));
  const nproc = rankCount(args, model);
  const plan = planConfig(args);
  checkPlanFile(args, plan, { ranks: nproc, model });
  const out = args.text("out"), html = args.text("html"), inputs = args.text("inputs");
  if (out === undefined && html === undefined) throw args.error("neither --out nor --html is given");
  if (inputs !== undefined && args.text("prompt-ids") !== undefined) {
    throw args.error("--inputs and --prompt-ids exclude each other");
  }
  if (inputs !== undefined) await readTensors(inputs);
  const steps = args.number("steps", { least: 1, most: 10_000, whole: true }) ?? DEFAULT_STEPS;
  const prompt = args.numbers("prompt-ids") ?? DEFAULT_PROMPT;
  checkOutput(out, "out", args);
  checkOutput(html, "html", args);
  const { code, reports: [report] } = await startJob({
    kind: "trace",
    on: jobDevice(args),
    model,
    plan,
    prompt,
    inputs,
    steps,
  }, nproc);
  if (code !== 0 || report === undefined) return code === 0 ? 1 : code;
  const { trace } = report as TraceReport;
  if (out !== undefined) writeOutput(out, JSON.stringify(chromeTrace(trace)));
  if (html !== undefined) {
    const title = `${modelName(resolve(model))} on ${nproc} rank${nproc === 1 ? "" : "s"}`;
    writeOutput(html, await reportHtml({ viewer: "trace", title, data: traceView(title, trace) }));
  }
  printResult(traceSummary(trace));
  return 0;
}

/** A line a rank: the mean step after the first, in parts. */
export function traceSummary(trace: RunTrace): string {
  const { flames } = traceView("", trace);
  return flames.map((flame, rank) => {
    const parts = flame.parts.map(({ kind, ms }) => `${ms.toFixed(3)} ms ${kind}`);
    return `rank ${rank}: ${flame.ms.toFixed(3)} ms a step, of which ${parts.join(", ")}`;
  }).join("\n");
}
