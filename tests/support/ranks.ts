/** Starting the ranks of a job as real processes, for tests. */
import { fileURLToPath } from "node:url";

/** What became of one rank. */
export interface RankResult {
  readonly rank: number;
  readonly pid: number;
  /** Exit code; 128 + n after signal n. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A job under way. */
export interface RankJob {
  readonly runId: string;
  readonly children: readonly Deno.ChildProcess[];
  /** Resolves when all ranks have ended; those that still run at the time limit are killed, and it rejects. */
  readonly results: Promise<RankResult[]>;
}

/** How to start ranks. */
export interface RanksOptions {
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Default 150 s, which only a very busy machine needs. */
  readonly timeoutMs?: number;
}

/** Starts `size` processes of `program`, a module's URL, each with the variables that a launcher would set. */
export function startRanks(size: number, program: string | URL, options: RanksOptions = {}): RankJob {
  const runId = `test-${crypto.randomUUID().slice(0, 8)}`;
  const path = fileURLToPath(program);
  const children = Array.from({ length: size }, (_, rank) =>
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-prompt", path, ...options.args ?? []],
      env: {
        RANK: `${rank}`,
        WORLD_SIZE: `${size}`,
        SHARDWISE_RANK: `${rank}`,
        SHARDWISE_WORLD_SIZE: `${size}`,
        LOCAL_RANK: `${rank}`,
        LOCAL_WORLD_SIZE: `${size}`,
        SHARDWISE_RUN_ID: runId,
        NO_COLOR: "1",
        ...options.env,
      },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn());
  return { runId, children, results: collect(children, options.timeoutMs ?? 150_000) };
}

/** Runs `size` ranks of `program` to their end; all must exit 0. @throws {Error} With their output, if one does not. */
export async function runRanks(size: number, program: string | URL, options: RanksOptions = {}): Promise<RankResult[]> {
  const job = startRanks(size, program, options);
  const results = await job.results;
  const failed = results.filter((r) => r.code !== 0);
  if (failed.length > 0) {
    throw new Error(
      failed.map((r) => `rank ${r.rank} exited ${r.code}\n${r.stdout.slice(-2000)}${r.stderr.slice(-4000)}`).join("\n"),
    );
  }
  return results;
}

/** Files that job `runId` left in /dev/shm. */
export function leftovers(runId: string): string[] {
  return [...Deno.readDirSync("/dev/shm")].map((e) => e.name).filter((name) => name.startsWith(`shardwise-${runId}`));
}

async function collect(children: readonly Deno.ChildProcess[], timeoutMs: number): Promise<RankResult[]> {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    for (const child of children) {
      try {
        child.kill("SIGKILL");
      } catch {
        // it has ended meanwhile
      }
    }
  }, timeoutMs);
  const results = await Promise.all(children.map(async (child, rank) => {
    const { code, stdout, stderr } = await child.output();
    const text = new TextDecoder();
    return { rank, pid: child.pid, code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
  }));
  clearTimeout(timer);
  if (late) {
    const output = results.map((r) =>
      `rank ${r.rank} exited ${r.code}\n${r.stdout.slice(-1000)}${r.stderr.slice(-2000)}`
    );
    throw new Error(`Ranks still ran after ${timeoutMs} ms and were killed\n${output.join("\n")}`);
  }
  return results;
}
