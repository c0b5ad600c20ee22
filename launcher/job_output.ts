/** Where each rank's output goes: to the launcher's streams by the job's output mode, and to log files. */
import type { LaunchConfig } from "./config.ts";
import { concat, LinePrefixer, type OutputSink } from "./output.ts";
import type { ChunkTaker } from "./rank_process.ts";

const encoder = new TextEncoder();

/** The outputs of all ranks of this host. */
export class RankOutput {
  readonly #config: LaunchConfig;
  readonly #sinks: { readonly stdout: OutputSink; readonly stderr: OutputSink; readonly host: string };

  constructor(
    config: LaunchConfig,
    sinks: { stdout: OutputSink; stderr: OutputSink; host: string; worldSize: number },
  ) {
    this.#config = config;
    this.#sinks = sinks;
  }

  /** What takes the chunks of the two streams of a rank. */
  takers(rank: number, localRank = rank): { stdout: ChunkTaker; stderr: ChunkTaker } {
    return { stdout: this.#taker("stdout", rank, localRank), stderr: this.#taker("stderr", rank, localRank) };
  }

  #taker(stream: "stdout" | "stderr", rank: number, localRank: number): ChunkTaker {
    const mode = this.#config.output ?? "prefix";
    const shown = this.#config.showRanks?.has(rank) ?? true;
    const sink = this.#sinks[stream];
    if (mode === "quiet" || !shown || (mode === "rank0" && rank !== 0)) return () => undefined;
    if (mode === "rank0") return (chunk) => chunk === undefined ? undefined : sink.write(chunk);
    const lines = new LinePrefixer(this.#prefix(stream, rank, localRank));
    return (chunk) => sink.write(chunk === undefined ? lines.end() : lines.push(chunk));
  }

  #prefix(stream: string, rank: number, localRank: number): () => Uint8Array {
    const fields: Record<string, string> = {
      rank: String(rank),
      local: String(localRank),
      host: this.#sinks.host,
      stream,
    };
    const text = (this.#config.prefix ?? "[rank {rank}] ").replace(
      /\{(\w+)\}/g,
      (whole, name) => fields[name] ?? whole,
    );
    const fixed = encoder.encode(text);
    if (!this.#config.timestamps) return () => fixed;
    return () => concat([encoder.encode(`${new Date().toISOString().slice(11, 23)} `), fixed]);
  }
}
