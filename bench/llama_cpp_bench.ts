/**
 * A quantised model: our ranks against llama.cpp, interleaved round by round.
 *
 *     deno run -A bench/llama_cpp_bench.ts --model FOLDER --gguf FILE --package FOLDER [--rounds 5] [--markdown] …
 *
 * The FOLDER of --package is one in which `npm install node-llama-cpp` has been run.
 */
import { statSync } from "node:fs";
import { parseArgs } from "node:util";
import { median, spreadOver } from "../src/core/statistics.ts";
import { parseQuantize } from "../src/passes/quantise/weight_format.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { describeDecoder } from "./models/decoder.ts";
import { type LlamaTask, packageModule } from "./models/llama_cpp.ts";
import { runOurs, writeTask } from "./models/round.ts";
import { milliseconds, printTable } from "./models/table.ts";
import { caseNames, type Measured, type Workload } from "./models/workload.ts";

const HELP = `deno run -A bench/llama_cpp_bench.ts [options]
  --model FOLDER      a folder with a model.onnx with past, or an ONNX file
  --gguf FILE         the same model as llama.cpp takes it
  --package FOLDER    where node-llama-cpp is installed; without it nothing is measured
  --quantize LIST     how our ranks hold weights; default int4
  --rounds N          rounds, each with both sides in new processes; default 5
  --decode LIST       past lengths of single tokens; default 64,512
  --prefill LIST      prompt lengths; default 37,256
  --tokens N          single tokens a decode case in a round, around the past length; default 34
  --repeats N         prompts a prefill case in a round; default 3
  --ranks N           our ranks, of one thread; default 2
  --threads N         threads of llama.cpp; default 2
  --markdown          print for docs/benchmarks.md`;

const { values: options } = parseArgs({
  options: {
    model: { type: "string" },
    gguf: { type: "string" },
    package: { type: "string" },
    quantize: { type: "string", default: "int4" },
    rounds: { type: "string", default: "5" },
    decode: { type: "string", default: "64,512" },
    prefill: { type: "string", default: "37,256" },
    tokens: { type: "string", default: "34" },
    repeats: { type: "string", default: "3" },
    ranks: { type: "string", default: "2" },
    threads: { type: "string", default: "2" },
    markdown: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

if (options.help || options.model === undefined || options.gguf === undefined) {
  print(HELP);
  Deno.exit(options.help ? 0 : 64);
}
if (options.package === undefined || !isFile(packageModule(options.package))) {
  print(`skipped: node-llama-cpp is not installed in ${options.package ?? "any folder that --package names"}`);
  Deno.exit(0);
}
const model = isFile(options.model) ? options.model : `${options.model}/model.onnx`;
const workload: Workload = {
  decode: options.decode.split(",").map(Number),
  prefill: options.prefill.split(",").map(Number),
  tokens: Number(options.tokens),
  repeats: Number(options.repeats),
  vocabulary: describeDecoder(model).vocabulary,
};
const ranks = Number(options.ranks), threads = Number(options.threads), names = caseNames(workload);

const rounds: { readonly llama: Measured; readonly ours: readonly Measured[] }[] = [];
for (let i = 0; i < Number(options.rounds); i++) {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-bench-" });
  try {
    // Taking turns: neither side always meets a machine that the other one has warmed.
    const first = i % 2 === 0 ? await runLlama(folder) : undefined;
    const config = { quantize: parseQuantize(options.quantize.split(",")), logits: "last" } as const;
    const ours = await runOurs({ model, workload, ranks, threadsPerRank: 1, config }, folder);
    rounds.push({ llama: first ?? await runLlama(folder), ours });
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

const spread = (values: readonly number[]) => {
  const { median, least, largest } = spreadOver(values);
  return `${milliseconds(median)} (${milliseconds(least)}–${milliseconds(largest)})`;
};
const rows = names.map((name) => {
  const llama = rounds.map((r) => median(r.llama.times[name]!));
  const ours = rounds.map((r) => Math.max(...r.ours.map((rank) => median(rank.times[name]!))));
  return [name, spread(llama), spread(ours), (median(ours) / median(llama)).toFixed(2)];
});
const head = ["ms", `llama.cpp, ${threads} threads`, `${ranks} ranks × 1 thread, ${options.quantize}`, "ratio"];
print(
  `${printTable({ head, rows }, options.markdown)}\n\n${describeMachine()}; ${
    new Date().toISOString().slice(0, 10)
  }. ` +
    `${rounds.length} interleaved rounds, medians of the rounds' medians (least–largest); a round: ${workload.repeats} ` +
    `prompts a length, ${workload.tokens} single tokens around a past length, in new processes.`,
);

async function runLlama(folder: string): Promise<Measured> {
  const task: LlamaTask = {
    model: Deno.realPathSync(options.gguf!),
    folderOfPackage: Deno.realPathSync(options.package!),
    workload,
    folder,
    threads,
  };
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--quiet",
      "--node-modules-dir=manual",
      "--no-config",
      new URL("./models/llama_cpp.ts", import.meta.url).pathname,
      writeTask(folder, "llama", task),
    ],
    cwd: task.folderOfPackage,
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`llama.cpp's side ended with code ${code}`);
  return JSON.parse(Deno.readTextFileSync(`${folder}/llama.json`)) as Measured;
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text + "\n"));
}
