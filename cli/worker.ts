/**
 * One rank of a command: the launcher starts this file on every rank, with the file of the job as its argument.
 *
 * An error of the user's (a wrong input, a broken model) ends all ranks alike, and the launcher prints it once.
 */
import { describeError, ShardwiseError } from "../src/core/errors.ts";
import { reportCollectiveFailure, reportUserError, reportVictim } from "../src/core/exit_report.ts";
import type { Communicator } from "../src/runtime/comm/communicator.ts";
import { CollectiveAborted, CommunicatorError, PeerLost } from "../src/runtime/comm/errors.ts";
import { init } from "../src/runtime/comm/init.ts";
import { type Job, type RankContext, readJob } from "./job.ts";
import { benchOnRank } from "./ranks/bench.ts";
import { calibrateOnRank } from "./ranks/calibrate.ts";
import { generateOnRank } from "./ranks/generate.ts";
import { runOnRank } from "./ranks/run.ts";
import { traceOnRank } from "./ranks/trace.ts";
import { verifyOnRank } from "./ranks/verify.ts";

async function carryOut(job: Job, context: RankContext): Promise<void> {
  switch (job.kind) {
    case "run":
      return await runOnRank(job, context);
    case "verify":
      return await verifyOnRank(job, context);
    case "generate":
      return await generateOnRank(job, context);
    case "trace":
      return await traceOnRank(job, context);
    case "bench":
      return await benchOnRank(job, context);
    case "calibrate":
      return await calibrateOnRank(job, context);
  }
}

/** A GPU may still be at work on what another rank has sent: nobody goes before all are done. Whoever fails says so itself. */
async function leaveTogether(comm: Communicator): Promise<void> {
  try {
    await comm.close();
  } catch (error) {
    if (!(error instanceof PeerLost || error instanceof CollectiveAborted)) throw error;
  }
}

if (import.meta.main) {
  try {
    const [file, reports] = Deno.args;
    const job = readJob(file);
    await using comm = await init("on" in job && job.on.device ? { device: job.on.device } : {});
    const report = (result: unknown) => {
      if (comm.rank === 0) Deno.writeTextFileSync(reports!, JSON.stringify(result) + "\n", { append: true });
    };
    await carryOut(job, { comm, report });
    await leaveTogether(comm);
  } catch (error) {
    // Trouble between ranks is no user's error: the launcher finds out who was first.
    if (error instanceof PeerLost || error instanceof CollectiveAborted) {
      reportVictim({ lost: error.rank, message: error.message });
    }
    if (error instanceof CommunicatorError) reportCollectiveFailure({ message: describeError(error) });
    if (error instanceof ShardwiseError) reportUserError(error);
    throw error;
  }
}
