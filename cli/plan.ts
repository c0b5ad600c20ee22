/** `shardwise plan`: what a model would become on N ranks, and what it would cost otherwise. Starts no ranks. */
import { join } from "node:path";
import Table from "cli-table3";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { PLAN_COLUMNS, type PlanReport, planRows, planSummary } from "../src/plan/explain.ts";
import { planOutline } from "../src/plan/outline.ts";
import { explainModel } from "../src/session.ts";
import type { PlanFile } from "../src/plan/plan_file.ts";
import { planSource, readPlanFile } from "../src/plan_source.ts";
import { FOLDER_FILES, shardedFor } from "../src/sharded_folder.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { PLAN, planPath } from "./job.ts";
import { HTML, writePlanPage } from "./plan_html.ts";
import { printResult } from "./print.ts";

/** The command. */
export const plan: Command = {
  name: "plan",
  summary: "show how a model would be split over N ranks, and what that costs",
  usage: "MODEL.onnx --tp N [--json] [--html FILE]",
  description:
    "Prints every layer with what becomes of it (column-, row- or vocab-parallel, or replicated), the placement of its weights\n" +
    "(R: whole on every rank; S(d): cut along dim d), its bytes on a rank, its collectives with the bytes of one token, and what\n" +
    "the model would cost more if this one layer were not split. No rank is started, and no weights are read.",
  options: {
    tp: { short: "n", value: "N", help: "ranks to plan for; required" },
    set: {
      value: "NAME=SIZE",
      many: true,
      help:
        "size of a symbolic dim at which costs are compared, as in sequence_length=16;\ndefault: 1 new token after 128, or 128 tokens for a model without a cache",
    },
    plan: PLAN,
    html: HTML,
    json: { help: "print all placements, strategies, collectives and costs as JSON" },
  },
  examples: [
    "shardwise plan model.onnx --tp 4",
    "shardwise plan smollm2/ --tp 2 --json > plan.json",
    "shardwise plan smollm2/ --tp 2 --html plan.html",
  ],
  run: printPlan,
};

async function printPlan(args: ParsedArgs): Promise<number> {
  const { model } = ModelFolder.open(args.only("MODEL.onnx"));
  const made = shardedFor(model);
  const ranks = args.number("tp", { least: 1, most: 1024, whole: true }) ?? made;
  if (ranks === undefined) throw args.error("--tp N is missing");
  if (made !== undefined && made !== ranks) throw args.error(`${model} was split for ${made} ranks, not ${ranks}`);
  const nominal = sizes(args);
  const given = planPath(args, ranks, model);
  const config = { nominal, ...(given === undefined ? {} : planSource(given, ranks)) };
  const { report, file } = made === undefined ? explainModel(model, { ranks, config }) : storedReport(model);
  printResult(args.flag("json") ? JSON.stringify(file, undefined, 1) : planScreen(report));
  await writePlanPage(args, { model, ranks, config });
  return 0;
}

/** What the plan of a model in parts says of itself. */
function storedReport(folder: string): { readonly report: PlanReport; readonly file: PlanFile } {
  const file = readPlanFile(join(folder, FOLDER_FILES.plan));
  return { report: file, file };
}

/** The report as a table between an outline and the estimated cost. */
export function planScreen(report: PlanReport): string {
  const table = new Table({ head: [...PLAN_COLUMNS], style: { head: [], border: [], compact: true } });
  table.push(...planRows(report));
  const { compute, communication } = report.cost;
  const ms = (s: number) => `${(s * 1000).toPrecision(3)} ms`;
  return [
    planSummary(report),
    ...planOutline(report).map((line) => `  ${line}`),
    table.toString(),
    `one step, estimated: ${ms(compute + communication)} (${ms(compute)} of work on the slowest rank, ${
      ms(communication)
    } of collectives)`,
  ].join("\n");
}

function sizes(args: ParsedArgs): Record<string, number> {
  return Object.fromEntries(
    args.texts("set").map((text) => {
      const [, name, size] = /^([^=]+)=(\d+)$/.exec(text) ?? [];
      if (name === undefined) throw args.error(`--set ${JSON.stringify(text)} is not NAME=SIZE`);
      return [name, Number(size)] as const;
    }),
  );
}
