/** What a job is: the program, how many ranks, and how to treat their output and their end. */

/** The program that every rank runs. */
export type Program =
  /** A TypeScript or JavaScript module, run by this Deno. `script` is a path or a URL. */
  | { readonly kind: "deno"; readonly script: string }
  /** Any executable, found through PATH. */
  | { readonly kind: "exec"; readonly command: string };

/**
 * What becomes of the ranks' output. `prefix`: whole lines, each with its rank before it. `rank0`: the bytes of rank 0, unchanged and
 * at once; nothing of the others. `quiet`: nothing. A failing rank's last lines are shown in every mode.
 */
export type OutputMode = "prefix" | "rank0" | "quiet";

/** A number of ranks, or what to count: `gpu`, `cpu` (those this process may use), `auto` (GPUs if there are any, else CPUs). */
export type RankCount = number | "auto" | "cpu" | "gpu";

/** A job. Times are in ms. Everything but the program has a default. */
export interface LaunchConfig {
  readonly program: Program;
  /** Arguments of the program. */
  readonly args?: readonly string[] | undefined;
  /** Ranks on this host; default 1. */
  readonly nproc?: RankCount | undefined;
  /** Variables to add to the ranks' environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Flags for `deno run`; unless one of them gives permissions, ranks have all of them. */
  readonly denoArgs?: readonly string[] | undefined;
  readonly output?: OutputMode | undefined;
  /** What stands before a line: `{rank}`, `{local}`, `{host}`, `{stream}` are replaced. Default `[rank {rank}] `. */
  readonly prefix?: string | undefined;
  /** Puts the time of day before every line. */
  readonly timestamps?: boolean | undefined;
  /** Shows a line that several ranks print once, and says which ranks printed the same. */
  readonly fold?: boolean | undefined;
  /** Only these ranks' output is shown; default all. */
  readonly showRanks?: ReadonlySet<number> | undefined;
  /** A folder for logs; none by default. */
  readonly logDir?: string | undefined;
  /** Which streams go to log files when there is a log folder; default both. */
  readonly tee?: "both" | "stdout" | "stderr" | "none" | undefined;
  /** Which rank reads standard input; default: the only rank, else none. */
  readonly stdin?: number | "none" | undefined;
  /** From SIGTERM to SIGKILL; default 30,000. */
  readonly graceMs?: number | undefined;
  /** The whole job; default unlimited. */
  readonly timeoutMs?: number | undefined;
  /** Until all nodes have met; default 300,000. */
  readonly startupTimeoutMs?: number | undefined;
  /** From the first rank's normal end to the last one's; default unlimited, with a warning after a minute. */
  readonly lingerMs?: number | undefined;
  /** How often the job's ranks are started again after a failure; default 0. */
  readonly maxRestarts?: number | undefined;
  /** Signals that end the job; default TERM, INT, QUIT, and HUP on a terminal. */
  readonly stopSignals?: readonly Deno.Signal[] | undefined;
  /** Signals that are passed on to the ranks and end nobody; default USR1 and USR2, which arrive as USR2. */
  readonly notifySignals?: readonly Deno.Signal[] | undefined;
  /** `stop` ends the job, with 141 and without a word, when nobody reads its stdout any more; default `continue`. */
  readonly onClosedOutput?: "stop" | "continue" | undefined;
  /** `continue` lets the other ranks run on when one fails; default `abort`. */
  readonly onFailure?: "abort" | "continue" | undefined;
  /** Pins each rank to a share of the cores, or of one NUMA node; default `none`. */
  readonly bind?: "none" | "core" | "numa" | undefined;
  /** Each rank sees one GPU only. */
  readonly isolateDevices?: boolean | undefined;
  /** Answers HTTP on this port with the job's state; none by default. */
  readonly healthPort?: number | undefined;
  /** Prepares one file of the program with esbuild, cached by content. */
  readonly bundle?: boolean | undefined;
  /** Hosts of the job; default 1. */
  readonly nnodes?: number | undefined;
  /** This host, in [0, nnodes). */
  readonly nodeRank?: number | undefined;
  /** Where the nodes meet: `tcp://host:port` or `file:///folder`. */
  readonly rdzv?: string | undefined;
  /** The secret that nodes and ranks show to the store; made up when there is one node. */
  readonly token?: string | undefined;
  /** Prints how the job starts, in phases. */
  readonly verbose?: boolean | undefined;
}

/** Where a launcher writes. `Deno.stdout` and `Deno.stderr` fit. */
export interface OutputTarget {
  readonly write: (bytes: Uint8Array) => Promise<number>;
  readonly isTerminal: () => boolean;
}
