/** `shardwise plan`: what a model would become on N ranks, and what it would cost otherwise. Starts no ranks. */
import Table from "cli-table3";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { PLAN_COLUMNS, planJson, type PlanReport, planRows, planSummary } from "../src/plan/explain.ts";
import { planOutline } from "../src/plan/outline.ts";
import { explainModel } from "../src/session.ts";
import type { RewriteNote } from "../src/passes/rewrites/rewrite.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { MODEL_OPTIONS, modelConfig } from "./job.ts";
import { printResult } from "./print.ts";

/** The command. */
export const plan: Command = {
  name: "plan",
  summary: "show how a model would be split over N ranks, and what that costs",
  usage: "MODEL.onnx --tp N [--json]",
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
    rewrites: { help: "list which patterns became fused ops, and why others did not" },
    ...MODEL_OPTIONS,
    json: { help: "print all placements, strategies, collectives and costs as JSON" },
  },
  examples: ["shardwise plan model.onnx --tp 4", "shardwise plan smollm2/ --tp 2 --json > plan.json"],
  run: printPlan,
};

function printPlan(args: ParsedArgs): Promise<number> {
  const ranks = args.number("tp", { least: 1, most: 1024, whole: true });
  if (ranks === undefined) throw args.error("--tp N is missing");
  const nominal = sizes(args);
  const { model } = ModelFolder.open(args.only("MODEL.onnx"));
  const { plan, report, rewrites } = explainModel(model, { ranks, config: { ...modelConfig(args), nominal } });
  if (args.flag("rewrites") && !args.flag("json")) printResult(rewriteLines(rewrites).join("\n"));
  printResult(args.flag("json") ? JSON.stringify(planJson(report, plan), undefined, 1) : planScreen(report));
  return Promise.resolve(0);
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

/** What each rule did, a line for each outcome, with the first place where it came to it. */
export function rewriteLines(notes: readonly RewriteNote[]): string[] {
  const outcomes = Map.groupBy(notes, ({ rule, reason }) => `${rule}: ${reason ?? "rewritten"}`);
  if (outcomes.size === 0) return ["rewrites: none of the patterns is in this model"];
  return [
    "rewrites:",
    ...[...outcomes].map(([text, all]) => {
      const more = all.length > 1 ? ` and ${all.length - 1} more` : "";
      return `  ${text} (${all[0]!.node}${more})`;
    }),
  ];
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
