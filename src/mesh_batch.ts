/** The batch of a model that groups of ranks share. */
import { PlanError } from "./core/errors.ts";
import type { Graph } from "./graph/graph.ts";
import { modelGraphs, OpenFiles } from "./model_graphs.ts";
import { opDef } from "./ops/table.ts";
import { branchVariants } from "./passes/branch_variants.ts";
import { cleanModel } from "./passes/clean_model.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { cleanPipeline } from "./passes/pipelines.ts";
import { type Batch, batchDims } from "./plan/batch.ts";
import type { DeviceMesh } from "./plan/mesh.ts";

/**
 * Where the model at `path` has its batch, in all of its graphs.
 *
 * Whether samples are independent is asked of the model as it was written: fused ops give what they are made of.
 *
 * @throws {PlanError} If it cannot be shared.
 */
export function batchOf(path: string, mesh: DeviceMesh): Batch {
  using files = new OpenFiles();
  const ctx = new ParallelExecutionCtx({ ranks: mesh.tp, rank: 0, config: { fuse: false } });
  const find = (graph: Graph<"global">) => batchOfGraph(cleanModel(graph, ctx), ctx, mesh.assume);
  const { main, other } = modelGraphs(path, files), batch = find(main);
  if (!other?.choice) return batch;
  const twin = find(other.graph);
  if (twin.symbol !== batch.symbol) {
    throw new PlanError(
      `Cannot share the batch of ${path}: one branch of the model calls it "${batch.symbol}", the other "${twin.symbol}"`,
    );
  }
  return { ...batch, other: { ...other.choice, batch: twin } };
}

/**
 * Where a clean graph has its batch, whatever its Ifs decide: by something that all samples have alike.
 *
 * @throws {PlanError} If it cannot be shared.
 */
export function batchOfGraph(clean: Graph<"global">, ctx: ParallelExecutionCtx, assume?: boolean): Batch {
  const variants = assume ? undefined : branchVariants(clean);
  if (!variants || variants.length === 1) return batchDims(clean, opDef, assume);
  return variants.map(({ graph, conditions }) => {
    const { symbol, inputs, outputs } = batchDims(cleanPipeline().run(graph, ctx), opDef);
    const depends = conditions.some((name) => outputs.has(name));
    if (depends) {
      throw new PlanError(`Cannot share the batch "${symbol}" among groups of ranks: an If decides by samples`);
    }
    return { symbol, inputs, outputs };
  }).reduce(agreed);
}

/** What the branches of Ifs say alike. @throws {PlanError} If they have the batch in different places. */
function agreed(a: Batch, b: Batch): Batch {
  const places = ({ symbol, inputs, outputs }: Batch) =>
    [
      symbol,
      ...[...inputs, "", ...outputs].map((end) =>
        typeof end === "string" ? end : `${end[0]} ${end[1].dim} ${end[1].inner}`
      ),
    ].join();
  if (places(a) === places(b)) return a;
  throw new PlanError(
    `Cannot share the batch "${a.symbol}" among groups of ranks: branches of an If have it in different places`,
  );
}

/** `config` with the rows that one group has at the nominal sizes: its share, one where nothing is said. */
export function shareNominal(config: Config, { symbol }: Batch, { dp }: DeviceMesh): Config {
  return { ...config, nominal: { ...config.nominal, [symbol]: Math.ceil((config.nominal?.[symbol] ?? dp) / dp) } };
}
