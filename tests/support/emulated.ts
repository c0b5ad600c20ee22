/** Models as jobs of several ranks in one ONNX Runtime session, for tests. */
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { readOnnx } from "../../src/formats/onnx_file.ts";
import { importOnnx } from "../../src/formats/import_onnx.ts";
import type { Graph } from "../../src/graph/graph.ts";
import { type Config, ParallelExecutionCtx } from "../../src/passes/context.ts";
import { planFirstStep } from "../../src/passes/first_step.ts";
import { planOptions } from "../../src/passes/parallel_axis_solver_pass.ts";
import { specializeBranches } from "../../src/passes/specialize_branches.ts";
import { cleanPipeline, shardPipeline } from "../../src/passes/pipelines.ts";
import type { Engine } from "../../src/runtime/cpu/engine.ts";
import { EmulatedModel, Emulation } from "../../src/runtime/emulation.ts";

/** `graph` planned and sharded as every rank of a job would. */
export function sharded(graph: Graph<"global">, ranks: number, config: Config = {}): Graph<"sharded"> {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0, config });
  return shardPipeline().run(cleanPipeline().run(graph, ctx), ctx);
}

/** The ONNX model at `path`, split over `ranks`; of a model with branches, all of them. */
export async function emulatedModel(engine: Engine, path: string, ranks: number): Promise<WholeModel> {
  using file = readOnnx(path);
  const graph = importOnnx(file), branches = specializeBranches(graph);
  if (!branches) return await EmulatedModel.open(engine, sharded(graph, ranks), ranks);
  const { steps, input } = branches;
  const main = sharded(steps?.next ?? branches.whenTrue, ranks);
  const other = steps ? shardedFirstStep(steps.first, main, ranks) : sharded(branches.whenFalse, ranks);
  const first = await EmulatedModel.open(engine, other, ranks), next = await EmulatedModel.open(engine, main, ranks);
  const reads = (g: Graph) => new Set(g.nodes.flatMap((n) => n.kind === "placeholder" ? [n.outputs[0]] : []));
  const takes = new Map([[first, reads(other)], [next, reads(main)]]);
  return {
    run(inputs) {
      const chosen = inputs[input]!.data[0] ? next : first;
      return chosen.run(Object.fromEntries(Object.entries(inputs).filter(([n]) => takes.get(chosen)!.has(n))));
    },
    async [Symbol.asyncDispose]() {
      await first[Symbol.asyncDispose]();
      await next[Symbol.asyncDispose]();
    },
  };
}

/** `first`, planned and sharded for the steps after it. */
function shardedFirstStep(first: Graph<"global">, next: Graph<"sharded">, ranks: number): Graph<"sharded"> {
  const ctx = new ParallelExecutionCtx({ ranks, rank: 0 });
  const clean = cleanPipeline().run(first, ctx);
  ctx.plan = planFirstStep(clean, next, planOptions(ctx.config, ranks, clean));
  return shardPipeline().run(clean, ctx);
}

/** A model that takes and gives whole tensors. */
export interface WholeModel extends AsyncDisposable {
  readonly run: (inputs: Readonly<Record<string, HostTensor>>) => Promise<Record<string, HostTensor>>;
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
