/** What the command line asks its ranks to do, and how it starts them. */
import { UsageError } from "../src/core/errors.ts";
import type { SamplingOptions } from "../src/generate/sampler.ts";
import { launch, type LaunchIo } from "../launcher/launch.ts";
import type { OptionSpec, ParsedArgs } from "./command.ts";

/** Runs a model once. */
export interface RunJob {
  readonly kind: "run";
  readonly model: string;
  readonly inputs: string;
  readonly outputs: string;
}

/** Checks models against what they should give. */
export interface VerifyJob {
  readonly kind: "verify";
  readonly cases: readonly VerifyCase[];
  /** Where rank 0 writes a line of JSON per result. */
  readonly results: string;
}

/** One check. Paths are resolved. */
export type VerifyCase =
  | {
    readonly kind: "outputs";
    readonly name: string;
    readonly model: string;
    readonly inputs: string;
    readonly expected: string;
    readonly atol: number;
    readonly rtol: number;
  }
  | {
    readonly kind: "greedy";
    readonly name: string;
    readonly model: string;
    readonly prompt: readonly number[];
    readonly expected: readonly number[];
  };

/** Continues a prompt. */
export interface GenerateJob {
  readonly kind: "generate";
  readonly model: string;
  readonly prompt: readonly number[];
  readonly maxNewTokens: number;
  readonly sampling: SamplingOptions;
  readonly endIds: readonly number[];
  /** How to print: as ids, or as text of this tokenizer, which ends at `stop`. */
  readonly print: { readonly kind: "ids" } | {
    readonly kind: "text";
    readonly tokenizer: string;
    readonly stop: readonly string[];
  };
  /** Said at the end when all `maxNewTokens` were made; why there are no more. */
  readonly limitNote?: string;
}

/** What ranks can be asked to do. */
export type Job = RunJob | VerifyJob | GenerateJob;

/** Options of every command that starts ranks. */
export const NPROC: OptionSpec = { short: "n", value: "N", help: "ranks: processes that share the model; default 1" };

/** More ranks on one host than any machine has cores are a slip of the finger. */
const MOST_RANKS = 256;
/** Linux takes at most 128 KiB in one argument. */
const ARGUMENT_CHARACTERS = 30_000;

/** The number of ranks that `--nproc` asks for. @throws {UsageError} */
export function rankCount(args: ParsedArgs): number {
  return args.number("nproc", { least: 1, most: MOST_RANKS, whole: true }) ?? 1;
}

/** Starts `nproc` ranks that carry out `job`; resolves to the exit code. What rank 0 prints comes through unchanged. */
export async function startJob(job: Job, nproc: number, io?: LaunchIo): Promise<number> {
  const script = new URL("./worker.ts", import.meta.url).href;
  return await launch(
    { program: { kind: "deno", script }, args: packJob(job), nproc, output: "rank0", stdin: "none" },
    io,
  );
}

/** A job as arguments of a process. */
export function packJob(job: Job): string[] {
  const text = JSON.stringify(job);
  return Array.from(
    { length: Math.ceil(text.length / ARGUMENT_CHARACTERS) },
    (_, i) => text.slice(i * ARGUMENT_CHARACTERS, (i + 1) * ARGUMENT_CHARACTERS),
  );
}

/** The job that {@linkcode packJob} packed. @throws {UsageError} If the arguments are something else. */
export function unpackJob(args: readonly string[]): Job {
  try {
    return JSON.parse(args.join("")) as Job;
  } catch (cause) {
    throw new UsageError("Cannot read the job of this rank: cli/worker.ts is started by the `shardwise` command", {
      cause,
    });
  }
}
