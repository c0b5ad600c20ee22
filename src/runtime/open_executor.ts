/** From a rank's graphs to what runs them: sessions of a CPU engine, or a GPU. */
import { UnavailableError } from "../core/errors.ts";
import type { OnProgress } from "../core/progress.ts";
import type { Graph } from "../graph/graph.ts";
import { byteLength } from "../core/dtype.ts";
import { Libc } from "../ffi/libc.ts";
import { fuseRank } from "../passes/fuse_rank.ts";
import type { Communicator } from "./comm/communicator.ts";
import { compile, compileAll } from "./compile.ts";
import { SharedSessions } from "./cpu/shared_sessions.ts";
import { SizeLimits } from "./size_limits.ts";
import { CpuModelExecutor } from "./cpu/model_executor.ts";
import { type EngineChoice, openEngine } from "./cpu/open_engine.ts";
import { type DeviceChoice, type HeldDType, requireDevice, requireHeldDType } from "./device_choice.ts";
import type { Executor } from "./executor.ts";
import { moveToHugePages } from "./host/huge_pages.ts";

/** On what a model runs. */
export interface ExecutionOptions {
  /** The ranks that share the model, from `init()`. */
  readonly comm: Communicator;
  /** On what this rank computes; default `SHARDWISE_DEVICE`, else a GPU for ranks that NCCL joins, and the CPU for others. */
  readonly device?: DeviceChoice | undefined;
  /** On a GPU: what floats are held in; default `SHARDWISE_DTYPE`, else as the model has them. */
  readonly dtype?: HeldDType | undefined;
  /** Threads of each of this rank's sessions; the host's cores shared out among its ranks by default. */
  readonly threads?: number | undefined;
  /** ONNX Runtime's native package, or its WebAssembly one; the first that loads by default. */
  readonly engine?: EngineChoice | undefined;
  /** Keep weights as they are mapped instead of packing them for speed: less private memory, slower with many rows. */
  readonly disablePrepacking?: boolean | undefined;
  /** Told of each phase as it begins, and of each segment that is loaded; on a large model some take many seconds. */
  readonly onProgress?: OnProgress | undefined;
}

/** Calls `use` with a rank's graph, whose weights can be read until what `use` gives is there. */
export type UsePlain = <T>(use: (graph: Graph<"local">) => Promise<T>) => Promise<T>;

/** How graphs are opened. */
export interface OpenOptions extends ExecutionOptions {
  /** Whether ops are fused that a CPU's engine has as one; default true. */
  readonly fuse?: boolean | undefined;
}

/** The graphs of a model. */
export interface ExecutableGraphs {
  readonly sharded: Graph<"sharded">;
  /** This rank's. */
  readonly local: Graph<"local">;
  /** This rank's with plain ops, for sizes that fused ones do not take on a CPU. Absent: there are none. */
  readonly plain?: UsePlain | undefined;
}

/** What runs the graphs, in their order, and why it is not the best that was asked for. */
export interface OpenedExecutors {
  readonly executors: readonly Executor[];
  readonly notice: string | undefined;
}

/**
 * Opens them: several graphs of one model (a first step and the steps after it) share states and weights. All ranks call it together.
 *
 * @throws {UnavailableError} If what was asked for is not here.
 */
export async function openExecutors(
  graphs: readonly ExecutableGraphs[],
  options: OpenOptions,
): Promise<OpenedExecutors> {
  const { comm } = options, wanted = deviceOf(options);
  let problem: string | undefined;
  if (wanted === "auto" && comm.backend !== "nccl") {
    // Ranks that met for GPUs are joined by NCCL; one rank has nobody to meet.
    problem = comm.size > 1
      ? await (await import("./cuda/agree.ts")).problemOfAnyRank(comm) ?? `the ranks are joined by ${comm.backend}`
      : (await import("./cuda/probe.ts")).gpuProblem({ localWorldSize: 1, worldSize: 1 });
  }
  if (wanted !== "cpu" && problem === undefined) {
    const dtype = options.dtype ?? (Deno.env.get("SHARDWISE_DTYPE") || undefined);
    const { openGpu } = await import("./cuda/open.ts");
    return await openGpu(graphs.map((g) => g.local), {
      comm,
      host: { open: () => openEngine(options.engine), threads: threadsOf(options) },
      dtype: dtype === undefined ? undefined : requireHeldDType(dtype),
      onProgress: options.onProgress,
    });
  }
  const opened = await openCpu(graphs, options);
  return problem === undefined ? opened : { ...opened, notice: opened.notice ?? `no GPU (${problem}): using the CPU` };
}

/** Threads of each session of this rank. */
function threadsOf({ comm, threads }: ExecutionOptions): number {
  return threads ?? Math.max(1, Math.floor(comm.cores / comm.size));
}

function deviceOf({ comm, device }: ExecutionOptions): DeviceChoice {
  const named = device ?? (Deno.env.get("SHARDWISE_DEVICE") || undefined);
  if (named !== undefined) return requireDevice(named);
  return comm.backend === "nccl" ? "cuda" : "cpu";
}

async function openCpu(graphs: readonly ExecutableGraphs[], options: OpenOptions): Promise<OpenedExecutors> {
  const { comm, threads, disablePrepacking, onProgress } = options;
  const fuse = (list: readonly Graph<"local">[]) => options.fuse === false ? list : fuseRank(list).graphs;
  const engine = await openEngine(options.engine), common = { engine, comm, threads, disablePrepacking };
  // Few models need a second program; where one may come, it finds the sessions that both have alike.
  const sessions = graphs.map(({ sharded, plain }) =>
    plain && SizeLimits.of(sharded) ? new SharedSessions() : undefined
  );
  const fused = await compileAll(fuse(graphs.map((g) => g.local)), { ...common, onProgress, sessions });
  const settle = weightBytes(graphs) < LARGE ? undefined : settleMemory;
  const executors = graphs.map(({ sharded, local, plain }, i) =>
    new CpuModelExecutor({
      settle,
      sharded,
      local,
      fused: fused[i]!,
      compilePlain: plain &&
        (async () => await plain((graph) => compile(fuse([graph])[0]!, { ...common, sessions: [sessions[i]] }))),
    })
  );
  return { executors, notice: engine.notice };
}

/** Of fewer bytes of weights most stay in the processor's caches, in pages of any size. */
const LARGE = 32 << 20;

function weightBytes(graphs: readonly ExecutableGraphs[]): number {
  const all = new Set(graphs.flatMap(({ local }) => local.nodes.flatMap((n) => n.kind === "get_attr" ? [n.data] : [])));
  let bytes = 0;
  for (const { dtype, shape } of all) bytes += byteLength(dtype, shape.reduce((a, b) => a * b, 1));
  return bytes;
}

/** Moves what steps read to huge pages; nothing where there is no C library that we know. */
function settleMemory(): void {
  let libc: Libc;
  try {
    libc = new Libc();
  } catch (error) {
    if (error instanceof UnavailableError) return;
    throw error;
  }
  moveToHugePages(libc);
  libc[Symbol.dispose]();
}
