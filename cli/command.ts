/** What a command of `shardwise` is: a name, its options as a table, and what it does. Parsing and help follow from the table. */
import { parseArgs } from "node:util";
import { PlanError, UsageError } from "../src/core/errors.ts";
import { didYouMean } from "../src/core/suggest.ts";

/** One option of a command. */
export interface OptionSpec {
  /** What follows it, as the help shows it; a switch has none. */
  readonly value?: string;
  readonly short?: string;
  /** May be given several times. */
  readonly many?: boolean;
  readonly help: string;
}

/** A command. */
export interface Command {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** What follows the name. */
  readonly usage: string;
  /** What it does, in a few lines. */
  readonly description: string;
  readonly options: Readonly<Record<string, OptionSpec>>;
  /** Calls with what they do. */
  readonly examples: readonly string[];
  /** Carries it out; resolves to the exit code. */
  readonly run: (args: ParsedArgs) => Promise<number>;
}

const HELP: OptionSpec = { short: "h", help: "print this" };
/** Option names that people bring along from other tools, and what they are called here. */
const ALIASES: Readonly<Record<string, string>> = {
  np: "nproc",
  "nproc-per-node": "nproc",
  "max-tokens": "max-new-tokens",
  tokens: "max-new-tokens",
  "world-size": "nproc",
};

/** The arguments of a command, read by name. */
export class ParsedArgs {
  readonly positionals: readonly string[];
  readonly #command: Command;
  readonly #values: Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>>;

  constructor(command: Command, values: ParsedArgs["values"], positionals: readonly string[]) {
    this.#command = command;
    this.#values = values;
    this.positionals = positionals;
  }

  /** All values, as parsed. */
  get values(): Readonly<Record<string, string | boolean | (string | boolean)[] | undefined>> {
    return this.#values;
  }

  /** Whether a switch is on. */
  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  /** The text of an option. */
  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }

  /** The texts of an option that may be repeated. */
  texts(name: string): readonly string[] {
    return [this.#values[name] ?? []].flat().map(String);
  }

  /** The text of an option that must be given. @throws {UsageError} */
  required(name: string): string {
    const value = this.text(name);
    if (value === undefined) {
      throw this.error(`--${name} ${this.#command.options[name]?.value ?? ""} is missing`.trim());
    }
    return value;
  }

  /** A number in `[least, most]`. @throws {UsageError} */
  number(name: string, { least = -Infinity, most = Infinity, whole = false } = {}): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = text.trim() === "" ? NaN : Number(text);
    if (!(value >= least && value <= most) || (whole && !Number.isSafeInteger(value))) {
      const kind = whole ? "a whole number" : "a number";
      const range = least === -Infinity
        ? ""
        : most === Infinity
        ? ` of at least ${least}`
        : ` from ${least} to ${most}`;
      throw this.error(`--${name} ${JSON.stringify(text)} is not ${kind}${range}`);
    }
    return value;
  }

  /** Whole numbers separated by commas. @throws {UsageError} */
  numbers(name: string, { least = 0 } = {}): number[] | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    return text.split(",").map((part) => {
      const value = part.trim() === "" ? NaN : Number(part);
      if (!Number.isSafeInteger(value) || value < least) {
        throw this.error(
          `--${name} ${JSON.stringify(text)} is no list of whole numbers of at least ${least}: found ${
            JSON.stringify(part)
          }`,
        );
      }
      return value;
    });
  }

  /** The only positional argument. @throws {UsageError} */
  only(what: string): string {
    const [first, second] = this.positionals;
    if (first === undefined) throw this.error(`${what} is missing`);
    if (second !== undefined) throw this.error(`one ${what} is expected, but ${JSON.stringify(second)} follows`);
    return first;
  }

  /** What `read` makes of an option's text. @throws {UsageError} Saying what `read` finds wrong with it. */
  reading<T>(read: () => T): T {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof PlanError)) throw error;
      throw new UsageError(error.message, error.hint ? { hint: error.hint } : {});
    }
  }

  /** A wrong call of this command. */
  error(problem: string, hint?: string): UsageError {
    return new UsageError(`Cannot run \`shardwise ${this.#command.name}\`: ${problem}`, {
      hint: hint ?? `shardwise ${this.#command.name} --help`,
    });
  }
}

/**
 * Parses what follows a command's name.
 *
 * @throws {UsageError} If there is an unknown option, an option without its value, or one twice.
 */
export function parseCommand(command: Command, args: readonly string[]): ParsedArgs {
  const specs: Readonly<Record<string, OptionSpec>> = { ...command.options, help: HELP };
  const options = Object.fromEntries(
    Object.entries(specs).map(([name, { value, short }]) => [
      name,
      {
        type: value === undefined ? "boolean" as const : "string" as const,
        multiple: true,
        ...(short ? { short } : {}),
      },
    ]),
  );
  const { tokens } = parseArgs({ args: [...args], options, strict: false, allowPositionals: true, tokens: true });
  const values: Record<string, string | boolean | (string | boolean)[] | undefined> = {};
  const positionals: string[] = [];
  const empty = new ParsedArgs(command, {}, []);
  for (const token of tokens) {
    if (token.kind === "positional") positionals.push(token.value);
    if (token.kind !== "option") continue;
    const spec = Object.hasOwn(specs, token.name) ? specs[token.name] : undefined;
    if (spec === undefined) throw unknownOption(command, token.rawName, Object.keys(specs));
    if (values[token.name] !== undefined && !spec.many && token.name !== "help") {
      throw empty.error(`--${token.name} is given twice`);
    }
    if (spec.value === undefined && token.value !== undefined) {
      throw empty.error(`--${token.name} takes no value, but ${JSON.stringify(token.value)} was given`);
    }
    const value = spec.value === undefined ? true : token.value;
    // An option's name is no value, but a negative number or a text like "- a" is.
    if (value === undefined || (!token.inlineValue && /^--?[A-Za-z]/.test(String(value)))) {
      throw empty.error(`--${token.name} needs a value: ${spec.value}`);
    }
    if (spec.many) (values[token.name] ??= [] as string[], (values[token.name] as (string | boolean)[]).push(value));
    else values[token.name] = value;
  }
  return new ParsedArgs(command, values, positionals);
}

/** The help of a command. */
export function commandHelp(command: Command): string {
  const rows = Object.entries({ ...command.options, help: HELP }).map(([name, { value, short, help }]) => [
    `${short ? `-${short}, ` : "    "}--${name}${value ? ` ${value}` : ""}`,
    help,
  ]);
  const width = Math.max(...rows.map(([left]) => left!.length)) + 2;
  return [
    `shardwise ${command.name}: ${command.summary}`,
    "",
    `Usage: shardwise ${command.name} ${command.usage}`,
    "",
    command.description,
    "",
    "Options:",
    ...rows.map(([left, help]) => `  ${left!.padEnd(width)}${help!.replaceAll("\n", `\n${" ".repeat(width + 2)}`)}`),
    ...(command.examples.length > 0 ? ["", "Examples:", ...command.examples.map((line) => `  ${line}`)] : []),
  ].join("\n");
}

function unknownOption(command: Command, rawName: string, known: readonly string[]): UsageError {
  const name = rawName.replace(/^-+/, "");
  const alias = Object.hasOwn(ALIASES, name) && known.includes(ALIASES[name]!) ? ALIASES[name]! : undefined;
  const suggestion = alias !== undefined
    ? `: did you mean "--${alias}"?`
    : didYouMean(rawName, known.map((k) => `--${k}`));
  return new UsageError(`Unknown option ${rawName} of \`shardwise ${command.name}\`${suggestion}`, {
    hint: `shardwise ${command.name} --help`,
  });
}
