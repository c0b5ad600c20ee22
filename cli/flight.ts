/** `shardwise flight`: reads the flight recorders that the ranks of a failed job left, and says who is missing where. */
import { basename, join } from "node:path";
import Table from "cli-table3";
import { InputError, systemReason } from "../src/core/errors.ts";
import type { FlightDump } from "../src/runtime/comm/flight_recorder.ts";
import { type FlightReport, parseFlightDump, rankList, reportFlight } from "../src/runtime/comm/flight_report.ts";
import type { Command } from "./command.ts";
import { printNote, printResult } from "./print.ts";

/** The command. */
export const flight: Command = {
  name: "flight",
  summary: "say from the ranks' flight recorders who is missing where, and who disagrees",
  usage: "DIR [--last N] [--json]",
  description:
    "Every rank remembers its last collectives, and writes them as flight-ATTEMPT-RANK.json when one fails (into its\n" +
    "log folder, if the job was started with --log-dir, or into SHARDWISE_FLIGHT_DIR), and when the launcher gets SIGUSR2.\n" +
    "Reads all of them below DIR, of the last attempt, and lays them over each other by communicator and number.",
  options: {
    last: { value: "N", help: "print the last N collectives of each communicator (default 6)" },
    json: { help: "print the report as JSON, with all collectives" },
  },
  examples: [
    "shardwise flight logs/JOB",
    "kill -USR2 LAUNCHER_PID; shardwise flight logs/JOB    look into a job that hangs",
  ],
  run: async (args) => {
    const directory = args.only("DIR"), last = args.number("last", { least: 1, whole: true }) ?? 6;
    const dumps = await readDumps(directory);
    if (dumps.length === 0) {
      throw new InputError(`Cannot find any flight-ATTEMPT-RANK.json below ${directory}`, {
        hint: "start the job with --log-dir DIR, or set SHARDWISE_FLIGHT_DIR; ranks write when a collective fails",
      });
    }
    const report = reportFlight(dumps);
    printResult(args.flag("json") ? JSON.stringify(report, null, 2) : flightText(report, last));
    return 0;
  },
};

/** The report as people read it. */
export function flightText(report: FlightReport, last: number): string {
  const { worldSize, attempt, reasons, findings, groups } = report;
  const start = reasons[0]!.timeMs;
  const shown = reasons.slice(0, 8);
  return [
    `${reasons.length} of ${worldSize} ranks left a dump of attempt ${attempt}:`,
    ...shown.map((r) => `  +${((r.timeMs - start) / 1000).toFixed(3)} s  rank ${r.rank}: ${r.reason}`),
    ...reasons.length > shown.length ? [`  and ${reasons.length - shown.length} more`] : [],
    "",
    ...findings.length > 0 ? findings : ["no rank is missing in any collective, and none disagrees"],
    ...groups.filter((g) => g.rows.length > 0 || g.messages.length > 0).flatMap((group) => [
      "",
      `${group.name} (${rankList(group.ranks)})`,
      ...group.rows.length > 0 ? [groupTable(group, last)] : [],
      ...group.messages.slice(0, 10).map((m) => `  rank ${m.rank} waits: ${m.text}`),
    ]),
  ].join("\n");
}

function groupTable(group: FlightReport["groups"][number], last: number): string {
  const list = (ranks: readonly number[]) => ranks.length === 0 ? "" : rankList(ranks).replace(/^ranks? /, "");
  const table = new Table({
    head: ["#", "collective", "done", "started", "queued", "missing"],
    style: { head: [], border: [], compact: true },
  });
  for (const row of group.rows.slice(-last)) {
    row.calls.forEach((call, i) =>
      table.push([
        ...[i === 0 ? row.seq : "", call.text, list(call.done), list(call.started), list(call.enqueued)],
        i === 0 ? list(row.missing) : "",
      ])
    );
  }
  return table.toString();
}

async function readDumps(directory: string): Promise<FlightDump[]> {
  const dumps: FlightDump[] = [];
  for await (const file of filesBelow(directory)) {
    if (!/^flight-\d+-\d+\.json$/.test(basename(file))) continue;
    try {
      dumps.push(parseFlightDump(await Deno.readTextFile(file), file));
    } catch (error) {
      // The others still say much.
      printNote(`left out: ${error instanceof Error ? error.message : error}`);
    }
  }
  return dumps;
}

async function* filesBelow(directory: string): AsyncGenerator<string> {
  let entries: Deno.DirEntry[];
  try {
    entries = await Array.fromAsync(Deno.readDir(directory));
  } catch (cause) {
    throw new InputError(`Cannot read the folder ${directory}: ${systemReason(cause)}`, {
      cause,
    });
  }
  for (const entry of entries) {
    const path = join(directory, entry.name);
    if (entry.isDirectory) yield* filesBelow(path);
    else yield path;
  }
}
