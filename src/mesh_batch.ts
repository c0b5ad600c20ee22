/** The batch of a model that groups of ranks share. */
import { PlanError } from "./core/errors.ts";
import type { Graph } from "./graph/graph.ts";
import { modelGraphs, OpenFiles } from "./model_graphs.ts";
import { opDef } from "./ops/table.ts";
import { cleanModel } from "./passes/clean_model.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
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
  const find = (graph: Graph<"global">) => batchDims(cleanModel(graph, ctx), opDef, mesh.assume);
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

/** `config` with the rows that one group has at the nominal sizes: its share, one where nothing is said. */
export function shareNominal(config: Config, { symbol }: Batch, { dp }: DeviceMesh): Config {
  return { ...config, nominal: { ...config.nominal, [symbol]: Math.ceil((config.nominal?.[symbol] ?? dp) / dp) } };
}
