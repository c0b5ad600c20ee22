/** What the command line asks its ranks to do, and how it starts them. */
import { join } from "node:path";
import { UsageError } from "../src/core/errors.ts";
import type { BeamSearchOptions } from "../src/generate/beam_search.ts";
import type { SamplingOptions } from "../src/generate/sampler.ts";
import { launch, type LaunchConfig } from "../launcher/launch.ts";
import { shardedFor } from "../src/sharded_folder.ts";
import type { RunTrace } from "../src/trace/run_trace.ts";
import type { DType } from "../src/core/dtype.ts";
import type { Communicator } from "../src/runtime/comm/communicator.ts";
import type { GpuUse } from "../src/runtime/executor.ts";
import type { ProcessMemory } from "../src/runtime/host/process_memory.ts";
import { type DeviceChoice, type HeldDType, requireDevice, requireHeldDType } from "../src/runtime/device_choice.ts";
import type { Difference } from "./compare.ts";
import { type DeviceMesh, meshSize, parseMesh } from "../src/plan/mesh.ts";
import type { OptionSpec, ParsedArgs } from "./command.ts";
import type { PlanConfig } from "./plan_options.ts";

/** On what the ranks of a job compute. */
export interface JobDevice {
  readonly device?: DeviceChoice;
  readonly dtype?: HeldDType;
}

/** Runs a model once. */
export interface RunJob {
  readonly kind: "run";
  readonly on: JobDevice;
  readonly model: string;
  /** Files of the model's other graphs. */
  readonly beside: readonly string[];
  readonly inputs: string;
  readonly outputs: string;
  readonly plan: PlanConfig;
  readonly mesh?: DeviceMesh;
}

/** What models are held against: stored outputs, or what they give unsplit. */
export type Against = "reference" | "unsharded";

/** Checks models against what they should give. */
export interface VerifyJob {
  readonly kind: "verify";
  readonly on: JobDevice;
  readonly against: Against;
  readonly cases: readonly VerifyCase[];
  readonly plan: PlanConfig;
  /** Groups of ranks: they share the rows of cases with tensors, and each generates the texts of the others. */
  readonly mesh?: DeviceMesh | undefined;
}

/** One check. Paths are resolved. */
export type VerifyCase =
  | {
    readonly kind: "outputs";
    readonly name: string;
    readonly model: string;
    /** Files of the other graphs of its folder's model. */
    readonly beside?: readonly string[];
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
  }
  | {
    readonly kind: "seq2seq";
    readonly name: string;
    /** A folder with encoder and decoder. */
    readonly model: string;
    /** Ids for the encoder, or a file with its inputs. */
    readonly prompt: readonly number[] | string;
    readonly decoderPrompt: readonly number[];
    readonly expected: readonly number[];
  };

/** What rank 0 reports of each case of a {@linkcode VerifyJob}. */
export interface VerifyResult extends Difference {
  readonly name: string;
  readonly ranks: number;
  /** Of a case that differs from its reference: whether the model unsplit does too. */
  readonly verdict?: string;
  readonly ms: number;
}

/** Continues prompts. */
export interface GenerateJob {
  readonly kind: "generate";
  readonly on: JobDevice;
  /** The folder, or the graph's file. */
  readonly model: string;
  /** Ids, one prompt or several; of an encoder-decoder, the encoder's, or a file with its inputs. */
  readonly prompts: readonly (readonly number[])[] | string;
  /** What an encoder-decoder's decoder starts from. */
  readonly decoderPrompt?: readonly number[] | undefined;
  readonly maxNewTokens: number;
  readonly sampling: SamplingOptions;
  /** Searches with beams instead of picking token by token. */
  readonly beams?: Pick<BeamSearchOptions, "beams" | "lengthPenalty" | "earlyStopping"> | undefined;
  readonly plan: PlanConfig;
  /** Groups of ranks that share the prompts. */
  readonly mesh?: DeviceMesh | undefined;
  readonly endIds: readonly number[];
  /** How to print: as ids, or as text of this tokenizer, which ends at `stop`. */
  readonly print: { readonly kind: "ids" } | {
    readonly kind: "text";
    readonly tokenizer: string;
    readonly stop: readonly string[];
  };
}

/** What rank 0 reports of a {@linkcode GenerateJob}. */
export interface GenerateReport {
  /** Of all texts. */
  readonly tokens: number;
  /** Of these, the ones that the first step gave. */
  readonly firstTokens: number;
  /** From the start of the ranks' part to a model that can run. */
  readonly loadMs: number;
  /** Time to the first token; undefined where a text is whole before it is shown. */
  readonly firstMs: number | undefined;
  /** Time from there to the last token. */
  readonly restMs: number;
  /** Whether the text came to its own end. */
  readonly ended: boolean;
}

/** Measures the host. */
export interface CalibrateJob {
  readonly kind: "calibrate";
  /** Of each rank's sessions. */
  readonly threads: number;
}

/** Records what ranks do. */
export interface TraceJob {
  readonly kind: "trace";
  readonly on: JobDevice;
  readonly model: string;
  readonly plan: PlanConfig;
  /** What to continue, where there are no inputs. */
  readonly prompt: readonly number[];
  /** A file of inputs to run on. */
  readonly inputs?: string | undefined;
  readonly steps: number;
}

/** What rank 0 reports of a {@linkcode TraceJob}. */
export interface TraceReport {
  readonly trace: RunTrace;
}

/** Measures a model. */
export interface BenchJob {
  readonly kind: "bench";
  readonly on: JobDevice;
  /** The folder, or the graph's file. */
  readonly model: string;
  /** Whether it generates: prompts and single tokens are measured then, else whole runs. */
  readonly generates: boolean;
  /** Tokens of prompts, or sizes of what a model that only runs leaves open. */
  readonly prompts: readonly number[];
  /** Tokens before those that are decoded. */
  readonly pasts: readonly number[];
  /** Tokens decoded behind each past. */
  readonly newTokens: number;
  /** Sequences side by side. */
  readonly batch: number;
  readonly rounds: number;
  /** Of the token ids. */
  readonly seed: number;
  /** A file of inputs, instead of drawn ones: of a model that only runs, or of an encoder. */
  readonly inputs?: string | undefined;
  /** Symbolic dims of drawn inputs, by name. */
  readonly sizes: Readonly<Record<string, number>>;
  readonly plan: PlanConfig;
}

/** What rank 0 reports of each case of a {@linkcode BenchJob}. */
export interface BenchCase {
  /** A prompt into an empty cache, up to the pick of a token; single tokens behind a past; or a whole run. */
  readonly kind: "prefill" | "decode" | "run";
  /** Tokens of the prompt, of the past, or the size of what the model leaves open; absent where it leaves nothing open. */
  readonly tokens?: number | undefined;
  /** By round, on the rank where it is longest: ms of the prompt, of one token, of the run. */
  readonly ms: readonly number[];
  /** By round, of `ms`: the longest that a rank waited for others, or for its GPU. */
  readonly waitingMs: readonly number[];
  /** Multiply-adds ×2 of the whole model; of a decode case, of one step. */
  readonly flops: number;
  /** Of one step, on the rank that reads the most. */
  readonly weightBytes: number;
  /** Of states before the step, on the rank that has the most. */
  readonly stateBytes: number;
  /** On a GPU: why decoding is not one launch a token, where it is not. */
  readonly notRecorded?: string | undefined;
}

/** What rank 0 reports of a {@linkcode BenchJob}. */
export interface BenchReport {
  /** Of the slowest rank: from its start to a model that can run. */
  readonly loadMs: number;
  /** Bytes of weights of the whole model. */
  readonly weightBytes: number;
  readonly ranks: readonly {
    /** Bytes of weights that it holds. */
    readonly weightBytes: number;
    /** Of its process. */
    readonly memory: ProcessMemory;
    readonly gpu?: GpuUse | undefined;
  }[];
  /** In what most products are computed. */
  readonly dtype: DType;
  readonly cases: readonly BenchCase[];
}

/** What ranks can be asked to do. */
export type Job = TraceJob | RunJob | VerifyJob | GenerateJob | CalibrateJob | BenchJob;

/** Options of every command that starts ranks. */
export const NPROC: OptionSpec = { short: "n", value: "N", help: "ranks: processes that share the model; default 1" };

/** Options of every command that runs a model. */
export const DEVICE_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  device: {
    value: "cpu|cuda|auto",
    help: "compute on CPUs (default), on a GPU a rank, or on GPUs where every rank has one",
  },
  dtype: { value: "fp16|bf16|fp32", help: "on GPUs: what floats are held in; default: as the model has them" },
};

/** On what `args` asks ranks to compute. @throws {UsageError} */
export function jobDevice(args: ParsedArgs): JobDevice {
  const device = args.text("device"), dtype = args.text("dtype");
  if (dtype !== undefined && (device ?? (Deno.env.get("SHARDWISE_DEVICE") || "cpu")) === "cpu") {
    throw args.error("--dtype is for GPUs", "add --device cuda");
  }
  return {
    ...(device === undefined ? {} : { device: requireDevice(device) }),
    ...(dtype === undefined ? {} : { dtype: requireHeldDType(dtype) }),
  };
}

/** More ranks on one host than any machine has cores are a slip of the finger. */
const MOST_RANKS = 256;

/** The number of ranks that `--nproc` asks for; else what a model in parts was split for, or 1. @throws {UsageError} */
export function rankCount(args: ParsedArgs, model?: string): number {
  const asked = args.number("nproc", { least: 1, most: MOST_RANKS, whole: true });
  const made = model === undefined ? undefined : shardedFor(model);
  if (asked !== undefined && made !== undefined && asked !== made) {
    throw args.error(`${model} was split for ${made} ranks, not ${asked}`, `pass --nproc ${made}, or leave it out`);
  }
  return asked ?? made ?? 1;
}

/** The option by which groups of ranks share a batch. */
export const MESH: OptionSpec = {
  value: "dp=D,tp=T",
  help: "D groups of T ranks: groups share the batch, the ranks of a group the layers; instead of --nproc",
};

/** How many ranks `--mesh` or `--nproc` asks for, and how they are arranged. @throws {UsageError} */
export function ranksOf(args: ParsedArgs, model?: string): { readonly nproc: number; readonly mesh?: DeviceMesh } {
  const text = args.text("mesh");
  if (text === undefined) return { nproc: rankCount(args, model) };
  const mesh = args.reading(() => parseMesh(text)), size = meshSize(mesh);
  const asked = args.text("nproc"), made = model === undefined ? undefined : shardedFor(model);
  if (asked !== undefined && Number(asked) !== size) {
    throw args.error(`--mesh ${text} is of ${size} ranks, not ${asked}`);
  }
  if (size > MOST_RANKS) throw args.error(`--mesh ${text} is of ${size} ranks: at most ${MOST_RANKS} are started`);
  if (made !== undefined && made !== mesh.tp) {
    throw args.error(`${model} was split for ${made} ranks, not ${mesh.tp}`, `pass tp=${made}`);
  }
  return { nproc: size, mesh };
}

/** How a job ended. */
export interface JobEnd {
  readonly code: number;
  /** What rank 0 reported, in order; also of a job that failed. */
  readonly reports: readonly unknown[];
}

/** What a rank's part of a job gets: its communicator, and a way to hand results to the command; rank 0's reports count. */
export interface RankContext {
  readonly comm: Communicator;
  readonly report: (result: unknown) => void;
}

/**
 * Starts `nproc` ranks that carry out `job`, and resolves when they have ended. What rank 0 prints comes through unchanged; what it
 * reports goes through a file, so that the command can print it after everything else. So does the job: with hundreds
 * of cases in the arguments, Deno was seen to end by a stack overflow at its start.
 */
export async function startJob(
  job: Job,
  nproc: number,
  { onClosedOutput }: Pick<LaunchConfig, "onClosedOutput"> = {},
): Promise<JobEnd> {
  const folder = Deno.makeTempDirSync({ prefix: "shardwise-job-" });
  const files = [join(folder, "job.json"), join(folder, "reports.jsonl")] as const;
  try {
    Deno.writeTextFileSync(files[0], JSON.stringify(job));
    Deno.writeTextFileSync(files[1], "");
    const script = new URL("./worker.ts", import.meta.url).href;
    const program = { kind: "deno", script } as const;
    const code = await launch({ program, args: files, nproc, output: "rank0", stdin: "none", onClosedOutput });
    const lines = Deno.readTextFileSync(files[1]).split("\n").filter((line) => line !== "");
    return { code, reports: lines.map((line) => JSON.parse(line)) };
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** The job that {@linkcode startJob} wrote to `file`. @throws {UsageError} If there is none. */
export function readJob(file: string | undefined): Job {
  try {
    return JSON.parse(Deno.readTextFileSync(file ?? "")) as Job;
  } catch (cause) {
    throw new UsageError("Cannot read the job of this rank: cli/worker.ts is started by the `shardwise` command", {
      cause,
    });
  }
}
