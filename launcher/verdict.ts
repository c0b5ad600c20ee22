/** From the ends of ranks to the exit code of a job, and to whether it may be started again. Pure. */
import { EXIT, isUserErrorCode, signalExitCode } from "../src/core/exit_codes.ts";
import { type AttemptResult, isStopped } from "./attempt.ts";
import { exitCodeOf, type RankOutcome } from "./outcome.ts";

/** The exit code of an attempt: that of the first cause, or what its stop means. */
export function exitCode(result: AttemptResult): number {
  const { stop, cause } = result;
  if (cause !== undefined) return exitCodeOf(cause);
  switch (stop?.kind) {
    case "timeout":
      return EXIT.timeout;
    case "signal":
      // Ranks that saved their state in time ask for a requeue.
      return result.outcomes.some((o) => o.code === EXIT.requeue && o.signal === null)
        ? EXIT.requeue
        : signalExitCode(stop.signal);
    case "unread":
      return signalExitCode("SIGPIPE");
    case "abort":
      return stop.notice.code;
    case "linger":
      return 1;
    default:
      return 0;
  }
}

/** Whether starting again may help: not after a clean error of the user's, a request for a requeue, or a stop from outside. */
export function mayRestart(result: AttemptResult, code: number): boolean {
  return code !== 0 && code !== EXIT.requeue && !isStopped(result.stop) && userError(result) === undefined;
}

/** The failing rank whose clean error stands for the job: there is one, and no rank failed in another way. */
export function userError(result: AttemptResult): RankOutcome | undefined {
  const { cause } = result;
  if (cause?.record?.kind !== "user" || cause.signal !== null || !isUserErrorCode(cause.code)) return undefined;
  const failed = result.outcomes.filter((o) => o.kind === "failed");
  return failed.every((o) => o.record?.kind === "user" && o.record.message === cause.record!.message)
    ? cause
    : undefined;
}
