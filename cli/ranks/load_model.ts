/** Loading a model on a rank, with what its user should see of that. */
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { parallelizeModel, type ParallelizeOptions } from "../../src/session.ts";
import { planSource } from "../../src/plan_source.ts";
import { printNote } from "../print.ts";
import { progressLine } from "./progress.ts";

/** `parallelizeModel`, by the plan of a file where one is given, with a line of progress on a terminal; says on rank 0 why the engine is not the best one, if it is not. */
export async function loadModel(path: string, comm: Communicator, plan?: string): Promise<ParallelModel> {
  const config = plan === undefined ? {} : planSource(plan, comm.size);
  const model = await withProgress(path, { comm, config });
  if (model.notice !== undefined && comm.rank === 0) printNote(`shardwise: ${model.notice}`);
  return model;
}

async function withProgress(path: string, options: ParallelizeOptions): Promise<ParallelModel> {
  using line = progressLine(options.comm);
  return await parallelizeModel(path, { ...options, onProgress: line.onProgress });
}
