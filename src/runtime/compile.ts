/** From a rank's local graph to an executor: program, weight files, sessions. */
import { EngineError } from "../core/errors.ts";
import type { OnProgress } from "../core/progress.ts";
import type { Graph } from "../graph/graph.ts";
import { segment } from "../program/segment.ts";
import type { Communicator } from "./comm/communicator.ts";
import { CommunicatorError } from "./comm/errors.ts";
import { completeTypes } from "./cpu/complete_types.ts";
import type { Engine } from "./cpu/engine.ts";
import { CpuExecutor } from "./cpu/executor.ts";
import type { SharedSessions } from "./cpu/shared_sessions.ts";
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
  /** By graph; see `CompileOptions`. */
  readonly sessions?: readonly (SharedSessions | undefined)[] | undefined;
}

/**
 * Compiles rank `comm.rank`'s local graph; all ranks call it together.
 *
 * @throws {CommunicatorError} If ranks cannot read each other's memory: if they are on several hosts, or joined by MPI alone.
 */
export async function compile(graph: Graph<"local">, options: RuntimeOptions): Promise<CpuExecutor> {
  const [executor] = await compileAll([graph], options);
  return executor!;
}

/**
 * Compiles several local graphs of one model (a first step and the steps after it), which share the files of their
 * weights; all ranks call it together.
 *
 * @throws {CommunicatorError} As {@linkcode compile} does.
 */
export async function compileAll(
  given: readonly Graph<"local">[],
  options: RuntimeOptions,
): Promise<CpuExecutor[]> {
  const { comm, engine } = options, graphs: Graph<"local">[] = [];
  for (const graph of given) graphs.push(await completeTypes(graph, engine));
  requireSharedMemory(comm);
  const folder = await comm.objects.broadcast(comm.rank === 0 ? makeWeightFolder(graphs, comm.size) : undefined, 0);
  // A group's first rank of a host is not the host's first where the group is a part of the job.
  const first = Int32Array.of(comm.localRank);
  comm.allReduceSync(first, "min");
  try {
    using weights = new WeightFiles({
      folder,
      rank: comm.rank,
      ranks: comm.size,
      writesHostFile: comm.localRank === first[0],
      graphs,
    });
    const executors: CpuExecutor[] = [];
    for (const [i, graph] of graphs.entries()) {
      executors.push(
        await CpuExecutor.compile(segment(graph, comm.rank, comm.size), {
          engine,
          group: comm,
          weights,
          threads: options.threads ?? Math.max(1, Math.floor(comm.cores / comm.size)),
          disablePrepacking: options.disablePrepacking,
          onProgress: options.onProgress,
          sessions: options.sessions?.[i],
          weightsWritten: () => comm.barrierSync(),
        }),
      );
    }
    comm.barrierSync();
    return executors;
  } catch (error) {
    // The files stay until every rank has read them or been refused too: what others report is then no missing file.
    if (error instanceof EngineError) meetIfPossible(comm);
    throw error;
  } finally {
    // The sessions keep what they mapped. When another rank failed, the barrier threw, and this runs all the same.
    if (comm.rank === 0) Deno.removeSync(folder, { recursive: true });
  }
}

/** Waits for the other ranks, unless one has gone. */
function meetIfPossible(comm: Communicator): void {
  try {
    comm.barrierSync();
  } catch (error) {
    if (!(error instanceof CommunicatorError)) throw error;
  }
}

/** The parts of a model on CPUs exchange tensors where they lie. */
function requireSharedMemory(comm: Communicator): void {
  const mark = comm.arena.mark();
  try {
    const probe = comm.arena.alloc(1);
    for (let rank = 0; rank < comm.size; rank++) probe.peer(rank);
  } catch (error) {
    if (!(error instanceof CommunicatorError)) throw error;
    throw new CommunicatorError(
      `Cannot run a model on ${comm.size} ranks that ${comm.backend} joins: its parts exchange tensors in shared memory`,
      { hint: "run all ranks on one host, with the backend shm or shm+mpi", cause: error },
    );
  } finally {
    comm.arena.reset(mark);
  }
}
