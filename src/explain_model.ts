/** How a model would be split, and why: its plan as a report, without weights and without ranks. */
import { symbolsOf } from "./core/dim.ts";
import { InputError, PlanError } from "./core/errors.ts";
import { didYouMean } from "./core/suggest.ts";
import { importOnnx } from "./formats/import_onnx.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import { type Graph, valueOf } from "./graph/graph.ts";
import { hostMeasurement, withMeasured } from "./measured_costs.ts";
import { batchOf, shareNominal } from "./mesh_batch.ts";
import { graphsOfFile, OpenFiles } from "./model_graphs.ts";
import { opDef } from "./ops/table.ts";
import { cleanBlocks } from "./passes/clean_model.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { joinSteps } from "./passes/first_step.ts";
import { foldedReport, reportOf } from "./passes/folded_report.ts";
import { fuseRank } from "./passes/fuse_rank.ts";
import { localize } from "./passes/localize.ts";
import { planOptions } from "./passes/parallel_axis_solver_pass.ts";
import { cleanPipeline, shardPipeline } from "./passes/pipelines.ts";
import type { RewriteNote } from "./passes/rewrites/rewrite.ts";
import { type Branches, specializeBranches } from "./passes/specialize_branches.ts";
import { wishesByGraph } from "./passes/wishes.ts";
import { explainLayers, type LayerExplanation } from "./plan/alternatives.ts";
import type { Baseline } from "./plan/baselines.ts";
import { planFromFile } from "./plan/check_plan.ts";
import { comparePlans, type PlanComparison } from "./plan/comparison.ts";
import type { Nominal } from "./plan/cost.ts";
import { explainSolved, type PlanReport } from "./plan/explain.ts";
import { type DeviceMesh, meshesOf, meshSize, printMesh } from "./plan/mesh.ts";
import type { Plan } from "./plan/plan.ts";
import { type PlanFile, planFile } from "./plan/plan_file.ts";
import { type SolvedPlan, solvePlan } from "./plan/search.ts";
import { shardedFor, shardedGraph } from "./sharded_folder.ts";
import type { Measurement } from "./runtime/host/calibration.ts";

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
  /** Files of the model's other graphs (an encoder's): patterns of `config` may mean layers of theirs instead. */
  readonly beside?: readonly string[];
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
  const explained = (file: OnnxFile) =>
    explainFile(file, { ranks, config, graph: laterSteps(file, given.firstStep), beside: filesBeside(given) });
  using file = readOnnx(path);
  // Rules are tried again for their notes, and read constants, which may lie in another file: it is open when they are asked for.
  const get = () => {
    using again = readOnnx(path);
    return explained(again).rewrites;
  };
  return Object.defineProperty(explained(file), "rewrites", { get, enumerable: true });
}

/** What a mesh of ranks would make of a step. */
export interface MeshCost {
  readonly mesh: DeviceMesh;
  /** Of a step with all rows, estimated. */
  readonly seconds: number;
  /** Bytes of weights on the rank with the most. */
  readonly weightBytes: number;
}

/**
 * All meshes of as many ranks as `mesh`, for a step of as many rows as are nominal (one for each group of `mesh`, where nothing is
 * said); the fastest first. Without meshes that have more groups than rows, or on which wishes cannot be met.
 *
 * @throws {PlanError} If the model's batch cannot be shared.
 */
export function compareMeshes(
  path: string,
  { mesh, ...given }: Omit<ExplainOptions, "ranks"> & { readonly mesh: DeviceMesh },
): { readonly rows: number; readonly meshes: readonly MeshCost[] } {
  const { symbol } = batchOf(path, mesh), ranks = meshSize(mesh);
  const rows = given.config?.nominal?.[symbol] ?? mesh.dp;
  const config = { ...given.config, nominal: { ...given.config?.nominal, [symbol]: rows } };
  const meshes = meshesOf(ranks).filter(({ dp }) => dp <= rows).flatMap((shape): MeshCost[] => {
    try {
      const assume = mesh.assume === undefined ? {} : { assume: mesh.assume };
      const { report: { cost } } = explainModel(path, { ...given, config, ranks, mesh: { ...shape, ...assume } });
      return [{ mesh: shape, seconds: cost.compute + cost.communication, weightBytes: cost.memory.weights }];
    } catch (error) {
      if (error instanceof PlanError) return [];
      throw error;
    }
  });
  return { rows, meshes: meshes.toSorted((a, b) => a.seconds - b.seconds) };
}

/** Files of the graphs that are not planned, in which patterns may find their layers. */
export function filesBeside({ firstStep, beside = [] }: Pick<ExplainOptions, "firstStep" | "beside">): string[] {
  return [firstStep, ...beside].flatMap((path) => path === undefined || shardedFor(path) !== undefined ? [] : [path]);
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
  { ranks, config: asked = {}, graph: given, beside = [] }: {
    readonly ranks: number;
    readonly config?: Config;
    readonly graph?: Graph<"global"> | undefined;
    readonly beside?: readonly string[];
  },
): ExplainedModel & { readonly graph: Graph<"global">; readonly config: Config } {
  const whole = given ?? importOnnx(file), branches = specializeBranches(whole);
  // Of a merged decoder, the step that is taken again and again.
  const imported = branches?.steps?.next ?? branches?.whenTrue ?? whole;
  const config = wishesOf(imported, { config: asked, branches, beside });
  const measured = config.calibrated === false ? undefined : hostMeasurement(ranks);
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config: withMeasured(config, measured) });
  checkNominal(imported, config.nominal ?? {});
  // All of a model is cleaned, or searched, only when somebody asks for more than the report of equal blocks.
  let cleaned: Graph<"global"> | undefined, known: SolvedPlan | undefined;
  const blocks = ctx.config.logits === "last" ? undefined : cleanBlocks(imported, ctx);
  const graph = () => cleaned ??= blocks?.graph() ?? cleanPipeline().run(imported, ctx);
  const rewrites = (plan: Plan) => {
    // Of every place, and not of a few blocks.
    const whole = new ParallelExecutionCtx({ ranks, rank: 0, config: ctx.config });
    const clean = cleanPipeline().run(imported, whole);
    if (config.fuse === false) return whole.rewrites;
    // What a rank fuses that computes on a CPU.
    whole.plan = plan;
    const { notes } = fuseRank([localize(shardPipeline().run(clean, whole), 0, ranks)]);
    return [...whole.rewrites, ...notes];
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
        return rewrites(plan);
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
      return rewrites(solved().plan);
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

/** What is asked of the graph that is planned; the other branch, and the files beside it, may have layers that are meant too. */
function wishesOf(
  planned: Graph<"global">,
  { config, branches, beside }: {
    readonly config: Config;
    readonly branches: Branches | undefined;
    readonly beside: readonly string[];
  },
): Config {
  const twins = branches ? [branches.whenTrue, branches.whenFalse].filter((graph) => graph !== planned) : [];
  using files = new OpenFiles();
  const others = () => [...twins, ...beside.flatMap((path) => graphsOfFile(path, files))];
  return wishesByGraph(config, { own: [planned], others: twins.length + beside.length > 0 ? others : undefined })[0]!;
}

/** @throws {InputError} If a size is given for a symbol that no input has. */
function checkNominal(graph: Graph<"global">, nominal: Nominal): void {
  const symbols = new Set<string>(), names = Object.keys(nominal);
  if (names.length === 0) return;
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    for (const d of valueOf(graph, node.outputs[0]).type.shape ?? []) symbolsOf(d, symbols);
  }
  for (const name of names) {
    if (!symbols.has(name)) {
      throw new InputError(
        `Cannot plan with a size for "${name}": no input has such a dim${didYouMean(name, [...symbols])}`,
      );
    }
  }
}
