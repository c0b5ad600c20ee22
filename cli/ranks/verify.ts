/** What each rank does for `shardwise verify`; rank 0 compares and writes results, a line of JSON each. */
import { describeError, InputError } from "../../src/core/errors.ts";
import type { LoadedFolder } from "../../src/folder_session.ts";
import { CommunicatorError } from "../../src/runtime/comm/errors.ts";
import type { Communicator } from "../../src/runtime/comm/communicator.ts";
import type { DataParallelModel } from "../../src/runtime/data_parallel_model.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { parallelizeOverMesh } from "../../src/mesh_session.ts";
import { loadFolder, loadModel } from "./load_model.ts";
import { compareGiven, type Given, givenByRanks, givenByReference, UnsplitModel } from "./verify_sides.ts";
import type { Difference, RoundedRun } from "../compare.ts";
import { passConfig } from "../plan_options.ts";
import { type MeshGroup, meshGroup } from "./mesh_group.ts";
import { Outcomes } from "./outcomes.ts";
import type { Against, JobDevice, RankContext, VerifyCase, VerifyJob, VerifyResult } from "../job.ts";

/** Carries out `job`: each model is loaded once for all its cases that stand together. */
export async function verifyOnRank(job: VerifyJob, context: RankContext): Promise<void> {
  // Rank 0 runs models unsplit in a group of its own.
  const { comm } = context;
  const alone = comm.size === 1 ? comm : (await comm.split(comm.rank, 0, { name: "unsplit" }))!;
  await using group = await meshGroup(comm, job.mesh);
  const outcomes = await Outcomes.open(comm);
  const together = (a: VerifyCase, b: VerifyCase) =>
    // Groups share the rows of tensors, and each generates texts by itself.
    a.model === b.model && (group.count === 1 || (a.kind === "outputs") === (b.kind === "outputs"));
  for (let at = 0; at < job.cases.length;) {
    const first = job.cases[at]!, path = first.model;
    const end = job.cases.findIndex((c, i) => i > at && !together(first, c));
    const cases = job.cases.slice(at, end < 0 ? undefined : end);
    at += cases.length;
    await using unsplit = new UnsplitModel(path, alone);
    await verifyModel({ ...job, cases }, { group, unsplit, outcomes, context });
  }
}

async function verifyModel(
  job: VerifyJob,
  { group, unsplit, outcomes, context: { comm, report } }: {
    readonly group: MeshGroup;
    readonly unsplit: UnsplitModel;
    readonly outcomes: Outcomes;
    readonly context: RankContext;
  },
): Promise<void> {
  const { cases, against, on: { dtype } } = job;
  const failed = (c: VerifyCase, error: unknown, ms: number) => {
    // Ranks that no longer go in step cannot go on; any other error has been told to all of them.
    if (error instanceof CommunicatorError) throw error;
    report({ name: c.name, ranks: comm.size, pass: false, outputs: [], problem: describeError(error), ms });
  };
  const began = performance.now();
  let model: ParallelModel | DataParallelModel | LoadedFolder;
  try {
    model = await outcomes.of(() => open(job, group, comm));
  } catch (error) {
    for (const c of cases) failed(c, error, performance.now() - began);
    return;
  }
  await using _owned = model;
  for (const c of cases) {
    const start = performance.now();
    try {
      const got = await outcomes.of(() => givenByRanks(c, model)), ms = performance.now() - start;
      await requireOneText(got, c, { group, comm });
      // The other ranks wait for rank 0 at the next case.
      if (comm.rank !== 0) continue;
      report({
        name: c.name,
        ranks: comm.size,
        ...await judge(got, { c, against, unsplit, dtype, ranks: group.comm.size }),
        ms,
      });
    } catch (error) {
      failed(c, error, performance.now() - start);
    }
  }
}

/** The model of the job's cases, which stand together. */
async function open(
  { cases: [c], plan, on, mesh }: VerifyJob,
  group: MeshGroup,
  comm: Communicator,
): Promise<ParallelModel | DataParallelModel | LoadedFolder> {
  const { model: path, kind } = c!, beside = c!.kind === "outputs" ? c!.beside ?? [] : [];
  if (mesh && group.count > 1 && kind === "outputs") {
    return await parallelizeOverMesh(path, { comm, mesh, ...on, config: passConfig(plan, mesh.tp), beside });
  }
  const options = { comm: group.comm, on, plan, threads: group.threads, beside };
  return kind === "seq2seq" ? await loadFolder(path, options) : await loadModel(path, options);
}

/** @throws {InputError} If groups of ranks have generated other texts than the first: on all ranks. */
async function requireOneText(
  got: Given,
  { kind }: VerifyCase,
  { group, comm }: { readonly group: MeshGroup; readonly comm: Communicator },
): Promise<void> {
  if (group.count === 1 || kind === "outputs") return;
  const texts = await comm.objects.allGather([...got.values()].join());
  const other = texts.findIndex((text) => text !== texts[0]);
  if (other < 0) return;
  throw new InputError(`Groups of ranks disagree: rank ${other} generated ${texts[other]}, rank 0 ${texts[0]}`);
}

/** How the outcome of a case is judged. */
export interface JudgeOptions {
  readonly c: VerifyCase;
  readonly against: Against;
  readonly unsplit: Pick<UnsplitModel, "give" | "giveRounded">;
  /** What the ranks hold floats in, if it is not the model's own dtype. */
  readonly dtype?: JobDevice["dtype"] | undefined;
  /** How many ranks share each layer. */
  readonly ranks: number;
}

/** Holds what the ranks gave against what the user trusts, and says who is alone where the reference is not met. */
export async function judge(
  got: Given,
  { c, against, unsplit, dtype, ranks }: JudgeOptions,
): Promise<Difference & Pick<VerifyResult, "verdict">> {
  const rounded = await roundedRun(c, { unsplit, dtype, ranks });
  if (against === "unsharded") return compareGiven(got, await unsplit.give(c), c, rounded);
  const reference = await givenByReference(c), found = compareGiven(got, reference, c, rounded);
  if (found.pass) return found;
  let whole: Given;
  try {
    whole = await unsplit.give(c);
  } catch (error) {
    return { ...found, verdict: `${SESSION[c.kind]} does not run it either: ${describeError(error)}` };
  }
  if (compareGiven(got, whole, c, rounded).pass) {
    return { ...found, verdict: `${SESSION[c.kind]} gives the same: the reference is of another runtime or processor` };
  }
  const what = dtype === undefined ? "splitting" : `splitting or ${dtype}`;
  const meets = compareGiven(whole, reference, c).pass ? `the reference: ${what} made the difference` : "neither";
  return { ...found, verdict: `${SESSION[c.kind]} gives ${meets}` };
}

/** What rounding does to a case of a model that is held in 16 bits. */
async function roundedRun(
  c: VerifyCase,
  { unsplit, dtype, ranks }: Pick<JudgeOptions, "unsplit" | "dtype" | "ranks">,
): Promise<RoundedRun | undefined> {
  if (c.kind !== "outputs" || (dtype !== "fp16" && dtype !== "bf16")) return undefined;
  const given = await unsplit.giveRounded(c, dtype);
  return given instanceof Map ? { outputs: given, ranks } : undefined;
}

/** What the model is unsplit. */
const SESSION: Readonly<Record<VerifyCase["kind"], string>> = {
  outputs: "one ONNX Runtime session here",
  greedy: "one rank without fused ops",
  seq2seq: "one rank without fused ops",
};
