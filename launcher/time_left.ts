/** How long ranks may take to end where a scheduler ends the whole job at a known time. Pure. */
import type { EnvRecord } from "../src/core/env_record.ts";

/** Slurm's KillWait: what it leaves between SIGTERM, at the time limit, and SIGKILL. The job is not told; 30 s is the default. */
const KILL_WAIT_MS = 30_000;
/** What the launcher needs to kill, tidy up and report. */
const REPORT_MS = 2_000;

/**
 * The grace period for a stop at `now` (ms since 1970): `graceMs`, or less where Slurm would kill the launcher before it is over
 * (SLURM_JOB_END_TIME, in seconds since 1970). A job that lives beyond that was given more time, which its environment does not tell.
 */
export function graceWithin(graceMs: number, env: EnvRecord, now: number): number {
  const end = Number(env.SLURM_JOB_END_TIME || NaN) * 1000;
  const left = end + KILL_WAIT_MS - now;
  return left > 0 ? Math.max(0, Math.min(graceMs, left - REPORT_MS)) : graceMs;
}
