/** `shardwise verify`: runs stored cases at several world sizes and compares with what they should give. */
import Table from "cli-table3";
import type { Command, ParsedArgs } from "./command.ts";
import { type FolderCases, hasCases, readCases } from "./cases.ts";
import { DrawnCases } from "./drawn_cases.ts";
import { namedSizes } from "./named_sizes.ts";
import type { OutputDifference, Tolerance } from "./compare.ts";
import { heldCases } from "./held_cases.ts";
import { ModelFolder } from "../src/generate/model_folder.ts";
import { didYouMean } from "../src/core/suggest.ts";
import { meshSize, parseMesh } from "../src/plan/mesh.ts";
import {
  type Against,
  DEVICE_OPTIONS,
  jobDevice,
  MESH,
  startJob,
  type VerifyCase,
  type VerifyJob,
  type VerifyResult,
} from "./job.ts";
import { passConfig, PLAN_OPTIONS, planConfig } from "./plan_options.ts";
import { printNote, printResult } from "./print.ts";

/** Exit codes of a job that somebody stopped: SIGHUP, SIGINT, SIGTERM. */
const INTERRUPTED: ReadonlySet<number> = new Set([129, 130, 143]);

const AGAINST: readonly Against[] = ["reference", "unsharded"];

/** The command. */
export const verify: Command = {
  name: "verify",
  summary: "check models against stored outputs at several world sizes",
  usage: "FOLDER|MODEL… [--nproc 1,2,3,4] [--against unsharded] [--cases PATTERN] [--json]",
  description:
    "Each FOLDER (or folders in it) holds cases.json, a list of {name, model, inputs, expected, atol, rtol}: file names in the\n" +
    "folder, and what is allowed. Where there is a generate.json, {prompt, greedy}, greedy search must give those ids. A case\n" +
    "passes when |got - expected| <= atol + rtol * |expected| for every element of every output, and dtypes and shapes are\n" +
    "equal. Relative differences in the table are taken where |expected| > atol. Exits 1 when a case fails.\n\n" +
    "With --dtype fp16 or bf16, outputs may differ besides by a few times what rounding every value to it does to them: the model runs\n" +
    "once unsplit on the CPU so, in 32 bits, with no op fused. Texts are skipped.\n\n" +
    "A reference of another runtime or processor may differ by more than is allowed (8-bit products above all). Of a case that\n" +
    "fails, the table says whether the model differs from its reference unsplit too; --against unsharded holds models against\n" +
    "that alone, so that only what splitting changes fails. It takes models without cases too (an .onnx file, or a folder): on\n" +
    "inputs drawn after their names and types.",
  options: {
    nproc: { short: "n", value: "1,2,…", help: "world sizes; default 1,2,3,4" },
    mesh: {
      ...MESH,
      help:
        "D groups of T ranks, instead of --nproc: groups share the rows of a case; each generates all of a text.\n" +
        "dp=D,tp=T,assume: samples are known to be independent where that cannot be proved",
    },
    against: {
      value: AGAINST.join("|"),
      help: "what is expected: the stored outputs (default), or what one ONNX Runtime session gives here",
    },
    set: {
      value: "NAME=SIZE",
      many: true,
      help: "size of a symbolic dim of drawn inputs, as in num_channels=3",
    },
    cases: { value: "PATTERN", help: "only cases whose name contains PATTERN; * stands for anything" },
    ...DEVICE_OPTIONS,
    ...PLAN_OPTIONS,
    json: { help: "print the results as JSON, every output by itself" },
  },
  examples: [
    "shardwise verify models/llama models/gpt2 --nproc 1,2,3,4",
    "shardwise verify models/bert --mesh dp=2,tp=2 --cases 'batch*'",
    'shardwise verify models --cases "llama*decode"',
    "shardwise verify my-model.onnx --against unsharded --nproc 2,3",
  ],
  run: verifyFolders,
};

async function verifyFolders(args: ParsedArgs): Promise<number> {
  if (args.positionals.length === 0) throw args.error("FOLDER is missing");
  const text = args.text("mesh"), mesh = text === undefined ? undefined : args.reading(() => parseMesh(text));
  if (mesh && args.text("nproc") !== undefined) throw args.error("--mesh and --nproc exclude each other");
  const sizes = mesh ? [meshSize(mesh)] : args.numbers("nproc", { least: 1 }) ?? [1, 2, 3, 4];
  const against = againstOf(args);
  using drawn = new DrawnCases();
  const on = jobDevice(args), found = heldCases(await findCases(args, { against, drawn }), on.dtype);
  const { cases, skipped } = select(found, args.text("cases"));
  if (cases.length === 0 && skipped.length === 0) {
    const pattern = args.text("cases");
    if (pattern === undefined) {
      throw args.error("cases.json holds no case", "shardwise verify --help explains the format");
    }
    throw args.error(
      `no case matches --cases ${JSON.stringify(pattern)}`,
      "leave --cases out to see all names",
    );
  }
  const plan = planConfig(args), results: VerifyResult[] = [];
  for (const size of sizes) passConfig(plan, mesh?.tp ?? size);
  for (const size of cases.length > 0 ? sizes : []) {
    const began = performance.now();
    results.push(...await verifyAt(cases, { size, on, plan, against, ...(mesh ? { mesh } : {}) }));
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    printNote(
      `${size} rank${size === 1 ? "" : "s"}: ${cases.length} case${cases.length === 1 ? "" : "s"} in ${seconds} s`,
    );
  }
  const failed = results.filter(({ pass }) => !pass).length;
  if (args.flag("json")) {
    const models = new Map(cases.map((c) => [c.name, c.model]));
    const named = results.map((r) => ({ ...r, model: models.get(r.name) }));
    printResult(JSON.stringify({ against, results: named, skipped }, undefined, 1));
  } else {
    printResult(verifyTable(cases, results, skipped));
    const skips = skipped.length > 0 ? `, ${skipped.length} skipped` : "";
    printResult(`${results.length - failed} passed, ${failed} failed${skips}`);
  }
  return failed > 0 ? 1 : 0;
}

/**
 * All cases at one world size, in one launch. A case that ends the job (a crash, ranks out of step) fails, and another launch goes on
 * after it.
 */
async function verifyAt(
  cases: readonly VerifyCase[],
  { size, ...how }: { readonly size: number } & Omit<VerifyJob, "kind" | "cases">,
): Promise<VerifyResult[]> {
  const results: VerifyResult[] = [];
  while (results.length < cases.length) {
    const { code, reports } = await startJob({ kind: "verify", ...how, cases: cases.slice(results.length) }, size);
    results.push(...reports as VerifyResult[]);
    if (INTERRUPTED.has(code)) Deno.exit(code);
    const next = cases[results.length];
    if (next === undefined) break;
    const problem = `the job ended with code ${code} in this case`;
    results.push({ name: next.name, ranks: size, pass: false, outputs: [], problem, ms: 0 });
  }
  return results;
}

/** @throws {UsageError} If it is none of what models can be held against. */
function againstOf(args: ParsedArgs): Against {
  const text = args.text("against") ?? "reference", known = AGAINST.find((a) => a === text);
  if (known !== undefined) return known;
  throw args.error(`--against ${JSON.stringify(text)} is not ${AGAINST.join(" or ")}${didYouMean(text, AGAINST)}`);
}

/** Stored cases; against the unsplit model, drawn ones of models that have none. */
async function findCases(
  args: ParsedArgs,
  { against, drawn }: { readonly against: Against; readonly drawn: DrawnCases },
): Promise<FolderCases> {
  const sizes = namedSizes(args);
  if (against === "reference") return readCases(args.positionals);
  const bare = args.positionals.filter((path) => !hasCases(path));
  const stored = args.positionals.length > bare.length
    ? readCases(args.positionals.filter((path) => !bare.includes(path)))
    : { cases: [], skipped: [] };
  const made: VerifyCase[] = [];
  for (const path of bare) made.push(await drawn.draw(ModelFolder.open(path).model, sizes));
  return { ...stored, cases: [...stored.cases, ...made] };
}

function select({ cases, skipped }: FolderCases, pattern: string | undefined): FolderCases {
  const parts = (pattern ?? "").split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  const wanted = new RegExp(parts.join(".*"));
  return {
    cases: cases.filter(({ name }) => wanted.test(name)),
    skipped: skipped.filter(({ name }) => wanted.test(name)),
  };
}

/** The results as a table; outputs whose names differ by a number only share a line, which shows the worst of them. */
export function verifyTable(
  cases: readonly VerifyCase[],
  results: readonly VerifyResult[],
  skipped: FolderCases["skipped"],
): string {
  const table = new Table({
    head: ["case", "ranks", "output", "max abs", "max rel", "tolerance", "result"],
    style: { head: [], border: [], compact: true },
  });
  const byName = new Map(cases.map((c) => [c.name, c]));
  const sorted = results.map((result, i) => ({ result, order: cases.findIndex((c) => c.name === result.name), i }))
    .sort((a, b) => a.order - b.order || a.i - b.i);
  for (const { result } of sorted) {
    const c = byName.get(result.name);
    const lines = outputLines(result, c);
    table.push([
      result.name,
      result.ranks,
      lines.map((line) => line.name).join("\n"),
      lines.map((line) => line.abs).join("\n"),
      lines.map((line) => line.rel).join("\n"),
      c?.kind === "outputs" ? allowed(c, result.outputs) : "equal",
      result.pass ? "pass" : "FAIL",
    ]);
    if (result.problem !== undefined) table.push([{ colSpan: 7, content: wrapped(result.problem) }]);
    if (result.verdict !== undefined) table.push([{ colSpan: 7, content: wrapped(result.verdict) }]);
    for (const output of result.outputs.filter(({ problem }) => problem !== undefined)) {
      table.push([{ colSpan: 7, content: wrapped(`${output.name}: ${output.problem}`) }]);
    }
  }
  for (const { name, reason } of skipped) table.push([name, "", { colSpan: 5, content: `skipped: ${reason}` }]);
  return table.toString();
}

/** The tolerance of a case; where outputs are held in 16 bits, with the largest part of what rounding explains that one of them uses. */
function allowed({ atol, rtol }: Tolerance, outputs: readonly OutputDifference[]): string {
  const used = outputs.flatMap(({ rms, rmsAllowed }) => rms !== undefined && rmsAllowed ? [rms / rmsAllowed] : []);
  const rounding = used.length === 0 ? "" : ` + rounding (${(100 * Math.max(...used)).toFixed(0)} % of it)`;
  return `${atol} + ${rtol}·|x|${rounding}`;
}

/** A message as indented lines, so that one of an engine does not make the table as wide as itself. */
function wrapped(message: string): string {
  const lines = message.split("\n").flatMap((line) => line.match(/\S.{0,100}(?=\s|$)|\S+/g) ?? []);
  return lines.map((line) => `  ${line.trim()}`).join("\n");
}

function outputLines(result: VerifyResult, c: VerifyCase | undefined): { name: string; abs: string; rel: string }[] {
  if (c?.kind === "greedy" || c?.kind === "seq2seq") return [{ name: `${c.expected.length} tokens`, abs: "", rel: "" }];
  const groups = new Map<string, OutputDifference[]>();
  for (const output of result.outputs) {
    const key = output.name.replace(/\d+/g, "*");
    groups.set(key, [...groups.get(key) ?? [], output]);
  }
  return [...groups].map(([key, outputs]) => ({
    name: outputs.length === 1 ? outputs[0]!.name : `${key} (${outputs.length})`,
    abs: worst(outputs.map(({ maxAbs }) => maxAbs)),
    rel: worst(outputs.map(({ maxRel }) => maxRel)),
  }));
}

function worst(values: readonly (number | null)[]): string {
  const numbers = values.map((v) => v ?? NaN); // JSON has no NaN
  if (numbers.some(Number.isNaN)) return "–";
  const largest = Math.max(...numbers);
  return largest === 0 ? "0" : largest.toExponential(1);
}
