/** Reads the launcher's command line and its environment twins into a {@linkcode LaunchConfig}. */
import type { EnvRecord } from "../src/core/env_record.ts";
import { UsageError } from "../src/core/errors.ts";
import type { LaunchConfig, RankCount } from "./config.ts";
import { ENV_TWINS, envTwin, type OptionName, OPTIONS, type OptionSpec } from "./options.ts";

/** What the command line asks for. */
export interface ParsedArgs {
  readonly action: "run" | "help" | "dry-run" | "explain-env";
  /** Absent for `help`, and for `explain-env` without a program. */
  readonly config: LaunchConfig | undefined;
}

/**
 * Reads `args` up to the program; what follows the program is the program's. A flag beats its environment twin, which beats
 * torchrun's `PET_…`.
 *
 * @throws {UsageError} On an unknown option, a malformed value, contradictory options, or a missing program.
 */
export async function parseArgs(args: readonly string[], env: EnvRecord): Promise<ParsedArgs> {
  const given = new Map<string, string[]>();
  let at = 0;
  for (; at < args.length; at++) {
    const arg = args[at]!;
    if (arg === "--") {
      at++;
      break;
    }
    if (!arg.startsWith("-") || arg === "-") break;
    const [flag, inline] = splitFlag(arg);
    const option = find(flag) ?? await unknown(arg, flag);
    let value = inline ?? "true";
    if (option.value !== undefined && inline === undefined) {
      const next = args[++at];
      if (next === undefined) throw new UsageError(`Cannot use --${option.name}: it needs ${option.value}`);
      value = next;
    }
    if (option.value === undefined) bool(option.name, value);
    const values = given.get(option.name) ?? [];
    if (values.length > 0 && !option.many) values.pop();
    given.set(option.name, [...values, value]);
  }
  for (const option of OPTIONS) {
    const twin = ENV_TWINS.has(envTwin(option.name)) ? env[envTwin(option.name)] : undefined;
    const value = twin ?? (option.pet === undefined ? undefined : env[option.pet]);
    if (!given.has(option.name) && value !== undefined && value !== "") given.set(option.name, [value]);
  }
  const on = (name: OptionName) => given.has(name) && bool(name, given.get(name)![0]!);
  if (on("help")) return { action: "help", config: undefined };
  const program = args[at];
  if (program === undefined) {
    if (on("explain-env")) return { action: "explain-env", config: undefined };
    throw new UsageError("Cannot launch: no program was given", {
      hint: "deno task launch --nproc 4 script.ts [arguments]; --help lists the options",
    });
  }
  const config = toConfig(given, env, program, args.slice(at + 1));
  return { action: on("explain-env") ? "explain-env" : on("dry-run") ? "dry-run" : "run", config };
}

/** A time such as `90`, `1.5s`, `500ms`, `5m` or `2h`, in ms. @throws {UsageError} If it is none. */
export function duration(name: string, value: string): number {
  const m = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(value.trim());
  if (m === null) throw bad(name, value, "a time such as 90s, 5m or 500ms");
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[(m[2] ?? "s") as "ms"];
  return Math.round(Number(m[1]) * unit);
}

/** The ranks of a list such as `0,4-7`. @throws {UsageError} If it is malformed. */
export function rankSet(name: string, value: string): ReadonlySet<number> {
  const ranks = new Set<number>();
  for (const part of value.split(",")) {
    const m = /^\s*(\d{1,6})(?:-(\d{1,6}))?\s*$/.exec(part);
    if (m === null || Number(m[2] ?? m[1]) < Number(m[1])) throw bad(name, value, "ranks such as 0,4-7");
    for (let rank = Number(m[1]); rank <= Number(m[2] ?? m[1]); rank++) ranks.add(rank);
  }
  return ranks;
}

function splitFlag(arg: string): [flag: string, inline: string | undefined] {
  const equals = arg.indexOf("=");
  return equals < 0 ? [arg, undefined] : [arg.slice(0, equals), arg.slice(equals + 1)];
}

/** The option that `flag` names; torchrun takes underscores for dashes, so we do. */
function find(flag: string): OptionSpec | undefined {
  if (!flag.startsWith("--")) {
    return OPTIONS.find((option) => option.short !== undefined && flag === `-${option.short}`);
  }
  const name = flag.slice(2).replaceAll("_", "-");
  return OPTIONS.find((option) => option.name === name || option.aliases?.includes(name));
}

async function unknown(arg: string, flag: string): Promise<never> {
  const { didYouMean } = await import("../src/core/suggest.ts");
  const known = OPTIONS.flatMap((option) => [option.name, ...(option.aliases ?? [])]).map((name) => `--${name}`);
  throw new UsageError(`Unknown option ${JSON.stringify(flag)}${didYouMean(flag, known)}`, {
    hint: `options of the program stand after it; --help lists the launcher's (found ${JSON.stringify(arg)})`,
  });
}

function toConfig(
  given: ReadonlyMap<string, string[]>,
  env: EnvRecord,
  program: string,
  args: readonly string[],
): LaunchConfig {
  const last = (name: OptionName) => given.get(name)?.at(-1);
  const all = (name: OptionName) => given.get(name) ?? [];
  const on = (name: OptionName) => given.has(name) && bool(name, last(name)!);
  const map = <T>(name: OptionName, read: (name: string, value: string) => T) => {
    const value = last(name);
    return value === undefined ? undefined : read(name, value);
  };
  const output = (["quiet", "rank0"] as const).filter(on);
  if (output.length > 1) throw new UsageError("Cannot use --quiet and --rank0 together", { hint: "give one of them" });
  const exec = on("exec");
  if (exec && on("bundle")) {
    throw new UsageError("Cannot use --bundle with --exec: only TypeScript and JavaScript are bundled");
  }
  return {
    program: exec ? { kind: "exec", command: program } : { kind: "deno", script: program },
    args,
    nproc: map("nproc", rankCount),
    env: Object.fromEntries(all("env").map((text) => variable(text, env))),
    denoArgs: all("deno-args").flatMap((text) => text.split(/\s+/).filter((flag) => flag !== "")),
    output: output[0] ?? "prefix",
    prefix: last("prefix"),
    timestamps: on("timestamps"),
    showRanks: map("show-ranks", rankSet),
    logDir: last("log-dir"),
    tee: map("tee", tee),
    stdin: map("stdin", (name, value) => value === "none" ? "none" : integer(name, value)),
    graceMs: map("grace", duration),
    timeoutMs: map("timeout", duration),
    startupTimeoutMs: map("startup-timeout", duration),
    lingerMs: map("linger", duration),
    maxRestarts: map("max-restarts", integer),
    onFailure: map("on-failure", (name, value) => oneOf(name, value, ["abort", "continue"])),
    bind: map("bind", (name, value) => oneOf(name, value, ["none", "core", "numa"])),
    bundle: on("bundle"),
    nnodes: map("nnodes", nodeCount),
    nodeRank: map("node-rank", integer),
    rdzv: rendezvous(last("rdzv"), last("master-addr"), last("master-port")),
    token: last("token"),
    verbose: on("verbose"),
  };
}

function rendezvous(url: string | undefined, host: string | undefined, port: string | undefined): string | undefined {
  const pair = host === undefined && port === undefined
    ? undefined
    : `tcp://${host ?? "127.0.0.1"}:${port === undefined ? 29500 : integer("master-port", port)}`;
  if (url === undefined) return pair;
  const full = /^[a-z]+:\/\//.test(url) ? url : `tcp://${url}`;
  if (pair !== undefined && host !== undefined && full !== pair) {
    throw new UsageError(
      `Cannot meet at two places: --rdzv says ${full}, --master-addr and --master-port say ${pair}`,
      { hint: "give one of them" },
    );
  }
  return full;
}

function rankCount(name: string, value: string): RankCount {
  if (value === "auto" || value === "cpu" || value === "gpu") return value;
  const n = /^\d{1,5}$/.test(value) ? Number(value) : 0;
  if (n < 1) throw bad(name, value, "a number from 1 on, or auto, cpu or gpu");
  return n;
}

function nodeCount(name: string, value: string): number {
  const range = /^(\d+):(\d+)$/.exec(value);
  if (range !== null && range[1] !== range[2]) {
    throw new UsageError(`Cannot use --nnodes ${value}: the number of nodes cannot change while a job runs`, {
      hint: `give one number, such as ${range[2]}`,
    });
  }
  const n = integer(name, range?.[1] ?? value);
  if (n < 1) throw bad(name, value, "a number from 1 on");
  return n;
}

/** torchrun's digits: 0 none, 1 stdout, 2 stderr, 3 both. */
function tee(name: string, value: string): "both" | "stdout" | "stderr" | "none" {
  return ({ 0: "none", 1: "stdout", 2: "stderr", 3: "both" } as const)[value as "0"] ??
    oneOf(name, value, ["both", "stdout", "stderr", "none"]);
}

function variable(text: string, env: EnvRecord): [string, string] {
  const equals = text.indexOf("=");
  return equals < 0 ? [text, env[text] ?? ""] : [text.slice(0, equals), text.slice(equals + 1)];
}

function integer(name: string, value: string): number {
  if (!/^\d{1,9}$/.test(value)) throw bad(name, value, "a whole number, 0 or more");
  return Number(value);
}

function oneOf<T extends string>(name: string, value: string, known: readonly T[]): T {
  const found = known.find((word) => word === value);
  if (found === undefined) throw bad(name, value, `one of ${known.join(", ")}`);
  return found;
}

function bool(name: string, value: string): boolean {
  if (/^(1|true|yes|on)$/i.test(value)) return true;
  if (/^(0|false|no|off)$/i.test(value)) return false;
  throw bad(name, value, "true or false");
}

function bad(name: string, value: string, expected: string): UsageError {
  return new UsageError(`Cannot use --${name} ${JSON.stringify(value)}: expected ${expected}`);
}
