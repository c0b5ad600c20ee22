/**
 * What each rank does for `shardwise bench`; rank 0 reports. Cases take turns, round by round, so that what disturbs the machine for a
 * while meets all of them; a first round only warms up.
 */
import { readTensors } from "../../src/formats/tensor_file.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { type DType, dtypeInfo } from "../../src/core/dtype.ts";
import { ownMemory } from "../../src/runtime/host/process_memory.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import type { GpuUse } from "../../src/runtime/executor.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import type { BenchCase, BenchJob, BenchReport, RankContext } from "../job.ts";
import { type Case, type Measured, Watch } from "./bench_case.ts";
import { generationCases } from "./bench_generation.ts";
import { drawn } from "./bench_inputs.ts";
import { loadFolder, loadModel } from "./load_model.ts";

/** Carries out `job`. */
export async function benchOnRank(job: BenchJob, { comm, report }: RankContext): Promise<void> {
  const started = performance.now(), options = { comm, on: job.on, plan: job.plan };
  if (job.generates) {
    await using folder = await loadFolder(job.model, options);
    const loadMs = performance.now() - started;
    const models = folder.encoder ? [folder.encoder, folder.decoder] : [folder.decoder];
    return await measure(await generationCases(job, folder), { job, comm, report, models, loadMs });
  }
  await using model = await loadModel(job.model, options);
  const loadMs = performance.now() - started;
  await measure(await runCases(job, model), { job, comm, report, models: [model], loadMs });
}

/** Runs of a model without states: at each length, where it leaves sizes open. */
async function runCases(job: BenchJob, model: ParallelModel): Promise<Case[]> {
  const watch = new Watch(model), cases: Case[] = [], seen = new Set<string>();
  const add = (inputs: Record<string, HostTensor>, tokens: number | undefined) =>
    cases.push({
      kind: "run",
      tokens,
      run: async () => {
        const began = performance.now();
        await watch.model.run(inputs);
        return { ms: performance.now() - began, ...watch.taken() };
      },
    });
  if (job.inputs !== undefined) add(Object.fromEntries(await readTensors(job.inputs)), undefined);
  else {
    const made = job.prompts.map((length) => ({ length, inputs: drawn(job.model, job, length) }));
    const shapes = (inputs: Record<string, HostTensor>) => Object.values(inputs).map((t) => t.shape.join()).join(" ");
    const isOpen = new Set(made.map(({ inputs }) => shapes(inputs))).size > 1 || job.prompts.length === 1;
    for (const { length, inputs } of made) {
      if (seen.has(shapes(inputs))) continue;
      seen.add(shapes(inputs));
      add(inputs, isOpen ? length : undefined);
    }
  }
  return cases;
}

interface Measurement extends RankContext {
  readonly job: BenchJob;
  readonly models: readonly ParallelModel[];
  readonly loadMs: number;
}

/** What a rank tells of itself. */
type OwnReport = Omit<BenchReport, "ranks" | "cases"> & {
  readonly rank: BenchReport["ranks"][number];
  readonly cases: readonly (readonly Measured[])[];
};

async function measure(cases: readonly Case[], { job, comm, report, models, loadMs }: Measurement): Promise<void> {
  const measured: Measured[][] = cases.map(() => []);
  for (let round = -1; round < job.rounds; round++) {
    for (const [i, c] of cases.entries()) {
      // So that no rank counts the time that another one was late.
      await comm.barrier();
      const found = await c.run();
      if (round >= 0) measured[i]!.push(found);
    }
  }
  const weights = models.map((m) => m.weightBytes), gpu = gpuAtMost(models.at(-1)!.gpu, measured.flat());
  const own: OwnReport = {
    loadMs,
    weightBytes: weights.reduce((sum, w) => sum + w.whole, 0),
    dtype: productDType(models.at(-1)!),
    rank: { weightBytes: weights.reduce((sum, w) => sum + w.rank, 0), memory: ownMemory(), ...(gpu ? { gpu } : {}) },
    cases: measured,
  };
  await together(own, cases, comm, report);
}

/** The GPU with the most that was held on it for each use, as caches come and go with texts. */
function gpuAtMost(gpu: GpuUse | undefined, measured: readonly Measured[]): GpuUse | undefined {
  if (!gpu) return undefined;
  const memory: Record<string, number> = { ...gpu.memory };
  for (const { gpuMemory = {} } of measured) {
    for (const [use, bytes] of Object.entries(gpuMemory)) memory[use] = Math.max(memory[use] ?? 0, bytes);
  }
  return { ...gpu, memory };
}

async function together(
  own: OwnReport,
  cases: readonly Case[],
  comm: Communicator,
  report: RankContext["report"],
): Promise<void> {
  const all = await comm.objects.gather(own, 0);
  if (all === null) return;
  const most = (of: (r: OwnReport) => number) => Math.max(...all.map(of));
  const told = cases.map(({ kind, tokens }, i): BenchCase => {
    const rounds = own.cases[i]!, [first] = rounds as [Measured];
    return {
      kind,
      tokens,
      // A step ends when all ranks have ended it.
      ms: rounds.map((_, r) => most((o) => o.cases[i]![r]!.ms)),
      waitingMs: rounds.map((_, r) => most((o) => o.cases[i]![r]!.waitingMs)),
      flops: first.flops,
      weightBytes: most((o) => o.cases[i]![0]!.weightBytes),
      stateBytes: most((o) => o.cases[i]![0]!.stateBytes),
      notRecorded: kind === "decode" ? rounds.at(-1)!.notRecorded : undefined,
    };
  });
  const { weightBytes, dtype } = own;
  report(
    {
      loadMs: most((o) => o.loadMs),
      weightBytes,
      ranks: all.map((o) => o.rank),
      dtype,
      cases: told,
    } satisfies BenchReport,
  );
}

/** The float dtype that most weights have, as it is held; f32 where no weight is a float. */
function productDType(model: ParallelModel): DType {
  const sizes = new Map<DType, number>();
  for (const node of model.graph.nodes) {
    if (node.kind !== "get_attr" || !dtypeInfo(node.data.dtype).float) continue;
    const dtype = model.heldDType(node.data.dtype), count = node.data.shape.reduce((a, b) => a * b, 1);
    sizes.set(dtype, (sizes.get(dtype) ?? 0) + count);
  }
  return [...sizes].toSorted((a, b) => b[1] - a[1])[0]?.[0] ?? "f32";
}
