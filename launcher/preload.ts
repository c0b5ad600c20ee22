/**
 * Runs in every rank before the user's program: ties the rank's life to its launcher's, and records why the rank ends.
 *
 * It imports nothing, since every rank pays for it. Ranks that lack a permission go without the part that needs it.
 */

const PR_SET_PDEATHSIG = 1, SIGKILL = 9, LAUNCHER_LOST = 113;
/** How long a rank that fails may take to end, in s. */
const LAST_MOMENT = 1;
/** Kinds of records by the exit codes that errors of communicators carry; see src/core/exit_codes.ts. */
const COMMUNICATOR_KINDS: Readonly<Record<number, string>> = { 114: "victim", 115: "collective", 116: "collective" };
const exit = Deno.exit;
/** `alarm` of libc: the kernel's SIGALRM in so many seconds, 0 for none. */
let alarm: (seconds: number) => number = () => 0;

attempt(dieWithLauncher);
attempt(recordFailures);
// Deno ends a process on SIGUSR2 unless somebody listens; the launcher forwards "save your state" as SIGUSR2.
attempt(() => Deno.addSignalListener("SIGUSR2", () => {}));

function attempt(part: () => void): void {
  try {
    part();
  } catch {
    // Without the permission the launcher still sees the exit code and the end of stderr.
  }
}

function dieWithLauncher(): void {
  const launcher = Number(Deno.env.get("SHARDWISE_LAUNCHER_PID"));
  if (!Number.isInteger(launcher) || launcher <= 0) return;
  // A process that the rank starts and that runs Deno with this shim is no rank.
  if (Deno.env.get("SHARDWISE_PRELOADED") !== undefined) return;
  Deno.env.set("SHARDWISE_PRELOADED", "1");
  try {
    const libc = Deno.dlopen("libc.so.6", {
      prctl: {
        parameters: [
          "i32", // int option
          "u64", // unsigned long signal
        ],
        result: "i32", // 0, or -1
      },
      alarm: {
        parameters: ["u32"], // unsigned int seconds
        result: "u32", // seconds that were left of an earlier one
      },
    });
    alarm = libc.symbols.alarm;
    if (libc.symbols.prctl(PR_SET_PDEATHSIG, BigInt(SIGKILL)) !== 0) watch(launcher);
  } catch {
    watch(launcher);
  }
  // The launcher may have died before the call above.
  if (Deno.ppid !== launcher) exit(LAUNCHER_LOST);
}

function watch(launcher: number): void {
  Deno.unrefTimer(setInterval(() => {
    if (Deno.ppid !== launcher) exit(LAUNCHER_LOST);
  }, 1000));
}

function recordFailures(): void {
  const file = Deno.env.get("SHARDWISE_ERROR_FILE");
  if (file === undefined || file === "") return;
  const record = (fields: Record<string, unknown>, createNew: boolean) =>
    attempt(() => Deno.writeTextFileSync(file, JSON.stringify({ ...fields, time: Date.now() }), { createNew }));
  const thrown = (reason: unknown) => {
    const error = reason instanceof Error ? reason : undefined;
    const { exitCode, rank, lastCollective } = (error ?? {}) as Record<string, unknown>;
    const kind = COMMUNICATOR_KINDS[exitCode as number];
    record({
      kind: kind ?? "exception",
      ...(kind === undefined ? {} : { code: exitCode, lastCollective }),
      ...(kind === "victim" ? { lost: rank } : {}),
      name: error?.name,
      message: error?.message ?? String(reason),
      stack: error?.stack,
      hint: typeof (error as { hint?: unknown })?.hint === "string"
        ? (error as unknown as { hint: string }).hint
        : undefined,
    }, false);
    dieSoon();
    // Who listens for errors too may go on: then this is reached, and a process that ends reaches nothing.
    setTimeout(() => alarm(0));
    // A victim's stack would only push the cause from the screen, and its code must not be that of a crash.
    if (kind !== undefined) exit(exitCode as number);
  };
  addEventListener("error", (event) => thrown(event.error ?? event.message));
  addEventListener("unhandledrejection", (event) => thrown(event.reason));
  Deno.exit = (code?: number): never => {
    const status = code ?? Deno.exitCode;
    // A record that is there says more than this one.
    if (status !== 0) {
      record({ kind: "exit", message: `Deno.exit(${status})`, stack: new Error().stack, code: status }, true);
      dieSoon();
    }
    return exit(status);
  };
}

/**
 * The kernel ends this process if its own end takes long: native libraries run code when a process exits, and one that waits there for
 * another thread or another rank would hold the whole job.
 */
function dieSoon(): void {
  attempt(() => alarm(LAST_MOMENT));
}
