/** What each rank does for `shardwise verify`; rank 0 compares and writes results, a line of JSON each. */
import { describeError } from "../../src/core/errors.ts";
import { readTensors } from "../../src/formats/tensor_file.ts";
import { generate } from "../../src/generate/generate.ts";
import { Sampler } from "../../src/generate/sampler.ts";
import { CommunicatorError } from "../../src/runtime/comm/errors.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import type { DataParallelModel } from "../../src/runtime/data_parallel_model.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { LoadedFolder } from "../../src/folder_session.ts";
import { loadFolder, loadModel } from "./load_model.ts";
import { parallelizeOverMesh } from "../../src/session.ts";
import { compareTensors } from "../compare.ts";
import { passConfig } from "../plan_options.ts";
import { type MeshGroup, meshGroup } from "./mesh_group.ts";
import type { RankContext, VerifyCase, VerifyJob, VerifyResult } from "../job.ts";

/** Carries out `job`: each model is loaded once for all its cases that stand together. */
export async function verifyOnRank(job: VerifyJob, { comm, report }: RankContext): Promise<void> {
  await using group = await meshGroup(comm, job.mesh);
  const together = (a: VerifyCase, b: VerifyCase) =>
    // Groups share the rows of tensors, and each generates texts by itself.
    a.model === b.model && (group.count === 1 || (a.kind === "outputs") === (b.kind === "outputs"));
  for (let at = 0; at < job.cases.length;) {
    const first = job.cases[at]!;
    const end = job.cases.findIndex((c, i) => i > at && !together(first, c));
    const cases = job.cases.slice(at, end < 0 ? undefined : end);
    at += cases.length;
    await verifyModel(cases, { job, group }, { comm, report });
  }
}

interface Setting {
  readonly job: VerifyJob;
  readonly group: MeshGroup;
}

async function verifyModel(
  cases: readonly VerifyCase[],
  setting: Setting,
  { comm, report }: RankContext,
): Promise<void> {
  const failed = (c: VerifyCase, error: unknown, ms: number) => {
    // Ranks that no longer go in step cannot go on; any other error is the same on all of them.
    if (error instanceof CommunicatorError) throw error;
    report({ name: c.name, ranks: comm.size, pass: false, outputs: [], problem: describeError(error), ms });
  };
  const began = performance.now();
  let model: ParallelModel | DataParallelModel | LoadedFolder;
  try {
    model = await open(cases[0]!, setting, comm);
  } catch (error) {
    for (const c of cases) failed(c, error, performance.now() - began);
    return;
  }
  await using _owned = model;
  for (const c of cases) {
    const start = performance.now();
    try {
      const found = model instanceof LoadedFolder
        ? await verifySeq2seq(c, model)
        : c.kind === "outputs"
        ? await verifyOutputs(c, model, comm.rank)
        : await verifyGreedy(c, model as ParallelModel);
      // What one group finds wrong is wrong.
      const all = setting.group.count === 1 ? [found] : await comm.objects.allGather(found);
      const worst = all.find(({ pass }) => !pass) ?? found;
      report({ name: c.name, ranks: comm.size, ...worst, ms: performance.now() - start });
    } catch (error) {
      failed(c, error, performance.now() - start);
    }
  }
}

/** The model of some cases, of which the first is `c`. */
async function open(
  c: VerifyCase,
  { job: { plan, on, mesh }, group }: Setting,
  comm: Communicator,
): Promise<ParallelModel | DataParallelModel | LoadedFolder> {
  if (mesh && group.count > 1 && c.kind === "outputs") {
    return await parallelizeOverMesh(c.model, { comm, mesh, ...on, config: passConfig(plan, mesh.tp) });
  }
  const options = { comm: group.comm, on, plan, threads: group.threads };
  return c.kind === "seq2seq" ? await loadFolder(c.model, options) : await loadModel(c.model, options);
}

type Found = Pick<VerifyResult, "pass" | "outputs" | "problem">;

async function verifyOutputs(
  c: VerifyCase & { kind: "outputs" },
  model: Pick<ParallelModel, "run">,
  rank: number,
): Promise<Found> {
  const got = await model.run(Object.fromEntries(await readTensors(c.inputs)));
  if (rank !== 0) return { pass: true, outputs: [] };
  const outputs = compareTensors(got, await readTensors(c.expected), c);
  return { pass: outputs.length > 0 && outputs.every(({ pass }) => pass), outputs };
}

async function verifyGreedy(c: VerifyCase, model: ParallelModel): Promise<Found> {
  if (c.kind !== "greedy") throw new Error(`Unreachable case ${c.kind}`);
  const options = { sampler: new Sampler(), maxNewTokens: c.expected.length };
  return compareIds(await Array.fromAsync(generate(model, c.prompt, options)), c.expected);
}

async function verifySeq2seq(c: VerifyCase, model: LoadedFolder): Promise<Found> {
  if (c.kind !== "seq2seq") throw new Error(`Unreachable case ${c.kind}`);
  const prompt = typeof c.prompt === "string" ? Object.fromEntries(await readTensors(c.prompt)) : c.prompt;
  const options = { maxNewTokens: c.expected.length, decoderPrompt: c.decoderPrompt, endIds: [] };
  return compareIds(await Array.fromAsync(model.generate(prompt, options)), c.expected);
}

function compareIds(got: readonly number[], expected: readonly number[]): Found {
  const wrong = expected.findIndex((id, i) => id !== got[i]);
  if (wrong < 0) return { pass: true, outputs: [] };
  const problem = `token ${wrong + 1} of ${expected.length} is ${got[wrong]}, expected ${expected[wrong]}`;
  return { pass: false, outputs: [], problem };
}
