/** `shardwise doctor`: what this machine has, which native libraries load, and what that means. Starts no ranks. */
import { readableBytes, usableCpus } from "../src/runtime/host/advice.ts";
import { type HostReport, hostReport, type LibraryFound } from "../src/runtime/host/host_report.ts";
import type { Command, ParsedArgs } from "./command.ts";
import { printResult } from "./print.ts";

/** The command. */
export const doctor: Command = {
  name: "doctor",
  summary: "show what this machine has, and what that means for models",
  usage: "[--json]",
  description:
    "Prints the CPUs that this process may use, memory and shared memory, GPUs, and each native library with its version, its\n" +
    "file, or the paths that were tried; then what follows from that. Send its output along when you report a problem. Ends\n" +
    "with 1 if something is missing without which several ranks cannot run.",
  options: { json: { help: "print all facts as JSON" } },
  examples: ["shardwise doctor", "shardwise doctor --json | jq .advice"],
  run: examine,
};

const MARKS = { good: "  ", note: "- ", problem: "! " } as const;

async function examine(args: ParsedArgs): Promise<number> {
  const [extra] = args.positionals;
  if (extra !== undefined) throw args.error(`it takes no arguments, but ${JSON.stringify(extra)} was given`);
  const report = await hostReport();
  printResult(args.flag("json") ? JSON.stringify(report, undefined, 1) : doctorScreen(report));
  return report.advice.some((a) => a.kind === "problem") ? 1 : 0;
}

/** The report for a screen. */
export function doctorScreen(report: HostReport): string {
  const { cpus, memory, gpus } = report.machine;
  const limit = memory.limit === undefined ? "" : `, control group limit ${readableBytes(memory.limit)}`;
  const rows: [string, string][] = [
    ["system", `${report.os} ${report.kernel} ${report.arch}`],
    ["deno", `${report.deno} (V8 ${report.v8})`],
    ["cpu", [cpus.model, numaText(cpus.numaNodes)].filter(Boolean).join(", ") || "unknown"],
    ["cores", coresText(report)],
    ["memory", `${readableBytes(memory.total)}, ${readableBytes(memory.available)} available${limit}`],
    ["huge pages", `${memory.hugePages ?? "none"}; shared memory: ${memory.sharedHugePages ?? "none"}`],
    [
      "/dev/shm",
      memory.shm === undefined ? "none" : `${readableBytes(memory.shm.total)}, ${readableBytes(memory.shm.free)} free`,
    ],
    ["gpus", gpus.models.join(", ") || "none"],
    ...(report.allReduces === undefined ? [] : [["all-reduces", report.allReduces] satisfies [string, string]]),
    ...(gpus.driver === undefined ? [] : [["driver", gpus.driver] satisfies [string, string]]),
  ];
  const width = Math.max(...rows.map(([name]) => name.length), ...report.libraries.map((l) => l.name.length)) + 2;
  return [
    ...rows.map(([name, text]) => `${name.padEnd(width)}${text}`),
    "",
    "libraries",
    ...report.libraries.map((library) => `  ${library.name.padEnd(width)}${libraryText(library)}`),
    "",
    "what that means",
    ...report.advice.map(({ kind, text }) => `  ${MARKS[kind]}${text}`),
  ].join("\n");
}

function coresText({ machine: { cpus } }: HostReport): string {
  const quota = cpus.quota === undefined ? "" : `, quota of ${Number(cpus.quota.toFixed(2))}`;
  return `${usableCpus(cpus)} usable: ${cpus.allowedCount} of ${cpus.online} by affinity (${
    cpus.allowed ?? "?"
  })${quota}`;
}

function numaText(nodes: number): string {
  return nodes === 1 ? "" : `${nodes} NUMA nodes`;
}

/** A library's row: what was found, or why nothing was, and for GPUs which package has it. */
function libraryText({ found, version, path, tried, problem = "", install }: LibraryFound): string {
  if (found) return [version ?? "version unknown", path].filter(Boolean).join("  ");
  // A permission that is missing is no missing file.
  if (/not allowed/.test(problem)) return problem.split("\n")[0]!;
  const has = install === undefined ? "" : `; ${install}`;
  // Files that are there and do not load: too new for the driver, too old, of another machine.
  const reasons = problem.split("\n").filter((line) =>
    /^ {2}(?!because:|hint:)/.test(line) && !/no such file/i.test(line)
  );
  if (reasons.length > 0) return `does not load: ${reasons.map((line) => line.trim()).join("; ")}${has}`;
  return `not found; tried ${tried.join(", ")}${has}`;
}
