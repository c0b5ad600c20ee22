/** What the launcher prints without starting anything: its help, what it would start, and who it believes to be. */
import { describeError, ShardwiseError } from "../src/core/errors.ts";
import type { EnvRecord } from "../src/core/env_record.ts";
import { describeLaunchEnv, detectLaunchEnv } from "../src/core/launch_env.ts";
import type { ParsedArgs } from "./args.ts";
import { ENV_TWINS, envTwin, OPTIONS } from "./options.ts";
import { bindings, bound } from "./binding.ts";
import { nodePlace } from "./node_place.ts";
import { checkProgram, programHost } from "./program_check.ts";
import { type CommandLine, rankCommand } from "./rank_env.ts";
import { resolveRankCount } from "./resources.ts";

/** The text for `--help`, `--dry-run` or `--explain-env`. */
export function inform(parsed: ParsedArgs, env: EnvRecord): string {
  switch (parsed.action) {
    case "help":
      return help();
    case "explain-env":
      return explainEnv(parsed, env);
    default:
      return dryRun(parsed, env);
  }
}

function help(): string {
  const lines = [
    "Starts a program as N ranks that live and die together.",
    "",
    "  deno task launch [options] script.ts [arguments]",
    "  deno task launch --exec [options] program [arguments]",
  ];
  for (const group of [...new Set(OPTIONS.map((option) => option.group))]) {
    lines.push("", `${group}:`);
    for (const option of OPTIONS.filter((o) => o.group === group)) {
      const short = option.short === undefined ? "" : `-${option.short}, `;
      const flag = `${short}--${option.name}${option.value === undefined ? "" : ` ${option.value}`}`;
      const aliases = option.aliases === undefined ? "" : ` (also ${option.aliases.map((a) => `--${a}`).join(", ")})`;
      lines.push(`  ${flag.padEnd(34)} ${option.help}${aliases}`);
    }
  }
  lines.push(
    "",
    `Each option has an environment twin, such as ${
      envTwin("log-dir")
    } for --log-dir (${ENV_TWINS.size} in all); torchrun's PET_… count too.`,
    "Ranks find RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, NODE_RANK, NNODES, MASTER_ADDR and MASTER_PORT in their environment.",
    "Exit code: 0, or that of the rank that failed first; 128 + n by signal n, 64 usage, 124 --timeout, 116 nodes did not meet.",
    "See docs/launching.md and docs/exit-codes.md.",
    "",
  );
  return lines.join("\n");
}

/** @throws {ShardwiseError} What would keep the job from being started. */
function dryRun(parsed: ParsedArgs, env: EnvRecord): string {
  const config = parsed.config!;
  checkProgram(config.program, programHost(config.env?.PATH ?? env.PATH));
  const nproc = resolveRankCount(config.nproc ?? 1), { nnodes } = nodePlace(config, env);
  const line = rankCommand(config, config.program.kind === "deno" ? config.program.script : "");
  const show = ({ command, args }: CommandLine) => `  ${[command, ...args].map(quote).join(" ")}\n`;
  const head = `${nproc} ranks on this host, of ${nnodes} hosts`;
  if (config.bind === undefined || config.bind === "none") return `${head}; each:\n${show(line)}`;
  return `${head}:\n${bindings(config.bind, nproc).map((cpus) => show(bound(line, cpus))).join("")}`;
}

/** Who a rank that is started here would be, and who this launcher is. */
function explainEnv(parsed: ParsedArgs, env: EnvRecord): string {
  const attempt = (explain: () => string) => {
    try {
      return explain();
    } catch (error) {
      if (!(error instanceof ShardwiseError)) throw error;
      return `error: ${describeError(error)}`;
    }
  };
  const rank = attempt(() => describeLaunchEnv(detectLaunchEnv(env)));
  const launcher = attempt(() => {
    const { nodeRank, nnodes, rdzv, source } = nodePlace(parsed.config!, env);
    return `node ${nodeRank} of ${nnodes}, by ${source}${rdzv === undefined ? "" : `, meets at ${rdzv}`}`;
  });
  const verdict = `${rank}\nas a launcher: ${launcher}`;
  const names = Object.keys(env).filter((name) =>
    /^(SHARDWISE_|PET_|SLURM_(STEP|PROCID|NTASKS|LOCALID|NODEID|JOB_ID)|OMPI_COMM|PMI_|PMIX_RANK|MV2_COMM|MPI_LOCAL|PALS_|JOB_COMPLETION_INDEX)|^(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT|NODE_RANK|NNODES|TORCHELASTIC_RUN_ID)$/
      .test(name)
  ).sort();
  const shown = names.map((name) => `  ${name}=${/TOKEN/.test(name) ? "(hidden)" : env[name]}`);
  return `${verdict}\n${
    shown.length === 0 ? "No variable of a launcher or scheduler is set.\n" : `from\n${shown.join("\n")}\n`
  }`;
}

function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
