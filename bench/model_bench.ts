/**
 * Whole models: our ranks against one ONNX Runtime session on the original model, interleaved round by round.
 *
 *     deno run -A bench/model_bench.ts --model llama|gpt2|FOLDER|FILE.onnx [--rounds 5] [--markdown] …
 *
 * `llama` and `gpt2` are written by the bench itself (once, into `--cache`); a FOLDER holds a model.onnx with past.
 */
import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { parseQuantize } from "../src/passes/quantise/weight_format.ts";
import { type Architecture, ARCHITECTURES } from "./models/architectures.ts";
import { describeDecoder } from "./models/decoder.ts";
import type { ProcessMemory } from "../src/runtime/host/process_memory.ts";
import { cachedModel } from "./models/model_cache.ts";
import { type Round, runRound, type Setup } from "./models/round.ts";
import { median, type Spread, spreadOver } from "../src/core/statistics.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import { mebibytes, milliseconds, printTable, type Table } from "./models/table.ts";
import { caseNames } from "./models/workload.ts";

const HELP = `deno run -A bench/model_bench.ts [options]
  --model NAME        llama, gpt2, a folder with a model.onnx, or an ONNX file; default llama
  --rounds N          rounds, each with both sides in new processes; default 5
  --decode LIST       past lengths of single tokens; default 128, for other models 64,512
  --prefill LIST      prompt lengths; default 16,128, for other models 37,256
  --tokens N          single tokens a decode case in a round, around the past length; default 34
  --repeats N         prompts a prefill case in a round; default 5
  --ranks N           our ranks; default 2
  --threads N         threads of each rank's sessions; default 1
  --peer-threads N    threads of the peer's session; default 2
  --peer-model FILE   what the peer runs, where it is another file: the same model in 4 bits, say
  --last-logits       our ranks give logits of the last position only, as for generation; the peer gives all
  --quantize LIST     how our ranks hold weights, as in the command line: int4,lm_head=int8
  --tolerance X       difference of logits, against the largest, that is rounding; default 0.002. Products that round
                      activations to 8 bits (4-bit weights) need 0.05
  --cache FOLDER      where llama and gpt2 are written; default .cache/bench of this project
  --markdown          print for docs/benchmarks.md`;

const { values: options } = parseArgs({
  options: {
    model: { type: "string", default: "llama" },
    rounds: { type: "string", default: "5" },
    decode: { type: "string" },
    prefill: { type: "string" },
    tokens: { type: "string", default: "34" },
    repeats: { type: "string", default: "5" },
    ranks: { type: "string", default: "2" },
    threads: { type: "string", default: "1" },
    "peer-model": { type: "string" },
    quantize: { type: "string" },
    "last-logits": { type: "boolean", default: false },
    "peer-threads": { type: "string", default: "2" },
    tolerance: { type: "string", default: "0.002" },
    cache: { type: "string", default: fileURLToPath(new URL("../.cache/bench", import.meta.url)) },
    markdown: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

if (options.help) {
  print(HELP);
  Deno.exit(0);
}
const { path, title, lengths } = findModel(options.model);
const decoder = describeDecoder(path);
const setup: Setup = {
  model: path,
  peerModel: options["peer-model"] ?? path,
  decoder,
  config: {
    ...(options.quantize === undefined ? {} : { quantize: parseQuantize(options.quantize.split(",")) }),
    ...(options["last-logits"] ? { logits: "last" } : {}),
  },
  workload: {
    decode: numbers("decode", options.decode ?? lengths.decode),
    prefill: numbers("prefill", options.prefill ?? lengths.prefill),
    tokens: number("tokens", options.tokens),
    repeats: number("repeats", options.repeats),
    vocabulary: decoder.vocabulary,
  },
  ranks: number("ranks", options.ranks),
  threadsPerRank: number("threads", options.threads),
  peerThreads: number("peer-threads", options["peer-threads"]),
  tolerance: Number(options.tolerance),
};
const rounds: Round[] = [];
for (let i = 0; i < number("rounds", options.rounds); i++) {
  // Taking turns: neither side always meets a machine that the other one has warmed.
  rounds.push(await runRound(setup, i % 2 === 0 ? ["peer", "ours"] : ["ours", "peer"]));
  note(
    `round ${i + 1}: ${caseNames(setup.workload).map((name) => `${name} ${shortly(rounds.at(-1)!, name)}`).join(", ")}`,
  );
}
report();

/** The file, how to call it, and the lengths that are measured. */
function findModel(model: string): { path: string; title: string; lengths: { decode: string; prefill: string } } {
  const known: Record<string, Architecture> = ARCHITECTURES;
  const architecture = Object.hasOwn(known, model) ? known[model] : undefined;
  if (architecture) {
    const path = cachedModel(architecture, options.cache);
    return { path, title: architecture.title, lengths: { decode: "128", prefill: "16,128" } };
  }
  const isFolder = statSync(model, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const path = isFolder ? `${model}/model.onnx` : model;
  return { path, title: path.split("/").slice(-2).join("/"), lengths: { decode: "64,512", prefill: "37,256" } };
}

function report(): void {
  const { ranks, threadsPerRank, peerThreads, workload } = setup;
  const { difference, scale } = rounds.map((r) => r.agreement).reduce((a, b) => a.difference > b.difference ? a : b);
  const sides = [
    `ONNX Runtime, ${count(peerThreads, "thread")}`,
    `${ranks} ranks × ${count(threadsPerRank, "thread")}`,
  ];
  print([
    title,
    "",
    printTable(timeTable(sides), options.markdown),
    "",
    printTable(memoryTable(sides), options.markdown),
    "",
    `${describeMachine()}; ${new Date().toISOString().slice(0, 10)}.`,
    `${
      count(rounds.length, "interleaved round")
    }, medians of the rounds' medians (least–largest); a round: ${workload.repeats} prompts a length, ` +
    `${workload.tokens} single tokens around a past length, in new processes.`,
    `Logits of both sides: at most ${difference.toExponential(1)} apart where the largest is ${
      scale.toPrecision(3)
    }; equal bits on all ranks.`,
    `The peer's faster way, by case, in the last round: ${rounds.at(-1)!.peer.notes.join("; ")}.`,
    ...new Set(rounds.flatMap((r) => r.ranks.flatMap((rank) => rank.notes))),
  ].join("\n"));
}

function timeTable(sides: readonly string[]): Table {
  const rows = caseNames(setup.workload).map((name) => {
    const peer = rounds.map((r) => median(r.peer.times[name]!));
    const ours = rounds.map((r) => slowest(r, name));
    return row(name, spreadOver(peer), spreadOver(ours));
  });
  const load = row("load", spreadOver(rounds.map((r) => r.peer.loadMs)), spreadOver(rounds.map(slowestLoad)));
  const waiting = rounds.map((r) => Math.max(...r.ranks.map((rank) => rank.waitingMs)));
  const waits = ["in barriers, a token", "", withRange(spreadOver(waiting)), ""];
  return { head: ["ms", ...sides, "ratio"], rows: [...rows, load, waits] };
}

function row(name: string, peer: Spread, ours: Spread): string[] {
  return [name, withRange(peer), withRange(ours), (ours.median / peer.median).toFixed(2)];
}

function memoryTable(sides: readonly string[]): Table {
  const kinds: readonly (readonly [string, "loaded" | "memory", keyof ProcessMemory])[] = [
    ["private, loaded", "loaded", "private"],
    ["private, at the end", "memory", "private"],
    ["  of which anonymous", "memory", "anonymous"],
    ["shared with others", "memory", "shared"],
    ["proportional", "memory", "proportional"],
    ["peak resident", "memory", "peak"],
  ];
  const rows = kinds.map(([name, when, kind]) => [
    name,
    mebibytes(median(rounds.map((r) => r.peer[when][kind]))),
    mebibytes(median(rounds.map((r) => Math.max(...r.ranks.map((rank) => rank[when][kind]))))),
  ]);
  const weights = Math.max(...rounds[0]!.ranks.map((rank) => rank.weightBytes));
  return {
    head: ["MiB", `${sides[0]}`, `${sides[1]}: largest rank`],
    rows: [["weights", mebibytes(setup.decoder.weightBytes), mebibytes(weights)], ...rows],
  };
}

/** A round's median on the rank where it is largest: a step ends when all ranks have ended it. */
function slowest(round: Round, name: string): number {
  return Math.max(...round.ranks.map((rank) => median(rank.times[name]!)));
}

function slowestLoad(round: Round): number {
  return Math.max(...round.ranks.map((rank) => rank.loadMs));
}

function shortly(round: Round, name: string): string {
  return `${milliseconds(median(round.peer.times[name]!))} / ${milliseconds(slowest(round, name))} ms`;
}

function withRange({ median, least, largest }: Spread): string {
  return `${milliseconds(median)} (${milliseconds(least)}–${milliseconds(largest)})`;
}

function count(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

function number(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) {
    throw new RangeError(`Cannot use --${name} ${text}: expected a whole number from 1 on`);
  }
  return value;
}

function numbers(name: string, text: string): number[] {
  return text.split(",").filter((part) => part !== "").map((part) => number(name, part));
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

function note(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`${text}\n`));
}
