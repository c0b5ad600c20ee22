/** `shardwise calibrate`: measures this host, so that plans are made for it. */
import Table from "cli-table3";
import { calibrationPlace, type Measurement, storeMeasurement } from "../src/runtime/host/calibration.ts";
import type { CostModel } from "../src/plan/cost.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { startJob } from "./job.ts";
import { printNote, printResult } from "./print.ts";

/** The command. */
export const calibrate: Command = {
  name: "calibrate",
  summary: "measure this host, so that plans are made for its speed",
  usage: "[--nproc 2,4] [--json]",
  description:
    "Starts real ranks and measures what the planner weighs: products of matrices by rows, reading of memory, calls, collectives.\n" +
    "The costs are stored for this host and number of cores ($SHARDWISE_CACHE, $XDG_CACHE_HOME/shardwise or ~/.cache/shardwise), and used by\n" +
    "every later plan, run and generate. Takes some seconds; nothing else should run meanwhile.",
  options: {
    nproc: { short: "n", value: "2,4,…", help: "numbers of ranks to measure with; default 2" },
    threads: { value: "N", help: "threads of each rank; default: the cores shared out among the ranks" },
    "dry-run": { help: "do not store anything" },
    json: { help: "print the costs as JSON" },
  },
  examples: ["shardwise calibrate", "shardwise calibrate --nproc 1,2,4"],
  run: measure,
};

async function measure(args: ParsedArgs): Promise<number> {
  const sizes = args.numbers("nproc", { least: 1 }) ?? [2];
  const place = calibrationPlace(), given = args.number("threads", { least: 1, whole: true });
  const measurements: Measurement[] = [];
  const [load] = Deno.loadavg();
  if (load! > place.cores / 2) {
    printNote(`this host is busy (load ${load!.toFixed(1)} on ${place.cores} cores): measure again when it is not`);
  }
  let path: string | undefined;
  for (const ranks of sizes) {
    const threads = given ?? Math.max(1, Math.floor(place.cores / ranks));
    const { code, reports: [costs] } = await startJob({ kind: "calibrate", threads }, ranks);
    if (code !== 0 || costs === undefined) return code === 0 ? 1 : code;
    const measured = new Date().toISOString();
    const measurement = { ranks, threads, measured, costs: costs as Partial<CostModel> };
    measurements.push(measurement);
    if (!args.flag("dry-run")) path = storeMeasurement(place, measurement);
  }
  printResult(args.flag("json") ? JSON.stringify(measurements, undefined, 1) : calibrationScreen(measurements));
  if (!args.flag("json")) printResult(path === undefined ? "not stored" : `stored in ${path}`);
  return 0;
}

/** The costs as a table, a row a number of ranks. */
export function calibrationScreen(measurements: readonly Measurement[]): string {
  const table = new Table({
    head: ["ranks", "threads", "memory", "a call", "a collective", "reducing", "gathering", "products, by rows"],
    style: { head: [], border: [], compact: true },
  });
  const speed = (x: number | undefined) => (x === undefined ? "" : `${(x / 1e9).toPrecision(3)} GB/s`);
  const micro = (x: number | undefined) => (x === undefined ? "" : `${(x * 1e6).toPrecision(3)} µs`);
  for (const { ranks, threads, costs } of measurements) {
    const { gemmRates = [] } = costs;
    table.push([
      ranks,
      threads,
      speed(costs.bytesPerSecond),
      micro(costs.callSeconds),
      micro(costs.collectiveSeconds),
      speed(costs.sharedBytesPerSecond),
      speed(costs.gatherBytesPerSecond),
      gemmRates.map(([rows, rate]) => `${rows}: ${(rate / 1e9).toPrecision(3)}`).join(", ") + " GFLOP/s",
    ]);
  }
  return table.toString();
}
