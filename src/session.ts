/**
 * From a file to a running model, in the order of the rooms: read, clean, plan, shard, load, compile.
 */
import { join } from "node:path";
import type { OpenSource } from "./formats/mapped_file.ts";
import type { Graph } from "./graph/graph.ts";
import { agreeOnCosts } from "./measured_costs.ts";
import {
  type DecoderFiles,
  decoderGraphs,
  graphsOfFile,
  inputsOf,
  type ModelGraphs,
  modelGraphs,
  OpenFiles,
} from "./model_graphs.ts";
import { cleanModel } from "./passes/clean_model.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { planFirstStep } from "./passes/first_step.ts";
import { localize } from "./passes/localize.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { loadPipeline, shardPipeline } from "./passes/pipelines.ts";
import { roundValues } from "./passes/round_values.ts";
import { wishesByGraph } from "./passes/wishes.ts";
import type { Plan } from "./plan/plan.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import { type ExecutionOptions, openExecutors } from "./runtime/open_executor.ts";
import { type OtherGraph, ParallelModel } from "./runtime/parallel_model.ts";
import { FOLDER_FILES, openRankPart, shardedFor } from "./sharded_folder.ts";

/** How a model is made parallel. */
export interface ParallelizeOptions extends ExecutionOptions {
  /** What the passes may be told. */
  readonly config?: Config;
  /** Files of the model's other graphs (an encoder's): patterns of `config` may mean layers of theirs instead. */
  readonly beside?: readonly string[];
}

/**
 * Reads the ONNX model at `path`, splits it over the ranks of `comm`, and compiles this rank's part. All ranks call it
 * together. Weights are never read whole: every rank maps the file and reads its slices. Of a folder that `shardModel`
 * made, each rank opens its own part, and nothing is planned.
 *
 * @throws {FormatError} If the file is missing, broken, or of a kind that is not read.
 * @throws {PlanError} If the overrides of `config` cannot be met.
 * @example
 * ```ts ignore
 * await using comm = await init();
 * await using model = await parallelizeModel("model.onnx", { comm });
 * const { logits } = await model.run({ input_ids, attention_mask });
 * ```
 */
export async function parallelizeModel(path: string, options: ParallelizeOptions): Promise<ParallelModel> {
  options.onProgress?.("reading");
  if (shardedFor(path) !== undefined) return await compileSharded(path, options);
  return await compileGraphs((files) => modelGraphs(path, files), options);
}

/** Compiles this rank's part of a folder that holds the model in parts. */
async function compileSharded(path: string, options: ParallelizeOptions): Promise<ParallelModel> {
  const { comm } = options, firstStep = join(path, FOLDER_FILES.firstStep);
  const folders = [path, ...(shardedFor(firstStep) === undefined ? [] : [firstStep])];
  const open = (i: number, source: OpenSource) =>
    openRankPart(folders[i]!, { rank: comm.rank, ranks: comm.size, open: source });
  using sources = mappedSources();
  using opened = new DisposableStack();
  const parts = folders.map((_, i) => opened.use(open(i, sources.open)));
  const { executors, notice } = await openExecutors(
    parts.map(({ sharded, local }, i) => ({
      sharded,
      local,
      plain: async (use) => {
        // The file is mapped again, as few models need this; the plan is the same, so that states keep their placements.
        using again = mappedSources();
        using copy = open(i, again.open);
        return await use(copy.plain());
      },
    })),
    { ...options, fuse: options.config?.fuse },
  );
  const made = (i: number, other?: OtherGraph) => {
    const { sharded, local, plan } = parts[i]!;
    return new ParallelModel({ sharded, local, plan, executor: executors[i]!, group: comm, notice, other });
  };
  if (parts.length === 1) return made(0);
  return made(0, { model: made(1), first: true, choice: undefined, inputs: inputsOf(parts[0]!.sharded) });
}

/**
 * Like {@linkcode parallelizeModel}, for a decoder in two files. The model that it gives has a `first` step, which begins
 * the states of the later ones.
 *
 * @throws {FormatError} If a file is missing or broken, or the files do not belong together.
 */
export async function parallelizeDecoder(files: DecoderFiles, options: ParallelizeOptions): Promise<ParallelModel> {
  options.onProgress?.("reading");
  return await compileGraphs((opened) => decoderGraphs(files, opened), options);
}

/** Cleans, plans, shards and compiles the graphs of a model. */
async function compileGraphs(
  read: (files: OpenFiles) => ModelGraphs,
  options: ParallelizeOptions,
): Promise<ParallelModel> {
  const { comm, onProgress } = options;
  const config = await agreeOnCosts(comm, options.config ?? {});
  using files = new OpenFiles();
  const graphs = read(files), { other } = graphs, { beside = [] } = options;
  const [ofMain, ofOther] = wishesByGraph(config, {
    own: [graphs.main, ...(other ? [other.graph] : [])],
    others: beside.length === 0 ? undefined : () => beside.flatMap((path) => graphsOfFile(path, files)),
  });
  const ctx = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config: ofMain! });
  const clean = cleanModel(graphs.main, ctx);
  onProgress?.("planning");
  const sharded = shardPipeline().run(clean, ctx);
  const local = loadPipeline().run(sharded, ctx);
  const parts = [{ sharded, local, plan: ctx.requirePlan(), ctx }];
  if (other) {
    const ctx2 = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config: ofOther!, shares: ctx });
    parts.push(shardOther(other, sharded, ctx2));
  }
  const { executors, notice } = await openExecutors(
    parts.map(({ sharded, local, ctx }, i) => ({
      sharded,
      local,
      plain: async (use) => {
        // The file is mapped again, as few models need this; the plan is the same, so that states keep their placements.
        using again = new OpenFiles();
        const { main, other } = read(again);
        const graph = shardPipeline().run(cleanModel(i === 0 ? main : other!.graph, ctx), ctx);
        const local = localize(graph, comm.rank, comm.size, { plain: true });
        return await use(config.roundTo ? roundValues(local, config.roundTo) : local);
      },
    })),
    { ...options, fuse: config.fuse },
  );
  const made = (i: number, otherGraph?: OtherGraph) => {
    const { ctx: _, ...part } = parts[i]!;
    return new ParallelModel({ ...part, executor: executors[i]!, group: comm, notice, other: otherGraph });
  };
  return made(0, other && { ...other, model: made(1) });
}

/** The other graph of a model, whose main graph is sharded already. */
function shardOther(
  other: NonNullable<ModelGraphs["other"]>,
  main: Graph<"sharded">,
  ctx: ParallelExecutionCtx,
): {
  readonly sharded: Graph<"sharded">;
  readonly local: Graph<"local">;
  readonly plan: Plan;
  readonly ctx: ParallelExecutionCtx;
} {
  const clean = cleanModel(other.graph, ctx);
  if (other.first) ctx.plan = planFirstStep(clean, main, planOptions(ctx.config, ctx.ranks, clean));
  const sharded = shardPipeline().run(clean, ctx);
  return { sharded, local: loadPipeline().run(sharded, ctx), plan: ctx.requirePlan(), ctx };
}
