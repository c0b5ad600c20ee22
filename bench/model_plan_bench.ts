/**
 * What planning costs on models as exporters write them: `deno run -A bench/model_plan_bench.ts [--rounds 5] [--markdown] [--layers 2,12,32,80]
 * [--ranks 2,4,8] [--architectures llama,gpt2,llama-70b]`.
 *
 * Every time is taken in a process of its own, as on a rank: code that has not been compiled yet is slower. `command` is
 * `shardwise plan` from its start to its end; `report` is the larger part of that: reading the file, and the plan with its prices. The other columns are the stages of a rank that runs the model.
 * Weights are never read by planning: the files of theirs are holes. `bench/plan_bench.ts` times the search alone, warm.
 */
import { parseArgs } from "node:util";
import { importOnnx } from "../src/formats/import_onnx.ts";
import { readOnnx } from "../src/formats/onnx_file.ts";
import { ParallelExecutionCtx } from "../src/passes/context.ts";
import { ParallelAxisSolverPass } from "../src/passes/parallel_axis_solver_pass.ts";
import { ParallelLayerAnnotatePass } from "../src/passes/parallel_layer_annotate_pass.ts";
import { ParallelLayerReplacePass } from "../src/passes/parallel_layer_replace_pass.ts";
import { cleanModel } from "../src/passes/clean_model.ts";
import { explainModel } from "../src/explain_model.ts";
import { spreadOver } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { writeHollowModel } from "./models/hollow_model.ts";
import { milliseconds, printTable } from "./models/table.ts";

/** One planning. */
interface Job {
  readonly model: string;
  readonly ranks: number;
  readonly what: "report" | "stages";
}

/** Its times, in ms, and the memory of its process, in bytes. */
interface Found {
  readonly times: Readonly<Record<string, number>>;
  readonly memory: number;
  readonly nodes: number;
}

/** Layers of `llama-70b`. */
const MOST_LAYERS = 80;
const STAGES = ["read", "clean", "plan", "replace"];

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    layers: { type: "string", default: "2,12,32,80" },
    ranks: { type: "string", default: "2,4,8" },
    architectures: { type: "string", default: "llama,gpt2,llama-70b" },
    markdown: { type: "boolean", default: false },
    job: { type: "string" },
  },
});
if (options.job !== undefined) print(JSON.stringify(measure(JSON.parse(options.job))));
else await compare(Number(options.rounds));

async function compare(rounds: number): Promise<void> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-plan-bench-" });
  try {
    const list = (text: string) => text.split(",");
    const models = list(options.architectures).flatMap((name) => {
      const layers = name === "llama-70b" ? [MOST_LAYERS] : list(options.layers).map(Number);
      return layers.map((n) => ({ title: `${name}, ${n} layers`, path: writeHollowModel(folder, name, n) }));
    });
    const cases = models.flatMap((m) => list(options.ranks).map((ranks) => ({ ...m, ranks: Number(ranks) })));
    const found = cases.map(() => ({ command: [] as number[], report: [] as Found[], stages: [] as Found[] }));
    for (let round = 0; round < rounds; round++) {
      for (const [i, { path, ranks }] of cases.entries()) {
        found[i]!.command.push(await runCommand(path, ranks));
        for (const what of ["report", "stages"] as const) {
          found[i]![what].push(await runJob({ model: path, ranks, what }));
        }
      }
    }
    const rows = cases.map(({ title, ranks }, i) => {
      const { command, report, stages } = found[i]!;
      const spreadText = (times: readonly number[]) => {
        const { median, least, largest } = spreadOver(times);
        return `${milliseconds(median)} (${milliseconds(least)}–${milliseconds(largest)})`;
      };
      const spread = (all: readonly Found[], key: string) => spreadText(all.map((f) => f.times[key]!));
      const memory = Math.max(...report.map((f) => f.memory));
      return [
        `${title}, ${ranks} ranks`,
        `${stages[0]!.nodes}`,
        spreadText(command),
        spread(report, "report"),
        `${(memory / 1e6).toFixed(0)}`,
        ...STAGES.map((stage) => spread(stages, stage)),
      ];
    });
    const head = ["ms", "nodes", "command", "report", "its MB", ...STAGES];
    print(printTable({ head, rows }, options.markdown));
    print(`\n${describeMachine()}; ${new Date().toISOString().slice(0, 10)}.`);
    print(
      `${rounds} interleaved rounds, each time in a new process, medians (least–largest); MB: the largest resident set.`,
    );
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** The time of the whole command, in ms. */
async function runCommand(model: string, ranks: number): Promise<number> {
  const cli = new URL("../cli/main.ts", import.meta.url).pathname;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", cli, "plan", model, "--tp", String(ranks)],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  });
  const began = performance.now(), { code } = await command.output();
  if (code !== 0) throw new Error(`Planning ${model} ended with code ${code}`);
  return performance.now() - began;
}

async function runJob(job: Job): Promise<Found> {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", new URL(import.meta.url).pathname, "--job", JSON.stringify(job)],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`Planning ${JSON.stringify(job)} ended with code ${code}`);
  return JSON.parse(new TextDecoder().decode(stdout)) as Found;
}

function measure({ model, ranks, what }: Job): Found {
  const times: Record<string, number> = {};
  let last = performance.now(), nodes = 0;
  const lap = (name: string) => {
    const now = performance.now();
    times[name] = now - last;
    last = now;
  };
  if (what === "report") {
    explainModel(model, { ranks, config: { calibrated: false } });
    lap("report");
  } else {
    using file = readOnnx(model);
    const graph = importOnnx(file);
    lap("read");
    const ctx = new ParallelExecutionCtx({ ranks, rank: 0 });
    const clean = cleanModel(graph, ctx);
    lap("clean");
    const solved = new ParallelAxisSolverPass().apply(clean, ctx);
    lap("plan");
    new ParallelLayerReplacePass().apply(new ParallelLayerAnnotatePass().apply(solved, ctx), ctx);
    lap("replace");
    nodes = clean.nodes.length;
  }
  return { times, memory: Deno.memoryUsage().rss, nodes };
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}
