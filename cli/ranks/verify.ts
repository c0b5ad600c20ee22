/** What each rank does for `shardwise verify`; rank 0 compares and writes results, a line of JSON each. */
import { describeError } from "../../src/core/errors.ts";
import type { LoadedFolder } from "../../src/folder_session.ts";
import { CommunicatorError } from "../../src/runtime/comm/errors.ts";
import type { ParallelModel } from "../../src/runtime/parallel_model.ts";
import { loadFolder, loadModel } from "./load_model.ts";
import { compareGiven, type Given, givenByRanks, givenByReference, UnsplitModel } from "./verify_sides.ts";
import type { Difference } from "../compare.ts";
import type { Against, RankContext, VerifyCase, VerifyJob, VerifyResult } from "../job.ts";

/** Carries out `job`: each model is loaded once for all its cases that stand together. */
export async function verifyOnRank(job: VerifyJob, context: RankContext): Promise<void> {
  // Rank 0 runs models unsplit in a group of its own.
  const { comm } = context;
  const alone = comm.size === 1 ? comm : (await comm.split(comm.rank, 0, { name: "unsplit" }))!;
  for (let at = 0; at < job.cases.length;) {
    const { model: path } = job.cases[at]!;
    const end = job.cases.findIndex((c, i) => i > at && c.model !== path);
    const cases = job.cases.slice(at, end < 0 ? undefined : end);
    at += cases.length;
    await using unsplit = new UnsplitModel(path, alone);
    await verifyModel({ ...job, cases }, { path, unsplit, context });
  }
}

async function verifyModel(
  { cases, plan, on, against }: VerifyJob,
  { path, unsplit, context: { comm, report } }: {
    readonly path: string;
    readonly unsplit: UnsplitModel;
    readonly context: RankContext;
  },
): Promise<void> {
  const failed = (c: VerifyCase, error: unknown, ms: number) => {
    // Ranks that no longer go in step cannot go on; any other error is the same on all of them.
    if (error instanceof CommunicatorError) throw error;
    report({ name: c.name, ranks: comm.size, pass: false, outputs: [], problem: describeError(error), ms });
  };
  const began = performance.now();
  let model: ParallelModel | LoadedFolder;
  try {
    const options = { comm, on, plan };
    model = cases[0]!.kind === "seq2seq" ? await loadFolder(path, options) : await loadModel(path, options);
  } catch (error) {
    for (const c of cases) failed(c, error, performance.now() - began);
    return;
  }
  await using _owned = model;
  for (const c of cases) {
    const start = performance.now();
    try {
      const got = await givenByRanks(c, model), ms = performance.now() - start;
      // The other ranks wait for rank 0 at the next case.
      if (comm.rank !== 0) continue;
      report({ name: c.name, ranks: comm.size, ...await judge(got, { c, against, unsplit }), ms });
    } catch (error) {
      failed(c, error, performance.now() - start);
    }
  }
}

/** How the outcome of a case is judged. */
export interface JudgeOptions {
  readonly c: VerifyCase;
  readonly against: Against;
  readonly unsplit: Pick<UnsplitModel, "give">;
}

/** Holds what the ranks gave against what the user trusts, and says who is alone where the reference is not met. */
export async function judge(
  got: Given,
  { c, against, unsplit }: JudgeOptions,
): Promise<Difference & Pick<VerifyResult, "verdict">> {
  if (against === "unsharded") return compareGiven(got, await unsplit.give(c), c);
  const reference = await givenByReference(c), found = compareGiven(got, reference, c);
  if (found.pass) return found;
  let whole: Given;
  try {
    whole = await unsplit.give(c);
  } catch (error) {
    return { ...found, verdict: `${SESSION[c.kind]} does not run it either: ${describeError(error)}` };
  }
  if (compareGiven(got, whole, c).pass) {
    return { ...found, verdict: `${SESSION[c.kind]} gives the same: the reference is of another runtime or processor` };
  }
  const meets = compareGiven(whole, reference, c).pass ? "the reference: splitting made the difference" : "neither";
  return { ...found, verdict: `${SESSION[c.kind]} gives ${meets}` };
}

/** What the model is unsplit. */
const SESSION: Readonly<Record<VerifyCase["kind"], string>> = {
  outputs: "one ONNX Runtime session here",
  greedy: "one rank without fused ops",
  seq2seq: "one rank without fused ops",
};
