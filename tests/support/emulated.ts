/** Models as jobs of several ranks in one ONNX Runtime session, for tests. */
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import type { Graph } from "../../src/graph/graph.ts";
import { ParallelExecutionCtx } from "../../src/passes/context.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import type { Engine } from "../../src/runtime/cpu/engine.ts";
import { EmulatedModel, Emulation } from "../../src/runtime/emulation.ts";

/** `graph` planned and sharded as every rank of a job would. */
export function sharded(graph: Graph<"global">, ranks: number): Graph<"sharded"> {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0 });
  return shardPipeline().run(cleanPipeline().run(graph, ctx), ctx);
}

/** The ONNX model at `path`, split over `ranks`. */
export async function emulatedModel(engine: Engine, path: string, ranks: number): Promise<EmulatedModel> {
  using file = readOnnx(path);
  return await EmulatedModel.open(engine, sharded(importOnnx(file), ranks), ranks);
}

/** One step of the ranks' local graphs: the results of every rank, by position of the output. */
export async function emulatedStep(
  engine: Engine,
  locals: readonly Graph<"local">[],
  feeds: readonly ReadonlyMap<string, HostTensor>[],
): Promise<HostTensor[][]> {
  await using job = await Emulation.open(engine, locals);
  return await job.step(feeds);
}
