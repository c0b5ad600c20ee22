/** `shardwise plan`: what a model would become on N ranks, and what it would cost otherwise. Starts no ranks. */
import { join } from "node:path";
import Table from "cli-table3";
import { graphsBeside, ModelFolder } from "../src/generate/model_folder.ts";
import { PLAN_COLUMNS, type PlanReport, planRows, planSummary } from "../src/plan/explain.ts";
import { foldRows, planOutline } from "../src/plan/outline.ts";
import { type Baseline, BASELINES } from "../src/plan/baselines.ts";
import { isFile } from "../src/core/paths.ts";
import { didYouMean } from "../src/core/suggest.ts";
import { type DeviceMesh, meshSize, parseMesh, printMesh } from "../src/plan/mesh.ts";
import { printBytes, printSeconds } from "../src/plan/units.ts";
import type { Measurement } from "../src/runtime/host/calibration.ts";
import { compareMeshes, explainModel } from "../src/explain_model.ts";
import { FOLDER_FILES, shardedFor } from "../src/sharded_folder.ts";
import type { RewriteNote } from "../src/passes/rewrites/rewrite.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { comparisonScreen, explanationScreen } from "./plan_explain.ts";
import { namedSizes } from "./named_sizes.ts";
import { checkOutput } from "./output_file.ts";
import { HTML, writePlanPage } from "./plan_html.ts";
import { checkPlanFile, passConfig, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { printNote, printResult } from "./print.ts";

/** The command. */
export const plan: Command = {
  name: "plan",
  summary: "show how a model would be split over N ranks, and what that costs",
  usage: "MODEL.onnx --tp N [--explain LAYER] [--compare megatron,rowwise] [OPTIONS]",
  description:
    "Prints every layer with what becomes of it (column-, row- or vocab-parallel, or replicated), the placement of its weights\n" +
    "(R: whole on every rank; S(d): cut along dim d), its bytes on a rank, its collectives with the bytes of one token, and what\n" +
    "the model would cost more if this one layer were not split. Equal layers share a row, of which the numbers are those of each.\n" +
    "No rank is started, and no weights are read.",
  options: {
    tp: { short: "n", value: "N", help: "ranks to plan for; required" },
    set: {
      value: "NAME=SIZE",
      many: true,
      help:
        "size of a symbolic dim at which costs are compared, as in sequence_length=16;\ndefault: 1 new token after 128, or 128 tokens for a model without a cache",
    },
    rewrites: { help: "list which patterns became fused ops, and why others did not" },
    explain: {
      value: "LAYER",
      many: true,
      help: "why LAYER is what it is, and what every alternative costs; a name, its end, or a pattern with *",
    },
    compare: {
      value: "RULES",
      help: `put plans by simple rules beside this one; of ${BASELINES.join(", ")}`,
    },
    mesh: {
      value: "dp=D,tp=T",
      help: "D groups of T ranks: groups share the batch, the ranks of a group the layers; instead of --tp.\n" +
        "dp=D,tp=T,assume: samples are known to be independent where that cannot be proved",
    },
    ...PLAN_OPTIONS,
    html: HTML,
    json: { help: "print all placements, strategies, collectives and costs as JSON" },
  },
  examples: [
    "shardwise plan model.onnx --tp 4",
    "shardwise plan model.onnx --tp 4 --explain 'layers.0.mlp.*'",
    "shardwise plan model.onnx --tp 4 --override lm_head=replicated --compare megatron,rowwise",
    "shardwise plan model.onnx --tp 4 --memory-per-rank 6GB --context 8192",
    "shardwise plan smollm2/ --tp 2 --json > plan.json",
    "shardwise plan smollm2/ --tp 2 --html plan.html",
  ],
  run: printPlan,
};

async function printPlan(args: ParsedArgs): Promise<number> {
  const mesh = meshOf(args);
  const named = args.only("MODEL.onnx"), { model, encoder, firstStep } = ModelFolder.open(named);
  const made = shardedFor(model);
  const ranks = mesh ? meshSize(mesh) : args.number("tp", { least: 1, most: 1024, whole: true }) ?? made;
  if (ranks === undefined) throw args.error("--tp N is missing");
  const priced = ["explain", "compare"].find((name) => args.texts(name).length > 0);
  if (made !== undefined && priced !== undefined) {
    throw args.error(
      `--${priced} has no effect on ${model}, which is split already`,
      `name ${join(model, FOLDER_FILES.model)}`,
    );
  }
  if (made !== undefined && !isFile(join(model, FOLDER_FILES.model))) {
    throw args.error(
      `${model} was split with --quantize, and does not hold the whole model`,
      `its plan is ${join(model, FOLDER_FILES.plan)}; or name the model itself, with --quantize`,
    );
  }
  const nominal = namedSizes(args), baselines = rules(args);
  checkOutput(args.text("html"), "html", args);
  const asked = planConfig(args);
  checkPlanFile(args, asked, { ranks: mesh?.tp ?? ranks, model });
  // A model in parts has its plan beside it.
  const config = {
    nominal,
    ...passConfig(made === undefined ? asked : { file: join(model, FOLDER_FILES.plan) }, mesh?.tp ?? ranks),
  };
  const graph = made === undefined ? model : join(model, FOLDER_FILES.model);
  const begun = join(model, FOLDER_FILES.firstStep), first = shardedFor(begun) === undefined ? firstStep : begun;
  // Who names a folder means a model with all of its graphs.
  const beside = named === model ? [] : graphsBeside(graph);
  const explained = explainModel(graph, { ranks, ...(mesh ? { mesh } : {}), config, firstStep: first, beside });
  const { report } = explained;
  const explanations = args.texts("explain").flatMap((pattern) => explained.explain(pattern));
  const comparison = baselines.length > 0 ? explained.compare(baselines) : undefined;
  if (args.flag("rewrites") && !args.flag("json")) printResult(rewriteLines(explained.rewrites).join("\n"));
  if (args.flag("json")) {
    const { measured } = explained;
    const more = {
      ...(measured ? { measured } : {}),
      ...(explanations.length > 0 ? { explanations } : {}),
      ...(comparison ? { comparison } : {}),
    };
    printResult(JSON.stringify({ ...explained.file(), ...more }, undefined, 1));
    await writePlanPage(args, { model: graph, ranks: mesh?.tp ?? ranks, config, firstStep: first, beside });
    return 0;
  }
  const screens = [
    ...explanations.map(explanationScreen),
    ...(comparison ? [comparisonScreen(comparison)] : []),
  ];
  const head = screens.length > 0 ? [planSummary(report), ...screens].join("\n\n") : planScreen(report);
  if (mesh && mesh.dp > 1) {
    const groups = `${mesh.dp} groups that share the batch, of ${mesh.tp} rank${mesh.tp === 1 ? "" : "s"} each`;
    printResult(`mesh ${printMesh(mesh)}: ${groups}; the plan of a group for its share of a step:\n`);
  }
  printResult(`${head}\n${costsLine(explained.measured)}`);
  if (mesh && mesh.dp > 1 && config.plan === undefined) {
    printResult(`\n${meshLines(compareMeshes(graph, { mesh, config, firstStep: first, beside })).join("\n")}`);
  }
  if (named !== model && encoder !== undefined) {
    printNote(`this is the decoder, after its first step; the encoder: shardwise plan ${encoder} --tp ${ranks}`);
  }
  await writePlanPage(args, { model: graph, ranks: mesh?.tp ?? ranks, config, firstStep: first, beside });
  return 0;
}

/** The mesh that is asked for. @throws {UsageError} If it cannot be read, or `--tp` says something else. */
export function meshOf(args: ParsedArgs): DeviceMesh | undefined {
  const text = args.text("mesh");
  if (text === undefined) return undefined;
  const mesh = args.reading(() => parseMesh(text)), tp = args.text("tp");
  if (tp !== undefined && Number(tp) !== mesh.tp) throw args.error(`--tp ${tp} and --mesh ${text} disagree`);
  return mesh;
}

/** What each mesh of as many ranks would cost, a line each. */
function meshLines({ rows, meshes }: ReturnType<typeof compareMeshes>): string[] {
  return [
    `meshes of as many ranks, for a step of ${rows} row${rows === 1 ? "" : "s"}:`,
    ...meshes.map(({ mesh, seconds, weightBytes }) =>
      `  ${printMesh(mesh).padEnd(14)}${printSeconds(seconds).padEnd(10)}${printBytes(weightBytes)} of weights a rank`
    ),
  ];
}

/** Which costs a plan was made with. */
export function costsLine(measured: Measurement | undefined): string {
  return measured === undefined
    ? "costs: defaults; `shardwise calibrate` measures this host"
    : `costs: measured on this host with ${measured.ranks} rank${measured.ranks === 1 ? "" : "s"} on ${
      measured.measured.slice(0, 10)
    }`;
}

function rules(args: ParsedArgs): Baseline[] {
  return (args.text("compare")?.split(",") ?? []).map((name) => {
    const known = BASELINES.find((b) => b === name.trim());
    if (known === undefined) {
      throw args.error(`--compare ${JSON.stringify(name)} is no rule${didYouMean(name, BASELINES)}`);
    }
    return known;
  });
}

/** The report as a table between an outline and the estimated cost. */
export function planScreen(report: PlanReport): string {
  const table = new Table({ head: [...PLAN_COLUMNS], style: { head: [], border: [], compact: true } });
  table.push(...foldRows(planRows(report)));
  const { compute, communication, memory } = report.cost;
  const ms = (s: number) => `${(s * 1000).toPrecision(3)} ms`;
  return [
    planSummary(report),
    ...planOutline(report).map((line) => `  ${line}`),
    table.toString(),
    `one step, estimated: ${ms(compute + communication)} (${ms(compute)} of work on the slowest rank, ${
      ms(communication)
    } of collectives)`,
    `memory of the rank with the most: ${printBytes(memory.total)} (weights ${printBytes(memory.weights)}, KV cache ${
      printBytes(memory.states)
    }, activations ${printBytes(memory.activations)})`,
    ...(report.gap > 0 ? [`a better plan may exist, by at most ${printSeconds(report.gap)} a step`] : []),
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
