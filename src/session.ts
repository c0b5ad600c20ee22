/**
 * From a file to a running model, in the order of the rooms: read, clean, plan, shard, load, compile.
 */
import type { OnProgress } from "./core/progress.ts";
import { symbolsOf } from "./core/dim.ts";
import { FormatError, InputError } from "./core/errors.ts";
import { didYouMean } from "./core/suggest.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import { readOnnx } from "./formats/onnx_file.ts";
import { type Graph, valueOf } from "./graph/graph.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { joinSteps, planFirstStep } from "./passes/first_step.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { cleanPipeline, loadPipeline, shardPipeline } from "./passes/pipelines.ts";
import { specializeBranches } from "./passes/specialize_branches.ts";
import { explainSolved, type PlanReport } from "./plan/explain.ts";
import type { Nominal } from "./plan/cost.ts";
import type { Plan } from "./plan/plan.ts";
import { solvePlan } from "./plan/search.ts";
import type { Communicator } from "./runtime/comm/communicator.ts";
import { compileAll } from "./runtime/compile.ts";
import { type EngineChoice, openEngine } from "./runtime/cpu/open_engine.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import { type OtherGraph, ParallelModel } from "./runtime/parallel_model.ts";

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
  options.onProgress?.("reading");
  using sources = mappedSources();
  using file = readOnnx(path, { open: sources.open });
  const graph = importOnnx(file);
  const branches = specializeBranches(graph);
  if (branches === undefined) return await compileGraphs({ main: graph }, options);
  const { steps, input, whenTrue, whenFalse } = branches;
  const main = steps?.next ?? whenTrue, other = steps?.first ?? whenFalse;
  const inputs = graph.nodes.flatMap((n) =>
    n.kind === "placeholder" ? [{ name: n.outputs[0], type: valueOf(graph, n.outputs[0]).type }] : []
  );
  const choice = { input, value: other === whenTrue };
  return await compileGraphs({ main, other: { graph: other, first: steps !== undefined, choice, inputs } }, options);
}

/** The two files of a decoder whose first step is a model of its own. */
export interface DecoderFiles {
  /** Without past keys and values: `decoder_model.onnx`. */
  readonly first: string;
  /** With them: `decoder_with_past_model.onnx`. */
  readonly next: string;
}

/**
 * Like {@linkcode parallelizeModel}, for a decoder in two files. The model that it gives has a `first` step, which begins
 * the states of the later ones.
 *
 * @throws {FormatError} If a file is missing or broken, or the files do not belong together.
 */
export async function parallelizeDecoder(files: DecoderFiles, options: ParallelizeOptions): Promise<ParallelModel> {
  options.onProgress?.("reading");
  using sources = mappedSources();
  using firstFile = readOnnx(files.first, { open: sources.open });
  using nextFile = readOnnx(files.next, { open: sources.open });
  const { first, next } = joinSteps(importOnnx(firstFile), importOnnx(nextFile));
  if (first.carried.length === 0 || first.carried.length < next.carried.length) {
    throw new FormatError(
      `Cannot go on from ${files.first} with ${files.next}: the first does not give all states that the second takes`,
      { hint: "take both files from one export" },
    );
  }
  const inputs = next.nodes.flatMap((n) =>
    n.kind === "placeholder" ? [{ name: n.outputs[0], type: valueOf(next, n.outputs[0]).type }] : []
  );
  const other = { graph: first, first: true, choice: undefined, inputs };
  return await compileGraphs({ main: next, other }, options);
}

/** The graphs of one model, as they were imported. */
interface Graphs {
  readonly main: Graph<"global">;
  readonly other?: Omit<OtherGraph, "model"> & { readonly graph: Graph<"global"> };
}

/** Cleans, plans, shards and compiles the graphs of a model. */
async function compileGraphs({ main, other }: Graphs, options: ParallelizeOptions): Promise<ParallelModel> {
  const { comm, onProgress, config = {} } = options;
  const ctx = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config });
  const clean = cleanPipeline().run(main, ctx);
  onProgress?.("planning");
  const sharded = shardPipeline().run(clean, ctx);
  const local = loadPipeline().run(sharded, ctx);
  const parts = [{ sharded, local, plan: ctx.requirePlan() }];
  if (other) {
    const ctx2 = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config, slices: ctx.slices });
    parts.push(shardOther(other, sharded, ctx2));
  }
  const engine = await openEngine(options.engine);
  const executors = await compileAll(parts.map((p) => p.local), {
    engine,
    comm,
    threads: options.threads,
    disablePrepacking: options.disablePrepacking,
    onProgress,
  });
  const made = (i: number, otherGraph?: OtherGraph) =>
    new ParallelModel({ ...parts[i]!, executor: executors[i]!, group: comm, notice: engine.notice, other: otherGraph });
  return made(0, other && { ...other, model: made(1) });
}

/** The other graph of a model, whose main graph is sharded already. */
function shardOther(
  other: NonNullable<Graphs["other"]>,
  main: Graph<"sharded">,
  ctx: ParallelExecutionCtx,
): { readonly sharded: Graph<"sharded">; readonly local: Graph<"local">; readonly plan: Plan } {
  const clean = cleanPipeline().run(other.graph, ctx);
  if (other.first) ctx.plan = planFirstStep(clean, main, planOptions(ctx.config, ctx.ranks));
  const sharded = shardPipeline().run(clean, ctx);
  return { sharded, local: loadPipeline().run(sharded, ctx), plan: ctx.requirePlan() };
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
}

/**
 * How the model at `path` would be split over `ranks`, and why; of a model with a first step, its later steps. Starts nothing and reads no weights.
 *
 * @throws {FormatError} If the file is missing, broken, or of a kind that is not read.
 */
export function explainModel(path: string, { ranks, config = {} }: ExplainOptions): ExplainedModel {
  using file = readOnnx(path);
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
  const imported = importOnnx(file), branches = specializeBranches(imported);
  const graph = cleanPipeline().run(branches?.steps?.next ?? branches?.whenTrue ?? imported, ctx);
  checkNominal(graph, config.nominal ?? {});
  const solved = solvePlan(graph, planOptions(config, ranks));
  return { plan: solved.plan, report: explainSolved(graph, solved) };
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
