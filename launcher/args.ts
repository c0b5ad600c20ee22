/** Reads the launcher's command line and its environment twins into a {@linkcode LaunchConfig}. */
import type { EnvRecord } from "../src/core/env_record.ts";
import { UsageError } from "../src/core/errors.ts";
import type { LaunchConfig, RankCount } from "./config.ts";
import { RANK_VARIABLES } from "./rank_env.ts";
import { RELAYED_SIGNALS } from "./signals.ts";
import { ENV_TWINS, envTwin, type OptionName, OPTIONS, type OptionSpec } from "./options.ts";

/** What the command line asks for. */
export interface ParsedArgs {
  readonly action: "run" | "help" | "dry-run" | "explain-env";
  /** Absent for `help`; without a program for `explain-env`. */
  readonly config: LaunchConfig | undefined;
}

/**
 * Reads `args` up to the program; what follows the program is the program's. A flag beats its environment twin, which beats
 * torchrun's `PET_…`.
 *
 * @throws {UsageError} On an unknown option, a malformed value, contradictory options, or a missing program.
 */
export async function parseArgs(args: readonly string[], env: EnvRecord): Promise<ParsedArgs> {
  const given: Given = new Map();
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
      const needs = `Cannot use ${flag}: it needs ${option.value}`;
      if (next === undefined) throw new UsageError(`${needs}, but nothing follows`);
      if (next.startsWith("--") && find(splitFlag(next)[0]) !== undefined) {
        throw new UsageError(`${needs}, but ${next} follows`, { hint: `use ${flag}=${next} if that is the value` });
      }
      value = next;
    }
    if (option.value === undefined) bool(flag, value);
    const values = option.many ? given.get(option.name)?.values ?? [] : [];
    given.set(option.name, { from: flag, values: [...values, value] });
  }
  for (const option of OPTIONS) {
    const twin = ENV_TWINS.has(envTwin(option.name)) ? envTwin(option.name) : undefined;
    const from = [twin, option.pet].find((name) => name !== undefined && (env[name] ?? "") !== "");
    if (!given.has(option.name) && from !== undefined) given.set(option.name, { from, values: [env[from]!] });
  }
  const on = (name: OptionName) => isOn(given, name);
  if (on("help")) return { action: "help", config: undefined };
  const program = args[at];
  if (program === undefined) {
    // A wrong value may be what swallowed the program, so it is named first.
    const config = toConfig(given, env, "", []);
    if (on("explain-env")) return { action: "explain-env", config };
    throw new UsageError("Cannot launch: no program was given", {
      hint: "deno task launch --nproc 4 script.ts [arguments]; --help lists the options",
    });
  }
  const config = toConfig(given, env, program, args.slice(at + 1));
  return { action: on("explain-env") ? "explain-env" : on("dry-run") ? "dry-run" : "run", config };
}

/** What was given for each option, and by which flag or variable. */
type Given = Map<string, { readonly from: string; readonly values: readonly string[] }>;

/** The longest time that a timer can wait, in ms: 24 days. */
const LONGEST = 0x7fffffff;

/** A time such as `90`, `1.5s`, `500ms`, `5m` or `2h`, in ms; `from` is who says so. @throws {UsageError} If it is none. */
export function duration(from: string, value: string): number {
  const m = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(value.trim());
  if (m === null) throw bad(from, value, "a time such as 90s, 5m or 500ms");
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }[(m[2] ?? "s") as "ms"];
  const ms = Math.round(Number(m[1]) * unit);
  if (ms > LONGEST) throw bad(from, value, "at most 24d");
  return ms;
}

/** A time that is not 0. */
function positiveDuration(from: string, value: string): number {
  const ms = duration(from, value);
  if (ms === 0) throw bad(from, value, "more than 0; leave it out for no limit");
  return ms;
}

/** The ranks of a list such as `0,4-7`. @throws {UsageError} If it is malformed. */
export function rankSet(from: string, value: string): ReadonlySet<number> {
  const ranks = new Set<number>();
  for (const part of value.split(",")) {
    const m = /^\s*(\d{1,5})(?:-(\d{1,5}))?\s*$/.exec(part);
    if (m === null || Number(m[2] ?? m[1]) < Number(m[1])) throw bad(from, value, "ranks such as 0,4-7");
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
  given: Given,
  env: EnvRecord,
  program: string,
  args: readonly string[],
): LaunchConfig {
  const last = (name: OptionName) => given.get(name)?.values.at(-1);
  const all = (name: OptionName) => given.get(name)?.values ?? [];
  const on = (name: OptionName) => isOn(given, name);
  const map = <T>(name: OptionName, read: (from: string, value: string) => T) => {
    const value = last(name);
    return value === undefined ? undefined : read(given.get(name)!.from, value);
  };
  const output = (["quiet", "rank0"] as const).filter(on);
  if (output.length > 1) throw new UsageError("Cannot use --quiet and --rank0 together", { hint: "give one of them" });
  map("rdzv-backend", (from, value) => oneOf(from, value, ["static", "c10d"]));
  if (on("fold") && output[0] !== undefined) {
    throw new UsageError(`Cannot use --fold with --${output[0]}: it shows at most one rank, as it is`);
  }
  const exec = on("exec");
  if (exec && on("bundle")) {
    throw new UsageError("Cannot use --bundle with --exec: only TypeScript and JavaScript are bundled");
  }
  return {
    program: exec ? { kind: "exec", command: program } : { kind: "deno", script: program },
    args,
    nproc: map("nproc", rankCount),
    env: Object.fromEntries(all("env").flatMap((text) => variables(text, env))),
    denoArgs: all("deno-args").flatMap((text) => text.split(/\s+/).filter((flag) => flag !== "")),
    output: output[0] ?? "prefix",
    fold: on("fold"),
    prefix: last("prefix"),
    timestamps: on("timestamps"),
    showRanks: map("show-ranks", rankSet),
    logDir: map("log-dir", filledText),
    tee: map("tee", tee),
    stdin: map("stdin", (from, value) => value === "none" ? "none" : integer(from, value)),
    graceMs: map("grace", duration),
    timeoutMs: map("timeout", positiveDuration),
    startupTimeoutMs: map("startup-timeout", positiveDuration),
    lingerMs: map("linger", duration),
    maxRestarts: map("max-restarts", integer),
    onFailure: map("on-failure", (from, value) => oneOf(from, value, ["abort", "continue"])),
    stopSignals: map("stop-signals", signals),
    notifySignals: map("notify-signals", signals),
    bind: map("bind", (from, value) => oneOf(from, value, ["none", "core", "numa"])),
    isolateDevices: on("isolate-devices"),
    healthPort: map("health-port", port),
    bundle: on("bundle"),
    nnodes: map("nnodes", nodeCount),
    nodeRank: map("node-rank", integer),
    rdzv: rendezvous(map("rdzv", filledText), map("master-addr", filledText), map("master-port", port)),
    token: map("token", filledText),
    verbose: on("verbose"),
  };
}

function isOn(given: Given, name: OptionName): boolean {
  const option = given.get(name);
  return option !== undefined && bool(option.from, option.values.at(-1)!);
}

function rendezvous(url: string | undefined, host: string | undefined, port: number | undefined): string | undefined {
  const address = host?.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
  const pair = host === undefined && port === undefined
    ? undefined
    : `tcp://${address ?? "127.0.0.1"}:${port ?? 29500}`;
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

function rankCount(from: string, value: string): RankCount {
  if (value === "auto" || value === "cpu" || value === "gpu") return value;
  const n = /^\d{1,5}$/.test(value) ? Number(value) : 0;
  if (n < 1) throw bad(from, value, "a number from 1 on, or auto, cpu or gpu");
  return n;
}

function nodeCount(from: string, value: string): number {
  const range = /^(\d+):(\d+)$/.exec(value);
  if (range !== null && range[1] !== range[2]) {
    throw new UsageError(`Cannot use ${from} ${value}: the number of nodes cannot change while a job runs`, {
      hint: `give one number, such as ${range[2]}`,
    });
  }
  const n = integer(from, range?.[1] ?? value);
  if (n < 1) throw bad(from, value, "a number from 1 on");
  return n;
}

/** torchrun's digits: 0 none, 1 stdout, 2 stderr, 3 both. */
function tee(from: string, value: string): "both" | "stdout" | "stderr" | "none" {
  return ({ 0: "none", 1: "stdout", 2: "stderr", 3: "both" } as const)[value as "0"] ??
    oneOf(from, value, ["both", "stdout", "stderr", "none"]);
}

/** `NAME=VALUE`, `NAME` with the value that it has here, or `PREFIX*` for all that start so. */
function variables(text: string, env: EnvRecord): [string, string][] {
  const equals = text.indexOf("="), name = equals < 0 ? text : text.slice(0, equals);
  if (!/^[A-Za-z_][\w.-]*\*?$/.test(name) || equals >= 0 && name.endsWith("*")) {
    throw bad("--env", text, "NAME=VALUE, NAME or PREFIX*");
  }
  if (RANK_VARIABLES.has(name)) {
    throw new UsageError(`Cannot use --env ${text}: the launcher gives every rank its own ${name}`);
  }
  if (equals >= 0) return [[name, text.slice(equals + 1)]];
  const fits = (key: string) => name.endsWith("*") ? key.startsWith(name.slice(0, -1)) : key === name;
  const found = Object.entries(env).filter((entry): entry is [string, string] =>
    fits(entry[0]) && entry[1] !== undefined && !RANK_VARIABLES.has(entry[0])
  );
  if (found.length === 0 && !name.endsWith("*")) {
    throw new UsageError(`Cannot use --env ${name}: it is not set here`, { hint: `give a value: --env ${name}=…` });
  }
  return found;
}

/** `TERM,INT` or `SIGTERM,SIGINT`. */
function signals(from: string, value: string): Deno.Signal[] {
  return value.split(",").map((word) => {
    const name = word.trim().toUpperCase().replace(/^(SIG)?/, "SIG");
    const found = RELAYED_SIGNALS.find((signal) => signal === name);
    if (found !== undefined) return found;
    throw bad(
      from,
      value,
      `some of ${RELAYED_SIGNALS.map((signal) => signal.slice(3)).join(", ")}, with commas between`,
    );
  });
}

function filledText(from: string, value: string): string {
  if (value.trim() === "") throw bad(from, value, "something that is not empty");
  return value;
}

function port(from: string, value: string): number {
  const n = /^\d{1,5}$/.test(value) ? Number(value) : -1;
  if (n < 0 || n > 65535) throw bad(from, value, "a port from 1 to 65535, or 0 for a free one");
  return n;
}

function integer(from: string, value: string): number {
  if (!/^\d{1,9}$/.test(value)) throw bad(from, value, "a whole number, 0 or more");
  return Number(value);
}

function oneOf<T extends string>(from: string, value: string, known: readonly T[]): T {
  const found = known.find((word) => word === value);
  if (found === undefined) throw bad(from, value, `one of ${known.join(", ")}`);
  return found;
}

function bool(from: string, value: string): boolean {
  if (/^(1|true|yes|on)$/i.test(value)) return true;
  if (/^(0|false|no|off)$/i.test(value)) return false;
  throw bad(from, value, "true or false");
}

/** `from` is a flag or a variable. */
function bad(from: string, value: string, expected: string): UsageError {
  const link = from.startsWith("-") ? " " : "=";
  return new UsageError(`Cannot use ${from}${link}${JSON.stringify(value)}: expected ${expected}`);
}
