/** One round of a bench: both sides, each in processes of its own, one after the other. */
import { launch } from "../../launcher/launch.ts";
import type { Config } from "../../src/passes/context.ts";
import type { Decoder } from "./decoder.ts";
import type { PeerTask } from "./peer.ts";
import type { RankMeasured, RankTask } from "./rank.ts";
import type { Measured, Workload } from "./workload.ts";

/** A side's name. */
export type Side = "peer" | "ours";

/** What is run, on both sides. */
export interface Setup {
  readonly model: string;
  /** What the peer runs, where it is another file. */
  readonly peerModel: string;
  readonly decoder: Decoder;
  readonly workload: Workload;
  readonly peerThreads: number;
  readonly ranks: number;
  readonly threadsPerRank: number;
  /** What our ranks' planner is told: how weights are quantised, say. */
  readonly config: Config;
  /** Largest difference, against the largest logit, that rounding in another order explains. */
  readonly tolerance: number;
}

/** What a round found. */
export interface Round {
  readonly peer: Measured;
  readonly ranks: readonly RankMeasured[];
  readonly agreement: Agreement;
}

/** How far the two sides' logits lie apart. */
export interface Agreement {
  /** The largest absolute difference. */
  readonly difference: number;
  /** The largest absolute value. */
  readonly scale: number;
  /** Whether all ranks have the same bits. */
  readonly ranksEqual: boolean;
}

/** Runs both sides in the given order. @throws {Error} If a side fails, or the sides disagree. */
export async function runRound(setup: Setup, order: readonly Side[]): Promise<Round> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-bench-" });
  try {
    for (const side of order) await (side === "peer" ? runPeer(setup, folder) : runOurs(setup, folder));
    const read = <T>(name: string) => JSON.parse(Deno.readTextFileSync(`${folder}/${name}.json`)) as T;
    const agreement = compare(
      readLogits(`${folder}/peer.logits`),
      Array.from({ length: setup.ranks }, (_, rank) => readLogits(`${folder}/rank${rank}.logits`)),
    );
    if (!(agreement.difference <= setup.tolerance * agreement.scale) || !agreement.ranksEqual) {
      throw new Error(`Cannot compare times of different results: ${JSON.stringify(agreement)}`);
    }
    const ranks = Array.from({ length: setup.ranks }, (_, rank) => read<RankMeasured>(`rank${rank}`));
    return { peer: read<Measured>("peer"), ranks, agreement };
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

async function runPeer(setup: Setup, folder: string): Promise<void> {
  const { peerModel, decoder, workload, peerThreads } = setup;
  const task: PeerTask = { model: peerModel, decoder, workload, folder, threads: peerThreads };
  const { code } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", new URL("./peer.ts", import.meta.url).pathname, writeTask(folder, "peer", task)],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).output();
  if (code !== 0) throw new Error(`The peer ended with code ${code}`);
}

/** Our ranks, which leave what they found in `folder`. @throws {Error} If the job fails. */
export async function runOurs(
  setup: Pick<Setup, "model" | "workload" | "ranks" | "threadsPerRank" | "config">,
  folder: string,
): Promise<RankMeasured[]> {
  const { model, workload, ranks, threadsPerRank, config } = setup;
  const task: RankTask = { model, workload, folder, threads: threadsPerRank, config };
  const script = new URL("./rank.ts", import.meta.url).href;
  const args = [writeTask(folder, "ours", task)];
  const code = await launch({ program: { kind: "deno", script }, args, nproc: ranks, output: "quiet", stdin: "none" });
  if (code !== 0) throw new Error(`The job of ${ranks} ranks ended with code ${code}`);
  return Array.from(
    { length: ranks },
    (_, rank) => JSON.parse(Deno.readTextFileSync(`${folder}/rank${rank}.json`)) as RankMeasured,
  );
}

/** Leaves `task` in `folder`; gives the path. */
export function writeTask(folder: string, name: string, task: object): string {
  const path = `${folder}/${name}.task.json`;
  Deno.writeTextFileSync(path, JSON.stringify(task));
  return path;
}

function readLogits(path: string): Float32Array {
  return new Float32Array(Deno.readFileSync(path).buffer);
}

function compare(peer: Float32Array, ranks: readonly Float32Array[]): Agreement {
  const [first, ...others] = ranks;
  let difference = first!.length === peer.length ? 0 : NaN, scale = 0;
  for (let i = 0; i < peer.length; i++) {
    const apart = Math.abs(peer[i]! - first![i]!);
    if (!(apart <= difference)) difference = apart; // not a number counts as apart
    scale = Math.max(scale, Math.abs(peer[i]!));
  }
  const bits = new Int32Array(first!.buffer);
  const ranksEqual = others.every((other) => new Int32Array(other.buffer).every((b, i) => b === bits[i]));
  return { difference, scale, ranksEqual };
}
