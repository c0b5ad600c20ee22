/**
 * What planning costs on models as exporters write them: `deno run -A bench/model_plan_bench.ts [--rounds 5] [--markdown]`.
 *
 * Every compilation runs in a process of its own, as it does on a rank: code that has not been compiled yet is slower. Weights are
 * never read by planning, so none are made. `bench/plan_bench.ts` times the search alone, warm, on graphs of its own.
 */
import { parseArgs } from "node:util";
import { ParallelExecutionCtx } from "../src/passes/context.ts";
import { ParallelAxisSolverPass } from "../src/passes/parallel_axis_solver_pass.ts";
import { ParallelLayerAnnotatePass } from "../src/passes/parallel_layer_annotate_pass.ts";
import { ParallelLayerReplacePass } from "../src/passes/parallel_layer_replace_pass.ts";
import { cleanPipeline } from "../src/passes/pipelines.ts";
import { ARCHITECTURES } from "./models/architectures.ts";
import { scaledGraph } from "./models/model_cache.ts";
import { describeMachine, spreadOver } from "./models/statistics.ts";
import { milliseconds, printTable } from "./models/table.ts";

/** One compilation. */
interface Job {
  readonly architecture: keyof typeof ARCHITECTURES;
  readonly layers: number;
  readonly ranks: number;
}

/** Its times, in ms. */
interface Stages {
  readonly clean: number;
  readonly plan: number;
  readonly replace: number;
  /** Nodes that were planned. */
  readonly nodes: number;
}

const { values: options } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    markdown: { type: "boolean", default: false },
    job: { type: "string" },
  },
});
if (options.job !== undefined) print(JSON.stringify(compile(JSON.parse(options.job))));
else await compare(Number(options.rounds));

async function compare(rounds: number): Promise<void> {
  const names = Object.keys(ARCHITECTURES) as Job["architecture"][];
  const jobs: Job[] = names.flatMap((architecture) =>
    [12, 32].flatMap((layers) => [2, 8].map((ranks) => ({ architecture, layers, ranks })))
  );
  const found = jobs.map((): Stages[] => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, job] of jobs.entries()) found[i]!.push(await runJob(job));
  }
  const rows = jobs.map(({ architecture, layers, ranks }, i) => {
    const cell = (stage: keyof Stages) => {
      const { median, least, largest } = spreadOver(found[i]!.map((f) => f[stage]));
      return `${milliseconds(median)} (${milliseconds(least)}–${milliseconds(largest)})`;
    };
    const name = `${architecture}, ${layers} layers, ${ranks} ranks`;
    return [name, `${found[i]![0]!.nodes}`, cell("clean"), cell("plan"), cell("replace")];
  });
  const head = ["ms", "nodes planned", "clean", "plan", "annotate and replace"];
  print(printTable({ head, rows }, options.markdown));
  print(`\n${describeMachine()}; ${new Date().toISOString().slice(0, 10)}.`);
  print(`${rounds} interleaved rounds, each time in a new process, medians (least–largest).`);
}

async function runJob(job: Job): Promise<Stages> {
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", new URL(import.meta.url).pathname, "--job", JSON.stringify(job)],
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`Planning ${JSON.stringify(job)} ended with code ${code}`);
  return JSON.parse(new TextDecoder().decode(stdout)) as Stages;
}

function compile({ architecture, layers, ranks }: Job): Stages {
  const known = ARCHITECTURES[architecture];
  const graph = scaledGraph(known, { ...known.to, layers });
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0 });
  const began = performance.now();
  const clean = cleanPipeline().run(graph, ctx);
  const cleaned = performance.now();
  const solved = new ParallelAxisSolverPass().apply(clean, ctx);
  const planned = performance.now();
  new ParallelLayerReplacePass().apply(new ParallelLayerAnnotatePass().apply(solved, ctx), ctx);
  const replaced = performance.now();
  return { clean: cleaned - began, plan: planned - cleaned, replace: replaced - planned, nodes: clean.nodes.length };
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}
