/** The exit codes with a meaning of their own; docs/exit-codes.md explains them to users. */

/** Codes that ranks and the launcher agree on. All other codes are a program's own. */
export const EXIT = {
  /** A command line that cannot be understood. */
  usage: 64,
  /** A rank saved its state and asks the scheduler to start the job again. */
  requeue: 75,
  /** A rank whose launcher died. */
  launcherLost: 113,
  /** A rank that ended because another rank of its group was lost; never the cause of a failure. */
  victim: 114,
  /** A collective that timed out, or that ranks called with different arguments. */
  collective: 115,
  /** A rendezvous that did not complete. */
  rendezvous: 116,
  /** The job ran longer than `--timeout`. */
  timeout: 124,
  /** A program of `--exec` that exists and cannot be executed; a shell's code. */
  notExecutable: 126,
  /** A program of `--exec` that does not exist; a shell's code. */
  noProgram: 127,
} as const;

/** Exit codes that may mean a clean user error, together with an error file of kind `user`. */
export function isUserErrorCode(code: number): boolean {
  return code >= 2 && code <= 63;
}

// deno-fmt-ignore
const SIGNAL_NUMBERS: Readonly<Record<string, number>> = {
  SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGILL: 4, SIGTRAP: 5, SIGABRT: 6, SIGBUS: 7, SIGFPE: 8, SIGKILL: 9, SIGUSR1: 10,
  SIGSEGV: 11, SIGUSR2: 12, SIGPIPE: 13, SIGALRM: 14, SIGTERM: 15, SIGSTKFLT: 16, SIGXCPU: 24, SIGXFSZ: 25, SIGSYS: 31,
};

/** The exit code of a process that died by `signal`: 128 + its number on Linux. */
export function signalExitCode(signal: string): number {
  return 128 + (SIGNAL_NUMBERS[signal] ?? 0);
}
