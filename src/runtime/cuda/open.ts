/** A rank's part of a model on its GPU. */
import type { DType } from "../../core/dtype.ts";
import { InputError, UnavailableError } from "../../core/errors.ts";
import type { OnProgress } from "../../core/progress.ts";
import { CudaDriver } from "../../ffi/cuda_driver.ts";
import { CudaLibraries } from "../../ffi/cuda_libraries.ts";
import type { Graph } from "../../graph/graph.ts";
import { mostFloats } from "../../passes/round_values.ts";
import type { Communicator } from "../comm/communicator.ts";
import { NcclCommunicator } from "../comm/nccl/nccl_communicator.ts";
import type { HeldDType } from "../device_choice.ts";
import { GpuDevice } from "./device.ts";
import { hostNodes, opsOf } from "./host_nodes.ts";
import { GpuModelExecutor } from "./model_executor.ts";
import type { Executor } from "../executor.ts";
import type { HostEngine } from "./host_session.ts";
import { NcclExchange } from "./nccl_exchange.ts";
import { StagedExchange } from "./staged_exchange.ts";
import type { RankExchange } from "./step_runner.ts";
import { WeightPool } from "./weights.ts";

/** How a graph is put on a GPU. */
export interface OpenGpuOptions {
  /** The ranks; those that NCCL joins use the GPU of their communicator, others GPU number LOCAL_RANK. */
  readonly comm: Communicator;
  /** What the model's floats are held in; as the file has them by default. */
  readonly dtype?: HeldDType | undefined;
  /** Told how far it is. */
  readonly onProgress?: OnProgress | undefined;
  /** What runs nodes that no GPU runs, and in how many threads. */
  readonly host: HostEngine;
}

/** What runs the graphs, and what a user should know of it. */
export interface OpenedGpu {
  readonly executors: readonly Executor[];
  readonly notice: string | undefined;
}

const HELD: Readonly<Record<HeldDType, DType>> = { fp32: "f32", fp16: "f16", bf16: "bf16" };

/**
 * Puts a model's graphs on this rank's GPU, where they share weights; all ranks call it together.
 *
 * @throws {UnavailableError} If a library, a GPU or its memory is missing.
 */
export async function openGpu(graphs: readonly Graph<"local">[], options: OpenGpuOptions): Promise<OpenedGpu> {
  const { comm, dtype, onProgress, host } = options, held = heldBy(graphs, dtype);
  const onHost = graphs.map((graph) => opsOf(graph, hostNodes(graph))).filter((ops) => ops !== "");
  // Ranks without a part of the model may not have the nodes that others run on their hosts.
  const inParts = Int32Array.of(onHost.length);
  await comm.allReduce(inParts, "max");
  const device = openDevice(comm), weights = new WeightPool({ device, held, onProgress });
  let collectives: RankExchange | undefined;
  const release = () => {
    collectives?.[Symbol.dispose]();
    weights[Symbol.dispose]();
    device[Symbol.dispose]();
  };
  let open = graphs.length;
  try {
    const exchange = collectives = exchangeOf(comm, device);
    const executors = graphs.map((graph) =>
      new GpuModelExecutor(graph, {
        device,
        weights,
        rank: comm.rank,
        ranks: comm.size,
        collectives: exchange,
        held,
        host,
        inParts: inParts[0] !== 0,
        onDispose: () => {
          if (--open === 0) release();
        },
      })
    );
    return { executors, notice: onHost.length === 0 ? undefined : `no GPU runs ${onHost.join(", ")}: the CPU does` };
  } catch (error) {
    release();
    throw error;
  }
}

function exchangeOf(comm: Communicator, device: GpuDevice): RankExchange | undefined {
  if (comm.size === 1) return undefined;
  return comm instanceof NcclCommunicator ? NcclExchange.open(comm, device) : new StagedExchange(comm, device);
}

function openDevice(comm: Communicator): GpuDevice {
  if (comm instanceof NcclCommunicator) return new GpuDevice({ gpu: comm.process });
  const libraries = new CudaLibraries(), { deviceCount } = new CudaDriver(libraries);
  if (deviceCount === 0) {
    throw new UnavailableError("Cannot use a GPU: this process sees none", {
      hint: "see nvidia-smi and CUDA_VISIBLE_DEVICES, or run with device cpu",
    });
  }
  // Ranks that exchange through the host may share a GPU.
  return new GpuDevice({ gpu: comm.localRank % deviceCount, libraries });
}

/** The dtype in which each dtype is held: the one that most of the weights have becomes `dtype`, others stay. */
export function heldBy(graphs: readonly Graph<"local">[], dtype: HeldDType | undefined): (dtype: DType) => DType {
  if (dtype === undefined) return (own) => own;
  const most = mostFloats(graphs);
  if (most === undefined) throw new InputError(`Cannot hold the model in ${dtype}: it has no weights that are floats`);
  return (own) => (own === most ? HELD[dtype] : own);
}
