/** Where each rank's output goes: to the launcher's streams by the job's output mode, and to log files. */
import type { LaunchConfig } from "./config.ts";
import type { LogFiles } from "./log_files.ts";
import { LineFolder } from "./fold.ts";
import { concat, LinePrefixer, type OutputSink } from "./output.ts";
import type { ChunkTaker } from "./rank_process.ts";

/** What outputs are made of. */
export interface RankOutputOptions {
  readonly config: LaunchConfig;
  readonly stdout: OutputSink;
  readonly stderr: OutputSink;
  readonly host: string;
  /** With `--fold`: what the ranks have in common, by stream. */
  readonly folders: Map<"stdout" | "stderr", LineFolder>;
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
  if (config.fold) return foldingTaker(options, who.rank, stream);
  const lines = new LinePrefixer(prefixOf(options, { rank: `${who.rank}`, local: `${who.localRank}` }, stream));
  return (chunk) => sink.write(chunk === undefined ? lines.end() : lines.push(chunk));
}

/** Whole lines for the folder that all ranks of this host share. */
function foldingTaker(options: RankOutputOptions, rank: number, stream: "stdout" | "stderr"): ChunkTaker {
  let folder = options.folders.get(stream);
  if (folder === undefined) {
    folder = new LineFolder({
      write: (bytes) => options[stream].write(bytes),
      // Several ranks have no one local rank.
      prefix: (ranks) => prefixOf(options, { rank: ranks, local: "*" }, stream)(),
    });
    options.folders.set(stream, folder);
  }
  const take = folder.stream(rank), lines = new LinePrefixer(() => new Uint8Array(0));
  return (chunk) => {
    if (chunk !== undefined) return take(lines.push(chunk));
    const rest = take(lines.end());
    void take(undefined);
    return rest;
  };
}

function prefixOf(
  { config, host }: RankOutputOptions,
  who: { readonly rank: string; readonly local: string },
  stream: string,
): () => Uint8Array {
  const fields: Record<string, string> = { ...who, host, stream };
  const text = (config.prefix ?? "[rank {rank}] ").replace(/\{(\w+)\}/g, (whole, name) => fields[name] ?? whole);
  const fixed = encoder.encode(text);
  if (!config.timestamps) return () => fixed;
  return () => concat([encoder.encode(`${new Date().toISOString().slice(11, 23)} `), fixed]);
}
