/** The `shardwise` command: finds the command that is meant, and turns errors into one message and an exit code. */
import config from "../deno.json" with { type: "json" };
import { describeError, ShardwiseError, UsageError } from "../src/core/errors.ts";
import { EXIT, signalExitCode } from "../src/core/exit_codes.ts";
import { didYouMean } from "../src/core/suggest.ts";
import { type Command, commandHelp, parseCommand } from "./command.ts";
import { printNote, printResult } from "./print.ts";

/** The exit code for wrong files and inputs, as ranks give it; 1 is a failed check or a bug. */
const USER_ERROR = 2;
/** By name; loaded when one is asked for, as starting takes a third of the time then. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  run: async () => (await import("./run.ts")).run,
  verify: async () => (await import("./verify.ts")).verify,
  generate: async () => (await import("./generate.ts")).generate,
  plan: async () => (await import("./plan.ts")).plan,
  export: async () => (await import("./export.ts")).exportParts,
  bench: async () => (await import("./bench.ts")).bench,
  trace: async () => (await import("./trace.ts")).trace,
  calibrate: async () => (await import("./calibrate.ts")).calibrate,
  flight: async () => (await import("./flight.ts")).flight,
  doctor: async () => (await import("./doctor.ts")).doctor,
};

/** Runs the command line `args`; resolves to the exit code. Prints results to stdout and problems to stderr. */
export async function main(args: readonly string[]): Promise<number> {
  try {
    return await dispatch(args);
  } catch (error) {
    // The reader of a pipe has what it wanted: `shardwise plan MODEL | head -1`.
    if (error instanceof Deno.errors.BrokenPipe) return signalExitCode("SIGPIPE");
    printNote(errorText(error));
    if (error instanceof UsageError) return EXIT.usage;
    return error instanceof ShardwiseError || isRefusal(error) ? USER_ERROR : 1;
  }
}

/** Whether the system refused a file or folder: that is no bug of ours, and its message names the path. */
function isRefusal(error: unknown): error is Error {
  return error instanceof Error && "code" in error && typeof error.code === "string" && /^E[A-Z]+$/.test(error.code);
}

/** What the user sees of an error: message and hint; the stack too when it is a bug of ours. */
export function errorText(error: unknown): string {
  if (isRefusal(error)) return `error: ${error.message}\nhint: give a path that can be written, with room for the file`;
  if (error instanceof ShardwiseError) return `error: ${describeError(error).replace("\n  hint: ", "\nhint: ")}`;
  return `error: ${error instanceof Error ? error.stack ?? error.message : String(error)}`;
}

async function dispatch(args: readonly string[]): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "--help" || name === "-h") {
    (name === undefined ? printNote : printResult)(await help());
    return name === undefined ? EXIT.usage : 0;
  }
  if (name === "--version" || name === "-V") {
    printResult(`shardwise ${config.version}`);
    return 0;
  }
  if (name === "help") return await dispatch([...rest.slice(0, 1), "--help"]);
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (load === undefined) {
    const what = name.startsWith("-") ? "option" : "command";
    const known = what === "command" ? Object.keys(COMMANDS) : ["--help", "--version"];
    throw new UsageError(`Unknown ${what} ${JSON.stringify(name)}${didYouMean(name, known)}`, {
      hint: "shardwise --help",
    });
  }
  const command = await load(), parsed = parseCommand(command, rest);
  if (parsed.flag("help")) {
    printResult(commandHelp(command));
    return 0;
  }
  return await command.run(parsed);
}

async function help(): Promise<string> {
  const commands = await Promise.all(Object.values(COMMANDS).map((load) => load()));
  const width = Math.max(...commands.map((c) => c.name.length)) + 2;
  return [
    "shardwise: runs one neural network across several processes",
    "",
    "Usage: shardwise COMMAND [OPTIONS]",
    "",
    "Commands:",
    ...commands.map((c) => `  ${c.name.padEnd(width)}${c.summary}`),
    "",
    "Options:",
    "  -h, --help     print this; `shardwise COMMAND --help` explains a command",
    "  -V, --version  print the version",
  ].join("\n");
}

if (import.meta.main) Deno.exit(await main(Deno.args));
