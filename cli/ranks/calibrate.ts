/** What each rank does for `shardwise calibrate`; rank 0 reports the costs. */
import { calibrate } from "../../src/runtime/calibrate.ts";
import { openEngine } from "../../src/runtime/cpu/open_engine.ts";
import type { CalibrateJob, RankContext } from "../job.ts";

/** Carries out `job`. */
export async function calibrateOnRank({ threads }: CalibrateJob, { comm, report }: RankContext): Promise<void> {
  report(await calibrate({ comm, engine: await openEngine(), threads }));
}
