/**
 * From a file to a running model, in the order of the rooms: read, clean, plan, shard, load, compile.
 */
import type { OnProgress } from "./core/progress.ts";
import { symbolsOf } from "./core/dim.ts";
import { InputError } from "./core/errors.ts";
import { didYouMean } from "./core/suggest.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import { readOnnx } from "./formats/onnx_file.ts";
import { type Graph, valueOf } from "./graph/graph.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { localize } from "./passes/localize.ts";
import { cleanPipeline, loadPipeline, shardPipeline } from "./passes/pipelines.ts";
import { explainSolved, type PlanReport } from "./plan/explain.ts";
import type { Nominal } from "./plan/cost.ts";
import type { RewriteNote } from "./passes/rewrites/rewrite.ts";
import type { Plan } from "./plan/plan.ts";
import { solvePlan } from "./plan/search.ts";
import type { Communicator } from "./runtime/comm/communicator.ts";
import { compile } from "./runtime/compile.ts";
import { type EngineChoice, openEngine } from "./runtime/cpu/open_engine.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import { ParallelModel } from "./runtime/parallel_model.ts";

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
 * together. Weights are never read whole: every rank maps the file and reads its slices.
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
  using file = readOnnx(path, { open: sources.open });
  const ctx = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config: options.config ?? {} });
  const clean = cleanPipeline().run(importOnnx(file), ctx);
  onProgress?.("planning");
  const sharded = shardPipeline().run(clean, ctx);
  const local = loadPipeline().run(sharded, ctx);
  const engine = await openEngine(options.engine);
  const { threads, disablePrepacking } = options;
  const executor = await compile(local, { engine, comm, threads, disablePrepacking, onProgress });
  return new ParallelModel({
    sharded,
    local,
    plan: ctx.requirePlan(),
    executor,
    group: comm,
    notice: engine.notice,
    compilePlain: async () => {
      // The file is mapped again, as few models need this; the plan is the same, so that states keep their placements.
      using again = mappedSources();
      using copy = readOnnx(path, { open: again.open });
      const graph = shardPipeline().run(cleanPipeline().run(importOnnx(copy), ctx), ctx);
      return await compile(localize(graph, comm.rank, comm.size, { plain: true }), {
        engine,
        comm,
        threads,
        disablePrepacking,
      });
    },
  });
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
  /** What became of the patterns that rules of rewriting know. */
  readonly rewrites: readonly RewriteNote[];
}

/**
 * How the model at `path` would be split over `ranks`, and why. Starts nothing and reads no weights.
 *
 * @throws {FormatError} If the file is missing, broken, or of a kind that is not read.
 */
export function explainModel(path: string, { ranks, config = {} }: ExplainOptions): ExplainedModel {
  using file = readOnnx(path);
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
  const graph = cleanPipeline().run(importOnnx(file), ctx);
  checkNominal(graph, config.nominal ?? {});
  const solved = solvePlan(graph, planOptions(config, ranks));
  return { plan: solved.plan, report: explainSolved(graph, solved), rewrites: ctx.rewrites };
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
