/** The launcher's signals: those that end a job, and those that are passed on to its ranks. */

/** What to do on signals. */
export interface SignalActions {
  /** TERM, INT, QUIT, and HUP on a terminal: end the job. */
  readonly stop: (signal: Deno.Signal) => void;
  /** The same once more: end it now. */
  readonly hurry: () => void;
  /** A signal for the ranks. */
  readonly notify: (signal: Deno.Signal) => void;
}

/** Which signals do what. */
export interface SignalLists {
  /** Default TERM, INT, QUIT, and HUP on a terminal. */
  readonly stop?: readonly Deno.Signal[] | undefined;
  /** Default USR1 and USR2. */
  readonly notify?: readonly Deno.Signal[] | undefined;
}

/** Signals that may be in such lists. */
export const RELAYED_SIGNALS = [
  ...(["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] as const),
  ...(["SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM", "SIGABRT"] as const),
] satisfies readonly Deno.Signal[];

/** One Ctrl-C may arrive twice: from the terminal, and passed on by `deno task`. */
const ECHO_MS = 300;

/** Listens for signals until disposed. */
export class SignalRelay implements Disposable {
  readonly #listeners: [Deno.Signal, () => void][] = [];

  /** `lists` replace the default signals that end the job and that are passed on. */
  constructor(actions: SignalActions, lists: SignalLists = {}) {
    let first: number | undefined;
    const stop = (signal: Deno.Signal) => {
      if (first === undefined) {
        first = performance.now();
        actions.stop(signal);
      } else if (performance.now() - first > ECHO_MS) actions.hurry();
    };
    const notified = lists.notify ?? ["SIGUSR1", "SIGUSR2"];
    const stops = (lists.stop ?? ["SIGTERM", "SIGINT", "SIGQUIT"]).filter((signal) => !notified.includes(signal));
    for (const signal of stops) this.#on(signal, () => stop(signal));
    // Under nohup and in batch jobs a lost terminal is no reason to end.
    if (![...stops, ...notified].includes("SIGHUP")) {
      this.#on("SIGHUP", () => Deno.stdout.isTerminal() && stop("SIGHUP"));
    }
    // SIGUSR1 would start V8's inspector in the ranks, so it arrives there as SIGUSR2.
    for (const signal of notified) {
      this.#on(signal, () => actions.notify(signal === "SIGUSR1" ? "SIGUSR2" : signal));
    }
    // Ctrl-Z reaches the launcher only, as the ranks have sessions of their own.
    this.#on("SIGTSTP", () => {
      actions.notify("SIGSTOP");
      Deno.kill(Deno.pid, "SIGSTOP");
    });
    this.#on("SIGCONT", () => actions.notify("SIGCONT"));
  }

  [Symbol.dispose](): void {
    for (const [signal, listener] of this.#listeners) Deno.removeSignalListener(signal, listener);
    this.#listeners.length = 0;
  }

  #on(signal: Deno.Signal, listener: () => void): void {
    try {
      Deno.addSignalListener(signal, listener);
      this.#listeners.push([signal, listener]);
    } catch {
      // The platform does not have it.
    }
  }
}
