/**
 * The cost model against the clock: predicted and measured time of one token over plans that differ, and how well their order agrees.
 *
 *     deno run -A bench/plan_accuracy.ts [--model llama|gpt2|FILE.onnx] [--ranks 2] [--rounds 3] [--past 128] [--markdown]
 *
 * The plans are the solver's, those of simple rules, and the solver's with some layers overridden; equal ones are measured once. Run
 * `shardwise calibrate` first: predictions use its costs. Every measurement runs in processes of its own, round by round. Of a plan's rounds
 * the fastest counts, as other programs only ever make it longer.
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { launch } from "../launcher/launch.ts";
import type { Config } from "../src/passes/context.ts";
import { placementKey } from "../src/graph/placement.ts";
import { explainModel } from "../src/explain_model.ts";
import { ARCHITECTURES } from "./models/architectures.ts";
import { describeDecoder } from "./models/decoder.ts";
import { cachedModel } from "./models/model_cache.ts";
import type { RankMeasured, RankTask } from "./models/rank.ts";
import { median } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { milliseconds, printTable } from "./models/table.ts";

/** Plans that are priced and run. Patterns that a model has no layer for are left out. */
const VARIANTS: readonly { readonly name: string; readonly config: Config }[] = [
  { name: "solver", config: {} },
  { name: "megatron", config: { baseline: "megatron" } },
  { name: "replicated", config: { baseline: "replicated" } },
  { name: "rowwise", config: { baseline: "rowwise" } },
  { name: "columnwise", config: { baseline: "columnwise" } },
  { name: "head whole", config: { overrides: { lm_head: "replicated" } } },
  { name: "head by rows", config: { overrides: { lm_head: "row" } } },
  { name: "feed-forward whole", config: { overrides: { "*.mlp.*": "replicated" } } },
  { name: "attention output whole", config: { overrides: { "*.o_proj": "replicated" } } },
  { name: "attention output whole", config: { overrides: { "*.attn.c_proj": "replicated" } } },
  { name: "down projection by columns", config: { overrides: { "*.down_proj": "column" } } },
  { name: "down projection by columns", config: { overrides: { "*.mlp.c_proj": "column" } } },
];

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "llama" },
    ranks: { type: "string", default: "2" },
    threads: { type: "string", default: "1" },
    rounds: { type: "string", default: "3" },
    past: { type: "string", default: "128" },
    tokens: { type: "string", default: "24" },
    cache: { type: "string", default: fileURLToPath(new URL("../.cache/bench", import.meta.url)) },
    markdown: { type: "boolean", default: false },
  },
});
await compare();

async function compare(): Promise<void> {
  const path = options.model === "llama" || options.model === "gpt2"
    ? cachedModel(ARCHITECTURES[options.model], options.cache)
    : options.model;
  const ranks = Number(options.ranks);
  const found = VARIANTS.flatMap(({ name, config }) => {
    try {
      const { plan, report, measured } = explainModel(path, { ranks, config });
      const key = [...plan.placements].map(([value, p]) => `${value} ${placementKey(p)}`).sort().join();
      return [{ name, config, cost: report.cost, measured, key, times: [] as number[] }];
    } catch (error) {
      // A pattern of another architecture.
      if (error instanceof Error && error.message.startsWith("No layer matches")) return [];
      throw error;
    }
  });
  const plans = [...Map.groupBy(found, ({ key }) => key).values()].map((same) => ({
    ...same[0]!,
    name: same.map((p) => p.name).join(" = "),
  }));
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const plan of plans) plan.times.push(await measureToken(path, ranks, plan.config));
  }
  const predicted = plans.map((p) => (p.cost.compute + p.cost.communication) * 1000);
  const least = plans.map((p) => Math.min(...p.times));
  const rows = plans.map((p, i) => [
    p.name,
    milliseconds(predicted[i]!),
    milliseconds(p.cost.communication * 1000),
    milliseconds(least[i]!),
    `${milliseconds(Math.min(...p.times))}–${milliseconds(Math.max(...p.times))}`,
    (predicted[i]! / least[i]!).toFixed(2),
  ]);
  print(printTable({
    head: ["ms a token", "predicted", "of it collectives", "measured", "rounds", "predicted / measured"],
    rows,
  }, options.markdown));
  print(
    `\nrank correlation ${rankCorrelation(predicted, least).toFixed(3)} over ${plans.length} plans, ${ranks} ranks`,
  );
  print(`costs: ${plans[0]?.measured ? `measured on this host, ${plans[0].measured.measured}` : "defaults"}`);
  print(`${describeMachine()}; ${new Date().toISOString().slice(0, 10)}.`);
}

async function measureToken(model: string, ranks: number, config: Config): Promise<number> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-accuracy-" });
  try {
    const workload = {
      prefill: [],
      decode: [Number(options.past)],
      repeats: 1,
      tokens: Number(options.tokens),
      vocabulary: describeDecoder(model).vocabulary,
    };
    const task: RankTask = { model, workload, folder, threads: Number(options.threads), config };
    Deno.writeTextFileSync(`${folder}/task.json`, JSON.stringify(task));
    const script = new URL("models/rank.ts", import.meta.url).href;
    const program = { kind: "deno", script } as const;
    const code = await launch({ program, args: [`${folder}/task.json`], nproc: ranks, output: "rank0", stdin: "none" });
    if (code !== 0) throw new Error(`The ranks ended with code ${code}`);
    const results = Array.from(
      { length: ranks },
      (_, r) => JSON.parse(Deno.readTextFileSync(`${folder}/rank${r}.json`)) as RankMeasured,
    );
    return Math.max(...results.map((r) => median(r.times[`decode ${options.past}`]!)));
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** Spearman's: 1 where both put things in the same order. Equal values share a rank. */
function rankCorrelation(a: readonly number[], b: readonly number[]): number {
  const ranksOf = (xs: readonly number[]) =>
    xs.map((x) => xs.filter((y) => y < x).length + (xs.filter((y) => y === x).length - 1) / 2);
  const x = ranksOf(a), y = ranksOf(b), mean = (a.length - 1) / 2;
  const sum = (f: (i: number) => number) => x.reduce((total, _, i) => total + f(i), 0);
  return sum((i) => (x[i]! - mean) * (y[i]! - mean)) /
    Math.sqrt(sum((i) => (x[i]! - mean) ** 2) * sum((i) => (y[i]! - mean) ** 2));
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}
