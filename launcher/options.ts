/** The launcher's options: one table, from which parsing, environment twins, help and "did you mean" follow. */

/** One option. */
export interface OptionSpec {
  /** Long name without dashes. */
  readonly name: string;
  /** Other long names, torchrun's among them. */
  readonly aliases?: readonly string[];
  readonly short?: string;
  /** What follows the option in the help; absent for switches. */
  readonly value?: string;
  readonly group: "Ranks" | "Nodes" | "Output" | "Failure and time" | "Resources" | "Program" | "Information";
  readonly help: string;
  /** torchrun's environment variable for it. */
  readonly pet?: string;
  /** May be given more than once. */
  readonly many?: boolean;
}

// deno-fmt-ignore
const TABLE = [
  { name: "nproc", aliases: ["nproc-per-node", "num-procs"], short: "n", value: "N|auto|cpu|gpu", group: "Ranks", pet: "PET_NPROC_PER_NODE",
    help: "ranks on this host; auto = GPUs if there are any, else CPUs; default 1" },
  { name: "env", value: "NAME[=VALUE]", group: "Ranks", many: true, help: "set a variable for the ranks" },
  { name: "stdin", value: "RANK|none", group: "Ranks", help: "which rank reads standard input; default: the only one, else none" },
  { name: "exec", aliases: ["no-python"], group: "Program", help: "run any executable instead of a TypeScript or JavaScript file" },
  { name: "deno-args", value: "FLAGS", group: "Program", many: true, help: "flags for `deno run`, as in --deno-args=--v8-flags=--max-old-space-size=8192" },
  { name: "bundle", group: "Program", help: "prepare one file of the program with esbuild, cached by content" },
  { name: "nnodes", value: "N", group: "Nodes", pet: "PET_NNODES", help: "hosts of the job; default 1, or what the scheduler says" },
  { name: "node-rank", value: "K", group: "Nodes", pet: "PET_NODE_RANK", help: "this host, from 0; node 0 hosts the store" },
  { name: "rdzv", aliases: ["rdzv-endpoint"], value: "URL", group: "Nodes", pet: "PET_RDZV_ENDPOINT", help: "where the nodes meet: tcp://host:port or file:///shared/folder" },
  { name: "master-addr", value: "HOST", group: "Nodes", pet: "PET_MASTER_ADDR", help: "the same as --rdzv tcp://HOST:PORT, together with --master-port" },
  { name: "master-port", value: "PORT", group: "Nodes", pet: "PET_MASTER_PORT", help: "see --master-addr; on one host: the store's port, default a free one" },
  { name: "token", aliases: ["rdzv-id"], value: "TEXT", group: "Nodes", pet: "PET_RDZV_ID", help: "the secret that nodes show each other" },
  { name: "rdzv-backend", value: "NAME", group: "Nodes", pet: "PET_RDZV_BACKEND", help: "accepted for torchrun's sake: static or c10d" },
  { name: "standalone", group: "Nodes", pet: "PET_STANDALONE", help: "accepted for torchrun's sake: one node is always standalone" },
  { name: "startup-timeout", value: "TIME", group: "Nodes", help: "until all nodes have met; default 5m" },
  { name: "quiet", short: "q", group: "Output", help: "show no rank's output, but a failing one's last lines" },
  { name: "show-ranks", aliases: ["local-ranks-filter"], value: "LIST", group: "Output", help: "show these ranks only: 0,4-7" },
  { name: "fold", group: "Output", help: "show a line that several ranks print once, and then which ranks printed the same" },
  { name: "rank0", group: "Output", help: "show rank 0 only, byte by byte and without a prefix" },
  { name: "prefix", value: "TEXT", group: "Output", help: "before each line; {rank} {local} {host} {stream} are replaced; default '[rank {rank}] '" },
  { name: "timestamps", group: "Output", help: "the time of day before each line" },
  { name: "log-dir", value: "FOLDER", group: "Output", pet: "PET_LOG_DIR", help: "write FOLDER/<run>/attempt_0/<rank>/stdout.log, stderr.log, and summary.json" },
  { name: "tee", short: "t", value: "both|stdout|stderr|none", group: "Output", pet: "PET_TEE", help: "which streams go to log files when there is --log-dir; default both" },
  { name: "verbose", short: "v", group: "Output", help: "say how the job starts and ends" },
  { name: "on-failure", value: "abort|continue", group: "Failure and time", help: "end all ranks when one fails (default), or let them go on" },
  { name: "max-restarts", value: "N", group: "Failure and time", pet: "PET_MAX_RESTARTS", help: "start all ranks again after a failure, N times at most; default 0" },
  { name: "timeout", value: "TIME", group: "Failure and time", help: "end the job after TIME with code 124; 90, 90s, 5m, 2h" },
  { name: "grace", aliases: ["shutdown-timeout"], value: "TIME", group: "Failure and time", help: "between SIGTERM and SIGKILL; default 30s" },
  { name: "linger", value: "TIME", group: "Failure and time", help: "end the job when ranks run TIME after the first one ended normally" },
  { name: "stop-signals", aliases: ["signals-to-handle"], value: "LIST", group: "Failure and time", pet: "PET_SIGNALS_TO_HANDLE",
    help: "signals that end the job; default TERM,INT,QUIT, and HUP on a terminal" },
  { name: "notify-signals", value: "LIST", group: "Failure and time", help: "signals that are only passed on to the ranks; default USR1,USR2; USR1 arrives as USR2" },
  { name: "bind", value: "none|core|numa", group: "Resources", help: "pin each rank to a share of the cores, or to a NUMA node; default none" },
  { name: "isolate-devices", aliases: ["virtual-local-rank"], group: "Resources", help: "each rank sees one GPU only: its own" },
  { name: "health-port", value: "PORT", group: "Information", help: "answer HTTP with the job's state, for liveness probes; 0 takes a free port" },
  { name: "dry-run", group: "Information", help: "print what would be started, and stop" },
  { name: "explain-env", group: "Information", help: "print which scheduler's variables count, and stop" },
  { name: "help", short: "h", group: "Information", help: "print this" },
] as const satisfies readonly OptionSpec[];

/** The name of an option. */
export type OptionName = typeof TABLE[number]["name"];

/** All options, in the order of the help. */
export const OPTIONS: readonly OptionSpec[] = TABLE;

/** The environment twin of an option: `SHARDWISE_LOG_DIR` for `--log-dir`. */
export function envTwin(name: string): string {
  return `SHARDWISE_${name.toUpperCase().replaceAll("-", "_")}`;
}

/** Options without a twin: they say what this one call does. SHARDWISE_NODE_RANK and the like mean the same to ranks and launchers. */
const NO_TWIN: ReadonlySet<string> = new Set(["help", "dry-run", "explain-env", "env", "master-addr", "master-port"]);

/** All environment twins, and their options. */
export const ENV_TWINS: ReadonlyMap<string, OptionSpec> = new Map(
  OPTIONS.filter((option) => !NO_TWIN.has(option.name)).map((option) => [envTwin(option.name), option]),
);
