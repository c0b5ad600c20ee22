/**
 * From a file to a running model, in the order of the rooms: read, clean, plan, shard, load, compile.
 */
import { join } from "node:path";
import { symbolsOf } from "./core/dim.ts";
import { FormatError, InputError, PlanError } from "./core/errors.ts";
import { didYouMean } from "./core/suggest.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import type { OpenSource } from "./formats/mapped_file.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import { type Graph, valueOf } from "./graph/graph.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { joinSteps, planFirstStep } from "./passes/first_step.ts";
import { foldedReport, reportOf } from "./passes/folded_report.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { localize } from "./passes/localize.ts";
import { cleanBlocks, cleanModel } from "./passes/clean_model.ts";
import { cleanPipeline, loadPipeline, shardPipeline } from "./passes/pipelines.ts";
import { specializeBranches } from "./passes/specialize_branches.ts";
import { explainLayers, type LayerExplanation } from "./plan/alternatives.ts";
import type { Baseline } from "./plan/baselines.ts";
import { planFromFile } from "./plan/check_plan.ts";
import { comparePlans, type PlanComparison } from "./plan/comparison.ts";
import { explainSolved, type PlanReport } from "./plan/explain.ts";
import { type Batch, batchDims } from "./plan/batch.ts";
import type { Nominal } from "./plan/cost.ts";
import type { RewriteNote } from "./passes/rewrites/rewrite.ts";
import { type DeviceMesh, meshSize, printMesh } from "./plan/mesh.ts";
import type { Plan } from "./plan/plan.ts";
import { type PlanFile, planFile } from "./plan/plan_file.ts";
import { type SolvedPlan, solvePlan } from "./plan/search.ts";
import type { Communicator } from "./runtime/comm/communicator.ts";
import { calibrationPlace, type Measurement, measurementFor, readCalibration } from "./runtime/host/calibration.ts";
import { type ExecutionOptions, openExecutors } from "./runtime/open_executor.ts";
import { mappedSources } from "./runtime/mapped_source.ts";
import { type OtherGraph, ParallelModel, type TensorInfo } from "./runtime/parallel_model.ts";
import { DataParallelModel } from "./runtime/data_parallel_model.ts";
import { opDef } from "./ops/table.ts";
import { FOLDER_FILES, openRankPart, shardedFor, shardedGraph } from "./sharded_folder.ts";

/** How a model is made parallel. */
export interface ParallelizeOptions extends ExecutionOptions {
  /** What the passes may be told. */
  readonly config?: Config;
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
    options,
  );
  const made = (i: number, other?: OtherGraph) => {
    const { sharded, local, plan } = parts[i]!;
    return new ParallelModel({ sharded, local, plan, executor: executors[i]!, group: comm, notice, other });
  };
  if (parts.length === 1) return made(0);
  return made(0, { model: made(1), first: true, choice: undefined, inputs: inputsOf(parts[0]!.sharded) });
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
  return await compileGraphs((opened) => decoderGraphs(files, opened), options);
}

/** The graphs of one model, as they were imported. */
interface Graphs {
  readonly main: Graph<"global">;
  readonly other?: Omit<OtherGraph, "model"> & { readonly graph: Graph<"global"> };
}

/** Opens files that stay mapped as long as the graphs that were read from them are used. */
class OpenFiles implements Disposable {
  readonly #sources = mappedSources();
  readonly #files = new DisposableStack();

  /** The graph of the file at `path`. */
  graph(path: string): Graph<"global"> {
    return importOnnx(this.#files.use(readOnnx(path, { open: this.#sources.open })));
  }

  [Symbol.dispose](): void {
    this.#files.dispose();
    this.#sources[Symbol.dispose]();
  }
}

/** The graph of a file, or its branches. */
function modelGraphs(path: string, files: OpenFiles): Graphs {
  const graph = files.graph(path);
  const branches = specializeBranches(graph);
  if (branches === undefined) return { main: graph };
  const { steps, input, whenTrue, whenFalse } = branches;
  const main = steps?.next ?? whenTrue, other = steps?.first ?? whenFalse;
  const choice = { input, value: other === whenTrue };
  return { main, other: { graph: other, first: steps !== undefined, choice, inputs: inputsOf(graph) } };
}

/** The graphs of a decoder in two files. */
function decoderGraphs(files: DecoderFiles, opened: OpenFiles): Graphs {
  const { first, next } = joinSteps(opened.graph(files.first), opened.graph(files.next));
  if (first.carried.length === 0 || first.carried.length < next.carried.length) {
    throw new FormatError(
      `Cannot go on from ${files.first} with ${files.next}: the first does not give all states that the second takes`,
      { hint: "take both files from one export" },
    );
  }
  return { main: next, other: { graph: first, first: true, choice: undefined, inputs: inputsOf(next) } };
}

function inputsOf(graph: Graph): TensorInfo[] {
  return graph.nodes.flatMap((n) =>
    n.kind === "placeholder" ? [{ name: n.outputs[0], type: valueOf(graph, n.outputs[0]).type }] : []
  );
}

/** Cleans, plans, shards and compiles the graphs of a model. */
async function compileGraphs(
  read: (files: OpenFiles) => Graphs,
  options: ParallelizeOptions,
): Promise<ParallelModel> {
  const { comm, onProgress } = options;
  const config = await agreeOnCosts(comm, options.config ?? {});
  using files = new OpenFiles();
  const graphs = read(files);
  const ctx = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config });
  const clean = cleanModel(graphs.main, ctx);
  onProgress?.("planning");
  const sharded = shardPipeline().run(clean, ctx);
  const local = loadPipeline().run(sharded, ctx);
  const parts = [{ sharded, local, plan: ctx.requirePlan(), ctx }];
  const { other } = graphs;
  if (other) {
    const ctx2 = new ParallelExecutionCtx({ ranks: comm.size, rank: comm.rank, config, shares: ctx });
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
        return await use(localize(graph, comm.rank, comm.size, { plain: true }));
      },
    })),
    options,
  );
  const made = (i: number, otherGraph?: OtherGraph) => {
    const { ctx: _, ...part } = parts[i]!;
    return new ParallelModel({ ...part, executor: executors[i]!, group: comm, notice, other: otherGraph });
  };
  return made(0, other && { ...other, model: made(1) });
}

/** The other graph of a model, whose main graph is sharded already. */
function shardOther(
  other: NonNullable<Graphs["other"]>,
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

/** How a model is put on a mesh. */
export interface OverMeshOptions extends ParallelizeOptions {
  /** Groups that share the batch, and ranks of a group that share the layers; together the ranks of `comm`. */
  readonly mesh: DeviceMesh;
}

/**
 * Like {@linkcode parallelizeModel} on a mesh of two axes: groups of ranks share the batch, the ranks of each group share the
 * layers. All ranks call it together.
 *
 * @throws {PlanError} If the mesh has not as many ranks as `comm`, or the model's batch cannot be shared: why not.
 * @example
 * ```ts ignore
 * await using comm = await init(); // 4 ranks
 * await using model = await parallelizeOverMesh("bert.onnx", { comm, mesh: { dp: 2, tp: 2 } });
 * ```
 */
export async function parallelizeOverMesh(
  path: string,
  { mesh, ...options }: OverMeshOptions,
): Promise<DataParallelModel> {
  const { comm } = options, { dp, tp } = mesh;
  if (meshSize(mesh) !== comm.size) {
    throw new PlanError(`Cannot put ${comm.size} ranks on the mesh ${printMesh(mesh)} of ${meshSize(mesh)}`);
  }
  const batch = batchOf(path, mesh);
  // What the whole job measured and agreed on, before it falls into groups.
  const config = shareNominal(await agreeOnCosts(comm, options.config ?? {}), batch, mesh);
  const group = (await comm.split(Math.floor(comm.rank / tp), comm.rank, { name: "tp" }))!;
  const across = (await comm.split(comm.rank % tp, comm.rank, { name: "dp" }))!;
  const threads = options.threads ?? Math.max(1, Math.floor(comm.cores / (dp * tp)));
  const model = await parallelizeModel(path, {
    ...options,
    threads,
    comm: group,
    config: { ...config, calibrated: false },
  });
  return new DataParallelModel({ model, mesh, batch, group, across });
}

/** Where the model at `path` has its batch. @throws {PlanError} If it cannot be shared. */
function batchOf(path: string, mesh: DeviceMesh): Batch {
  using file = readOnnx(path);
  const ctx = new ParallelExecutionCtx({ ranks: mesh.tp, rank: 0 });
  return batchDims(cleanModel(importOnnx(file), ctx), opDef, mesh.assume);
}

/** `config` with the rows that one group has at the nominal sizes: its share, one where nothing is said. */
function shareNominal(config: Config, { symbol }: Batch, { dp }: DeviceMesh): Config {
  return { ...config, nominal: { ...config.nominal, [symbol]: Math.ceil((config.nominal?.[symbol] ?? dp) / dp) } };
}

/** What {@linkcode explainModel} is told. */
export interface ExplainOptions {
  /** How many ranks would share the model. */
  readonly ranks: number;
  /** How they are arranged: the plan is then that of each group. One group by default. */
  readonly mesh?: DeviceMesh;
  /** What the passes may be told. */
  readonly config?: Config;
  /** Path of a decoder's first step, where that is a file of its own: the later ones keep the states that it begins. */
  readonly firstStep?: string | undefined;
}

/** What {@linkcode explainModel} gives. */
export interface ExplainedModel {
  /** Every placement and reshard. */
  readonly plan: Plan;
  /** Layer by layer: weights, placements, collectives, and the price of not splitting. */
  readonly report: PlanReport;
  /** Both as data for JSON, with what tells the model from others. */
  readonly file: () => PlanFile;
  /** What became of the patterns that rules of rewriting know. */
  readonly rewrites: readonly RewriteNote[];
  /** What `shardwise calibrate` measured on this host, where the costs are from; undefined where they are the defaults. */
  readonly measured: Measurement | undefined;
  /**
   * Why the layers that a pattern means are what they are, and what else they could be, each with the best plan around it:
   * `explain("h.*.mlp.fc")`. @throws {PlanError} If no layer matches: with near names.
   */
  readonly explain: (pattern: string) => LayerExplanation[];
  /** The plan beside those of simple rules, priced alike. @throws {PlanError} If overrides leave a rule no plan. */
  readonly compare: (baselines: readonly Baseline[]) => PlanComparison[];
}

/**
 * How the model at `path` would be split over `ranks`, and why; of a model with a first step, its later steps. Starts nothing and reads no weights.
 *
 * @throws {FormatError} If the file is missing, broken, or of a kind that is not read.
 * @throws {PlanError} If overrides cannot be met, or nothing fits the memory of a rank.
 */
export function explainModel(path: string, { mesh, ...given }: ExplainOptions): ExplainedModel {
  if (mesh && meshSize(mesh) !== given.ranks) {
    throw new PlanError(`Cannot put ${given.ranks} ranks on the mesh ${printMesh(mesh)} of ${meshSize(mesh)}`);
  }
  const ranks = mesh?.tp ?? given.ranks;
  const asked = given.config ?? {};
  const config = mesh && mesh.dp > 1 ? shareNominal(asked, batchOf(path, mesh), mesh) : asked;
  using file = readOnnx(path);
  return explainFile(file, { ranks, config, graph: laterSteps(file, given.firstStep) });
}

/**
 * The graph of a decoder's later steps, with the states that the first step begins: the file of it at `firstStep`, or the folder
 * of its parts. Undefined without one.
 */
export function laterSteps(file: OnnxFile, firstStep: string | undefined): Graph<"global"> | undefined {
  if (firstStep === undefined) return undefined;
  const next = importOnnx(file);
  if (shardedFor(firstStep) !== undefined) {
    // Of a merged decoder, the branches of its file say it.
    return specializeBranches(next) ? next : joinSteps(shardedGraph(firstStep), next).next;
  }
  using first = readOnnx(firstStep);
  return joinSteps(importOnnx(first), next).next;
}

/**
 * Like {@linkcode explainModel} for an opened file, or for what was made of its `graph`; gives the clean graph too, and the
 * configuration with measured costs.
 */
export function explainFile(
  file: OnnxFile,
  { ranks, config = {}, graph: given }: {
    readonly ranks: number;
    readonly config?: Config;
    readonly graph?: Graph<"global"> | undefined;
  },
): ExplainedModel & { readonly graph: Graph<"global">; readonly config: Config } {
  const measured = config.calibrated === false ? undefined : hostMeasurement(ranks);
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: withMeasured(config, measured) });
  const whole = given ?? importOnnx(file), branches = specializeBranches(whole);
  // Of a merged decoder, the step that is taken again and again.
  const imported = branches?.steps?.next ?? branches?.whenTrue ?? whole;
  checkNominal(imported, config.nominal ?? {});
  // All of a model is cleaned, or searched, only when somebody asks for more than the report of equal blocks.
  let cleaned: Graph<"global"> | undefined, known: SolvedPlan | undefined;
  const blocks = cleanBlocks(imported, ctx);
  const graph = () => cleaned ??= blocks?.graph() ?? cleanPipeline().run(imported, ctx);
  const rewrites = () => {
    // Of every place, and not of a few blocks.
    const whole = new ParallelExecutionCtx({ ranks, rank: 0, config: ctx.config });
    cleanPipeline().run(imported, whole);
    return whole.rewrites;
  };
  if (config.plan) {
    // A plan's file brings its explanation along, and no search in which alternatives could be priced.
    const plan = planFromFile(config.plan, { graph: graph(), ranks, opDef }), report = config.plan;
    const refuse = (): never => {
      throw new PlanError(`Cannot price alternatives to the plan of a file: nothing was searched`, {
        hint: "leave the plan's file out",
      });
    };
    return {
      graph: graph(),
      config: ctx.config,
      get rewrites() {
        return rewrites();
      },
      measured,
      plan,
      report,
      file: () => planFile(graph(), plan, report),
      explain: refuse,
      compare: refuse,
    };
  }
  const options = () => planOptions(ctx.config, ranks, graph());
  const solved = () => known ??= solvePlan(graph(), options());
  // Annotations name values of the whole.
  const few = blocks && !config.annotations
    ? reportOf(blocks, planOptions(ctx.config, ranks, blocks.repeats.graph))
    : undefined;
  const report = few ?? foldedReport(graph(), options()) ?? explainSolved(graph(), solved());
  return {
    get graph() {
      return graph();
    },
    config: ctx.config,
    get rewrites() {
      return rewrites();
    },
    measured,
    get plan() {
      return solved().plan;
    },
    report,
    file: () => planFile(graph(), solved().plan, report),
    explain: (pattern) => explainLayers(graph(), solved(), pattern),
    compare: (baselines) => comparePlans(graph(), solved(), baselines, options()),
  };
}

/** What was measured on this host for a job of `ranks`, or nearly as many. @throws {FormatError} If the file is broken. */
function hostMeasurement(ranks: number): Measurement | undefined {
  return measurementFor(readCalibration(calibrationPlace()), ranks);
}

function withMeasured(config: Config, measured: Measurement | undefined): Config {
  return measured ? { ...config, costs: { ...measured.costs, ...config.costs } } : config;
}

/**
 * `config` with rank 0's measured costs, as ranks on other hosts may have measured others and would plan differently.
 *
 * @throws {FormatError} If rank 0's measurements are broken: on all ranks.
 */
async function agreeOnCosts(comm: Communicator, config: Config): Promise<Config> {
  if (config.calibrated === false) return config;
  type Found = { readonly measured?: Measurement | undefined; readonly problem?: { message: string; hint: string } };
  let found: Found | undefined;
  if (comm.rank === 0) {
    try {
      found = { measured: hostMeasurement(comm.size) };
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      found = { problem: { message: error.message, hint: error.hint ?? "" } };
    }
  }
  const { measured, problem } = await comm.objects.broadcast(found, 0);
  if (problem) throw new FormatError(problem.message, { hint: problem.hint });
  return withMeasured(config, measured);
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
