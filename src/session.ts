/**
 * From a file to a running model, in the order of the rooms: read, clean, plan, shard, load, compile.
 */
import { importOnnx } from "./formats/import_onnx.ts";
import { type OnnxFile, readOnnx } from "./formats/onnx_file.ts";
import type { Graph } from "./graph/graph.ts";
import { opDef } from "./ops/table.ts";
import { foldShapes } from "./passes/fold_shapes.ts";
import { inferTypes } from "./passes/infer_types.ts";
import { localize } from "./passes/localize.ts";
import { insertReshards } from "./passes/reshard.ts";
import type { Nominal } from "./plan/cost.ts";
import { explainPlan, type PlanReport } from "./plan/explain.ts";
import type { Plan } from "./plan/plan.ts";
import { search } from "./plan/search.ts";
import type { Communicator } from "./runtime/comm/communicator.ts";
import { compile } from "./runtime/compile.ts";
import { openEngine } from "./runtime/cpu/open_engine.ts";
import { ParallelModel } from "./runtime/parallel_model.ts";

export interface ParallelizeOptions {
  readonly comm: Communicator;
  readonly threads?: number;
}

/** The graph of an opened model, ready to be planned: types inferred, shape subgraphs evaluated. */
export function readGraph(file: OnnxFile): Graph<"global"> {
  return foldShapes(inferTypes(importOnnx(file)));
}

/** How the model at `path` would be split over `ranks`, and why; starts nothing and reads no weights. */
export function explainModel(
  path: string,
  { ranks, nominal = {} }: { readonly ranks: number; readonly nominal?: Nominal },
): { readonly plan: Plan; readonly report: PlanReport } {
  using file = readOnnx(path);
  const graph = readGraph(file);
  const options = { ranks, opDef, nominal };
  const plan = search(graph, options);
  return { plan, report: explainPlan(graph, plan, options) };
}

export async function parallelizeModel(path: string, options: ParallelizeOptions): Promise<ParallelModel> {
  const { comm } = options;
  using file = readOnnx(path);
  const graph = readGraph(file);
  const plan = search(graph, { ranks: comm.size, opDef });
  const values = new Map([...graph.values].map(([n, v]) => [n, { ...v, placement: plan.placements.get(n)! }]));
  const annotated: Graph<"annotated"> = { ...graph, stage: "annotated", values };
  const sharded = insertReshards(annotated, plan);
  const local = localize(sharded, comm.rank, comm.size);
  const engine = await openEngine();
  const executor = await compile(local, { engine, comm, threads: options.threads });
  return new ParallelModel({ sharded, local, plan, executor, group: comm, notice: engine.notice });
}
