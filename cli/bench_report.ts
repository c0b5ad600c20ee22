/** What `shardwise bench` found, for people and for programs. */
import Table from "cli-table3";
import { median, type Spread, spreadOver } from "../src/core/statistics.ts";
import { modelName } from "../src/generate/model_folder.ts";
import { rateOf } from "../src/plan/cost.ts";
import { printBytes } from "../src/plan/units.ts";
import type { Measurement } from "../src/runtime/host/calibration.ts";
import { describeMachine } from "../src/runtime/host/describe_machine.ts";
import type { BenchCase, BenchJob, BenchReport } from "./job.ts";

/** A bench that has run. */
export interface BenchRun {
  readonly job: BenchJob;
  readonly report: BenchReport;
  /** What `shardwise calibrate` measured on this host. */
  readonly calibrated: Measurement | undefined;
}

/** What is most in a case, and how near to what is possible it comes. */
interface Work {
  /** What limits it at last: reading weights and states, or multiplying. */
  readonly limit: "memory" | "products";
  /** Bytes a second, or multiply-adds ×2 a second, of a rank. */
  readonly perSecond: number;
  /** Of what a rank could do at most; undefined where nobody knows. */
  readonly share: number | undefined;
}

/** A case with what follows from it. */
interface Judged extends BenchCase {
  readonly name: string;
  /** In a second: tokens, or runs. */
  readonly rate: Spread;
  readonly time: Spread;
  readonly work: Work;
}

function judged(c: BenchCase, run: BenchRun): Judged {
  const { batch } = run.job, time = spreadOver(c.ms);
  const count = c.kind === "prefill" ? batch * (c.tokens ?? 1) : c.kind === "decode" ? batch : 1;
  return {
    ...c,
    name: c.tokens === undefined ? c.kind : `${c.kind} ${c.tokens}`,
    time,
    rate: spreadOver(c.ms.map((ms) => 1000 * count / ms)),
    work: workOf(c, time.median, run),
  };
}

/** A single token is limited by what it reads, a prompt and a run by what they multiply. */
function workOf(c: BenchCase, ms: number, { job, report, calibrated }: BenchRun): Work {
  const peaks = report.ranks[0]?.gpu?.peaks, costs = report.ranks[0]?.gpu ? undefined : calibrated?.costs;
  if (c.kind === "decode") {
    const perSecond = 1000 * (c.weightBytes + c.stateBytes) / ms;
    const most = peaks?.bytesPerSecond ?? costs?.bytesPerSecond;
    return { limit: "memory", perSecond, share: most && perSecond / most };
  }
  const perSecond = 1000 * c.flops / ms / report.ranks.length, rows = job.batch * (c.tokens ?? Infinity);
  const most = peaks
    ? peaks.flopsPerSecond[report.dtype]
    : costs?.flopsPerSecond && rateOf({ gemmRates: costs.gemmRates ?? [], flopsPerSecond: costs.flopsPerSecond }, rows);
  return { limit: "products", perSecond, share: most && perSecond / most };
}

/** Everything as data. */
export function benchJson(run: BenchRun): unknown {
  const { job, report, calibrated } = run, { cases, ...facts } = report, [first] = report.ranks;
  return {
    model: job.model,
    ...facts,
    device: first?.gpu ? { kind: "cuda", name: first.gpu.name } : { kind: "cpu" },
    batch: job.batch,
    rounds: job.rounds,
    newTokens: job.newTokens,
    seed: job.seed,
    machine: describeMachine(),
    measured: new Date().toISOString(),
    ...(first?.gpu || !calibrated ? {} : { calibrated: { ranks: calibrated.ranks, measured: calibrated.measured } }),
    cases: cases.map((c) => {
      const { name, rate, time, work } = judged(c, run);
      const { limit, perSecond, share } = work;
      return {
        name,
        kind: c.kind,
        tokens: c.tokens,
        [`${unitOf(c)}PerSecond`]: rate,
        ms: time,
        waitingMs: median(c.waitingMs),
        hostMs: hostMs(c),
        flops: c.flops,
        weightBytes: c.weightBytes,
        stateBytes: c.stateBytes,
        limit,
        [limit === "memory" ? "bytesPerSecond" : "flopsPerSecond"]: perSecond,
        share,
        notRecorded: c.notRecorded,
        rounds: c.ms,
      };
    }),
  };
}

/** A table, and what belongs to it. */
export function benchScreen(run: BenchRun): string {
  const { report, job } = run, all = report.cases.map((c) => judged(c, run));
  const table = new Table({
    head: ["", "a second", "ms", "waiting", "a rank's work", "is, a second", "of the most"],
    style: { head: [], border: [], compact: true },
  });
  for (const c of all) {
    table.push([
      c.name,
      `${digits(c.rate.median)} ${unitOf(c)} (${digits(c.rate.least)}–${digits(c.rate.largest)})`,
      `${digits(c.time.median)} (${digits(c.time.least)}–${digits(c.time.largest)})`,
      digits(median(c.waitingMs)),
      c.work.limit === "memory"
        ? `reads ${printBytes(c.weightBytes)}${c.stateBytes > 0 ? ` + ${printBytes(c.stateBytes)} of cache` : ""}`
        : `${printCount(c.flops / report.ranks.length)}FLOP`,
      c.work.limit === "memory" ? `${printBytes(c.work.perSecond)}` : `${printCount(c.work.perSecond)}FLOP`,
      c.work.share === undefined ? "?" : `${Math.round(100 * c.work.share)} % of ${c.work.limit}`,
    ]);
  }
  const batch = job.batch === 1 ? "" : `, ${job.batch} sequences`;
  return [headLine(run) + batch, table.toString(), memoryLine(report), ...notes(run, all)].join("\n");
}

function headLine({ job, report }: BenchRun): string {
  const { ranks, weightBytes, loadMs, dtype } = report, gpu = ranks[0]?.gpu;
  const most = Math.max(...ranks.map((r) => r.weightBytes)), n = ranks.length;
  const where = gpu ? `${n} × ${gpu.name}, ${dtype}` : `${n} rank${n === 1 ? "" : "s"} on CPUs, ${dtype}`;
  return `${modelName(job.model)} on ${where}: weights ${printBytes(most)} a rank of ${printBytes(weightBytes)}; ` +
    `loaded in ${(loadMs / 1000).toPrecision(2)} s`;
}

/** Of the rank that has the most. */
function memoryLine({ ranks }: BenchReport): string {
  const most = (of: (r: BenchReport["ranks"][number]) => number) => printBytes(Math.max(...ranks.map(of)));
  const process = `memory of a rank's process: ${most((r) => r.memory.private)} private, ` +
    `${most((r) => r.memory.proportional)} with its share of what ranks map together`;
  const gpu = ranks[0]?.gpu;
  if (!gpu) return process;
  const parts = Object.keys(gpu.memory).map((use) => `${use} ${most((r) => r.gpu?.memory[use] ?? 0)}`);
  return `memory of a rank's GPU: ${parts.join(", ")}, of ${printBytes(gpu.totalBytes)}\n${process}`;
}

function notes({ report, calibrated, job }: BenchRun, cases: readonly Judged[]): string[] {
  const gpu = report.ranks[0]?.gpu, out: string[] = [];
  if (gpu && cases.some((c) => c.work.share === undefined)) {
    out.push(`what ${gpu.name} does at most is not known: its driver does not tell its clocks`);
  }
  if (!gpu && !calibrated) out.push("`shardwise calibrate` measures what this host does at most");
  else if (!gpu && calibrated && calibrated.ranks !== report.ranks.length) {
    out.push(`what this host does at most was measured with ${calibrated.ranks} ranks`);
  }
  // What a GPU does not hide: the goal is a token whose host is idle.
  const decoded = gpu && cases.findLast((c) => c.kind === "decode");
  if (decoded) out.push(`the host's own part of a token (${decoded.name}): ${Math.round(1000 * hostMs(decoded))} µs`);
  const why = cases.find((c) => c.notRecorded !== undefined)?.notRecorded;
  if (why !== undefined) out.push(`tokens are not one launch each: ${why}`);
  out.push(`medians of ${job.rounds} round${job.rounds === 1 ? "" : "s"} (least–largest); ${describeMachine()}`);
  return out;
}

/** What of a step is no waiting. */
function hostMs({ ms, waitingMs }: BenchCase): number {
  return median(ms.map((all, i) => all - waitingMs[i]!));
}

/** What is counted: an encoder's inputs that are no tokens are one prompt. */
function unitOf({ kind, tokens }: Pick<BenchCase, "kind" | "tokens">): "tokens" | "prompts" | "runs" {
  return kind === "run" ? "runs" : kind === "prefill" && tokens === undefined ? "prompts" : "tokens";
}

/** Three digits that say something. */
function digits(x: number): string {
  return x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x >= 0.1 ? x.toFixed(2) : x.toPrecision(1);
}

/** `12.3 G`, to which a unit is appended. */
function printCount(n: number): string {
  for (const [prefix, size] of [["P", 1e15], ["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
    if (n >= size) return `${(n / size).toPrecision(3)} ${prefix}`;
  }
  return `${Math.round(n)} `;
}
