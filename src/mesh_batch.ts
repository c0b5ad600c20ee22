/** The batch of a model that groups of ranks share. */
import { importOnnx } from "./formats/import_onnx.ts";
import { readOnnx } from "./formats/onnx_file.ts";
import { opDef } from "./ops/table.ts";
import { cleanModel } from "./passes/clean_model.ts";
import { type Config, ParallelExecutionCtx } from "./passes/context.ts";
import { type Batch, batchDims } from "./plan/batch.ts";
import type { DeviceMesh } from "./plan/mesh.ts";

/** Where the model at `path` has its batch. @throws {PlanError} If it cannot be shared. */
export function batchOf(path: string, mesh: DeviceMesh): Batch {
  using file = readOnnx(path);
  const ctx = new ParallelExecutionCtx({ ranks: mesh.tp, rank: 0 });
  return batchDims(cleanModel(importOnnx(file), ctx), opDef, mesh.assume);
}

/** `config` with the rows that one group has at the nominal sizes: its share, one where nothing is said. */
export function shareNominal(config: Config, { symbol }: Batch, { dp }: DeviceMesh): Config {
  return { ...config, nominal: { ...config.nominal, [symbol]: Math.ceil((config.nominal?.[symbol] ?? dp) / dp) } };
}
