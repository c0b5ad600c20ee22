/**
 * From a file to a running model, in the order of the rooms: read, clean, plan, shard, load, compile.
 */
import type { OnProgress } from "./core/progress.ts";
import { symbolsOf } from "./core/dim.ts";
import { InputError } from "./core/errors.ts";
import { didYouMean } from "./core/suggest.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import type { OpenSource } from "./formats/mapped_file.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import { type Graph, valueOf } from "./graph/graph.ts";
import { opDef } from "./ops/table.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { cleanPipeline, loadPipeline, shardPipeline } from "./passes/pipelines.ts";
import { planFromFile } from "./plan/check_plan.ts";
import { explainSolved, type PlanReport } from "./plan/explain.ts";
import type { Nominal } from "./plan/cost.ts";
import type { Plan } from "./plan/plan.ts";
import { type PlanFile, planFile } from "./plan/plan_file.ts";
import { solvePlan } from "./plan/search.ts";
import type { Communicator } from "./runtime/comm/communicator.ts";
import { compile } from "./runtime/compile.ts";
import { type EngineChoice, openEngine } from "./runtime/cpu/open_engine.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import { ParallelModel } from "./runtime/parallel_model.ts";
import { openRankPart, type RankPart, shardedFor } from "./sharded_folder.ts";

/** How a model is made parallel. */
export interface ParallelizeOptions {
  /** The ranks that share the model, from `init()`. */
  readonly comm: Communicator;
  /** What the passes may be told. */
  readonly config?: Config;
  /** Threads of each of this rank's sessions; the host's cores shared out among its ranks by default. */
  readonly threads?: number;
  /** ONNX Runtime's native package, or its WebAssembly one; the first that loads by default. */
  readonly engine?: EngineChoice;
  /** Keep weights as they are mapped instead of packing them for speed: less private memory, slower with many rows. */
  readonly disablePrepacking?: boolean;
  /** Told of each phase as it begins, and of each segment that is loaded; on a large model some take many seconds. */
  readonly onProgress?: OnProgress | undefined;
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
  const { comm, onProgress } = options;
  onProgress?.("reading");
  using sources = mappedSources();
  const at = { rank: comm.rank, ranks: comm.size, open: sources.open };
  using part = shardedFor(path) === undefined ? planPart(path, at, options) : openRankPart(path, at);
  const { sharded, local, plan } = part;
  const engine = await openEngine(options.engine);
  const executor = await compile(local, {
    engine,
    comm,
    threads: options.threads,
    disablePrepacking: options.disablePrepacking,
    onProgress,
  });
  return new ParallelModel({
    sharded,
    local,
    plan,
    executor,
    group: comm,
    notice: engine.notice,
  });
}

/** A rank's part of the model at `path`, planned and cut here and now. */
function planPart(
  path: string,
  { rank, ranks, open }: { rank: number; ranks: number; open: OpenSource },
  { config = {}, onProgress }: ParallelizeOptions,
): RankPart & Disposable {
  const file = readOnnx(path, { open });
  try {
    const ctx = new ParallelExecutionCtx({ ranks, rank, config });
    const clean = cleanPipeline().run(importOnnx(file), ctx);
    onProgress?.("planning");
    const sharded = shardPipeline().run(clean, ctx);
    const local = loadPipeline().run(sharded, ctx);
    return { sharded, local, plan: ctx.requirePlan(), [Symbol.dispose]: () => file[Symbol.dispose]() };
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

/** What {@linkcode explainModel} is told. */
export interface ExplainOptions {
  /** How many ranks would share the model. */
  readonly ranks: number;
  /** What the passes may be told. */
  readonly config?: Config;
}

/** What {@linkcode explainModel} gives. */
export interface ExplainedModel {
  /** Every placement and reshard. */
  readonly plan: Plan;
  /** Layer by layer: weights, placements, collectives, and the price of not splitting. */
  readonly report: PlanReport;
  /** Both as data for JSON, with what tells the model from others. */
  readonly file: PlanFile;
}

/**
 * How the model at `path` would be split over `ranks`, and why. Starts nothing and reads no weights.
 *
 * @throws {FormatError} If the file is missing, broken, or of a kind that is not read.
 * @throws {PlanError} If `config` asks for what cannot be, or for the plan of another model.
 */
export function explainModel(path: string, options: ExplainOptions): ExplainedModel {
  using file = readOnnx(path);
  const { graph, plan, report } = explainFile(file, options);
  return { plan, report, file: planFile(graph, plan, report) };
}

/** Like {@linkcode explainModel} for an opened file; gives its clean graph too. */
export function explainFile(
  file: OnnxFile,
  { ranks, config = {} }: ExplainOptions,
): { readonly graph: Graph<"global">; readonly plan: Plan; readonly report: PlanReport } {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
  const graph = cleanPipeline().run(importOnnx(file), ctx);
  checkNominal(graph, config.nominal ?? {});
  // A plan's file brings its explanation along.
  if (config.plan) return { graph, plan: planFromFile(config.plan, { graph, ranks, opDef }), report: config.plan };
  const solved = solvePlan(graph, planOptions(config, ranks, graph));
  return { graph, plan: solved.plan, report: explainSolved(graph, solved) };
}

/** @throws {InputError} If a size is given for a symbol that no input has. */
function checkNominal(graph: Graph<"global">, nominal: Nominal): void {
  const symbols = new Set<string>();
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    for (const d of valueOf(graph, node.outputs[0]).type.shape ?? []) symbolsOf(d, symbols);
  }
  for (const name of Object.keys(nominal)) {
    if (!symbols.has(name)) {
      throw new InputError(
        `Cannot plan with a size for "${name}": no input has such a dim${didYouMean(name, [...symbols])}`,
      );
    }
  }
}
