/** Where each rank's output goes: to the launcher's streams by the job's output mode, and to log files. */
import type { LaunchConfig } from "./config.ts";
import type { LogFiles } from "./log_files.ts";
import { concat, LinePrefixer, type OutputSink } from "./output.ts";
import type { ChunkTaker } from "./rank_process.ts";

/** What outputs are made of. */
export interface RankOutputOptions {
  readonly config: LaunchConfig;
  readonly stdout: OutputSink;
  readonly stderr: OutputSink;
  readonly host: string;
}

const encoder = new TextEncoder();

/** What takes the chunks of the two streams of a rank; files come first, since the console may be slow or gone. */
export function rankTakers(
  options: RankOutputOptions,
  who: { rank: number; localRank: number; attempt: number },
  logs: LogFiles | undefined,
): { stdout: ChunkTaker; stderr: ChunkTaker } {
  const make = (stream: "stdout" | "stderr"): ChunkTaker => {
    const console = consoleTaker(options, who, stream);
    const file = logs?.writer(who.attempt, who.rank, stream);
    if (file === undefined) return console;
    return (chunk) => {
      file(chunk);
      return console(chunk);
    };
  };
  return { stdout: make("stdout"), stderr: make("stderr") };
}

function consoleTaker(
  options: RankOutputOptions,
  who: { rank: number; localRank: number },
  stream: "stdout" | "stderr",
): ChunkTaker {
  const { config } = options, mode = config.output ?? "prefix", sink = options[stream];
  const shown = config.showRanks?.has(who.rank) ?? true;
  if (mode === "quiet" || !shown || (mode === "rank0" && who.rank !== 0)) return () => undefined;
  if (mode === "rank0") return (chunk) => chunk === undefined ? undefined : sink.write(chunk);
  const lines = new LinePrefixer(prefixOf(options, who, stream));
  return (chunk) => sink.write(chunk === undefined ? lines.end() : lines.push(chunk));
}

function prefixOf(
  { config, host }: RankOutputOptions,
  who: { rank: number; localRank: number },
  stream: string,
): () => Uint8Array {
  const fields: Record<string, string> = { rank: String(who.rank), local: String(who.localRank), host, stream };
  const text = (config.prefix ?? "[rank {rank}] ").replace(/\{(\w+)\}/g, (whole, name) => fields[name] ?? whole);
  const fixed = encoder.encode(text);
  if (!config.timestamps) return () => fixed;
  return () => concat([encoder.encode(`${new Date().toISOString().slice(11, 23)} `), fixed]);
}
