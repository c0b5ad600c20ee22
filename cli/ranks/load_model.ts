/** Loading a model on a rank, with what its user should see of that. */
import type { Config } from "../../src/passes/context.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { type LoadedFolder, loadModelFolder } from "../../src/folder_session.ts";
import { parallelizeModel } from "../../src/session.ts";
import type { JobDevice } from "../job.ts";
import { passConfig, type PlanConfig } from "../plan_options.ts";
import { printNote } from "../print.ts";
import { progressLine } from "../../src/runtime/progress_line.ts";

/** What a model is loaded with. */
export interface LoadOptions {
  readonly comm: Communicator;
  readonly on: JobDevice;
  readonly plan: PlanConfig;
  /** Of each session; by default the cores, shared out among the ranks of `comm`. */
  readonly threads?: number | undefined;
  /** Files of the model's other graphs; a folder knows its own. */
  readonly beside?: readonly string[];
}

/** `parallelizeModel` with a line of progress on a terminal; says on rank 0 why the engine is not the best one, if it is not. */
export async function loadModel(path: string, { plan, ...options }: LoadOptions): Promise<ParallelModel> {
  const { comm } = options;
  const model = await withProgress(path, { ...options, config: passConfig(plan, comm.size) });
  if (model.notice !== undefined && comm.rank === 0) printNote(`shardwise: ${model.notice}`);
  return model;
}

/** The same for a model folder. */
export async function loadFolder(path: string, { comm, on, plan, threads }: LoadOptions): Promise<LoadedFolder> {
  using line = progressLine(comm);
  const config = passConfig(plan, comm.size);
  const folder = await loadModelFolder(path, { comm, ...on, threads, config, onProgress: line.onProgress });
  if (folder.decoder.notice !== undefined && comm.rank === 0) printNote(`shardwise: ${folder.decoder.notice}`);
  return folder;
}

async function withProgress(
  path: string,
  { on, ...options }: Omit<LoadOptions, "plan"> & { readonly config: Config },
): Promise<ParallelModel> {
  using line = progressLine(options.comm);
  return await parallelizeModel(path, { ...options, ...on, onProgress: line.onProgress });
}
