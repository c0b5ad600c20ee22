/** From a rank's local graph to an executor: program, weight files, sessions. */
import type { OnProgress } from "../core/progress.ts";
import type { Graph } from "../graph/graph.ts";
import { segment } from "../program/segment.ts";
import type { Communicator } from "./comm/communicator.ts";
import type { Engine } from "./cpu/engine.ts";
import { CpuExecutor } from "./cpu/executor.ts";
import { WeightFiles } from "./cpu/weight_files.ts";
import { makeWeightFolder } from "./cpu/weight_folder.ts";

/** How a program is compiled. */
export interface RuntimeOptions {
  readonly engine: Engine;
  readonly comm: Communicator;
  /** Threads of each session; cores per rank of this host by default. */
  readonly threads?: number | undefined;
  /** See `SessionOptions`. */
  readonly disablePrepacking?: boolean | undefined;
  /** Told how far it is. */
  readonly onProgress?: OnProgress | undefined;
}

/** Compiles rank `comm.rank`'s local graph; all ranks call it together. */
export async function compile(graph: Graph<"local">, options: RuntimeOptions): Promise<CpuExecutor> {
  const [executor] = await compileAll([graph], options);
  return executor!;
}

/**
 * Compiles several local graphs of one model (a first step and the steps after it), which share the files of their
 * weights; all ranks call it together.
 */
export async function compileAll(
  graphs: readonly Graph<"local">[],
  options: RuntimeOptions,
): Promise<CpuExecutor[]> {
  const { comm, engine } = options;
  const folder = await comm.objects.broadcast(comm.rank === 0 ? makeWeightFolder(graphs, comm.size) : undefined, 0);
  try {
    using weights = new WeightFiles({
      folder,
      rank: comm.rank,
      ranks: comm.size,
      writesHostFile: comm.localRank === 0,
      graphs,
    });
    const executors: CpuExecutor[] = [];
    for (const graph of graphs) {
      executors.push(
        await CpuExecutor.compile(segment(graph, comm.rank, comm.size), {
          engine,
          group: comm,
          weights,
          threads: options.threads ?? Math.max(1, Math.floor(comm.cores / comm.size)),
          disablePrepacking: options.disablePrepacking,
          onProgress: options.onProgress,
          weightsWritten: () => comm.barrierSync(),
        }),
      );
    }
    comm.barrierSync();
    return executors;
  } finally {
    // The sessions keep what they mapped. When another rank failed, the barrier threw, and this runs all the same.
    if (comm.rank === 0) Deno.removeSync(folder, { recursive: true });
  }
}
