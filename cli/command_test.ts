import assert from "node:assert/strict";
import { UsageError } from "../src/core/errors.ts";
import { type Command, commandHelp, parseCommand } from "./command.ts";

const COMMAND: Command = {
  name: "bake",
  summary: "bake things",
  usage: "THING [OPTIONS]",
  description: "Bakes.",
  options: {
    nproc: { short: "n", value: "N", help: "bakers" },
    heat: { value: "X", help: "how hot" },
    with: { value: "TEXT", many: true, help: "an ingredient" },
    dry: { help: "only say so" },
  },
  examples: ["shardwise bake bread"],
  run: () => Promise.resolve(0),
};

function parse(...args: string[]) {
  return parseCommand(COMMAND, args);
}

Deno.test("parseCommand() reads switches, values in every spelling, repeated options and positionals", () => {
  const args = parse("bread", "-n", "3", "--heat=0.5", "--with", "salt", "--dry", "--with=a=b", "rolls");
  assert.deepEqual(args.positionals, ["bread", "rolls"]);
  assert.equal(args.number("nproc", { least: 1, whole: true }), 3);
  assert.equal(args.number("heat"), 0.5);
  assert.deepEqual(args.texts("with"), ["salt", "a=b"]);
  assert.equal(args.flag("dry"), true);
  assert.equal(parse("bread").number("heat"), undefined);
});

Deno.test("parseCommand() takes negative numbers, sentences and empty texts as values", () => {
  assert.equal(parse("--heat", "-1.5").number("heat"), -1.5);
  assert.deepEqual(parse("--with", "- a list").texts("with"), ["- a list"]);
  assert.deepEqual(parse("--with", "").texts("with"), [""]);
  assert.deepEqual(parse("--", "--dry").positionals, ["--dry"]);
});

Deno.test("parseCommand() suggests the option that is meant", () => {
  assert.throws(() => parse("--haet", "3"), /Unknown option --haet of `shardwise bake`: did you mean "--heat"\?/);
  assert.throws(() => parse("--np", "3"), /did you mean "--nproc"\?/);
  assert.throws(() => parse("--zzzzzzzz"), /known are "--nproc", "--heat"/);
  assert.throws(() => parse("-x"), /Unknown option -x/);
});

Deno.test("parseCommand() refuses options without their value, with one too many, or twice", () => {
  assert.throws(() => parse("--heat"), /--heat needs a value: X/);
  assert.throws(() => parse("--heat", "--dry"), /--heat needs a value: X/);
  assert.throws(() => parse("--dry=yes"), /--dry takes no value/);
  assert.throws(() => parse("--heat", "1", "--heat", "2"), /--heat is given twice/);
});

Deno.test("ParsedArgs names what is wrong with a value, and is a UsageError", () => {
  assert.throws(() => parse("--heat", "warm").number("heat"), /--heat "warm" is not a number/);
  assert.throws(
    () => parse("-n", "0").number("nproc", { least: 1, most: 8, whole: true }),
    /not a whole number from 1 to 8/,
  );
  assert.throws(() => parse("-n", "1,,2").numbers("nproc"), /found ""/);
  assert.deepEqual(parse("-n", "1,2").numbers("nproc"), [1, 2]);
  assert.throws(
    () => parse().only("THING"),
    (e: Error) => e instanceof UsageError && /THING is missing/.test(e.message),
  );
  assert.throws(() => parse("a", "b").only("THING"), /but "b" follows/);
  assert.throws(() => parse().required("heat"), /--heat X is missing/);
});

Deno.test("commandHelp() lists every option with its value and its short form", () => {
  const help = commandHelp(COMMAND);
  for (
    const part of ["Usage: shardwise bake THING", "-n, --nproc N", "--with TEXT", "--dry", "-h, --help", "Examples:"]
  ) {
    assert.ok(help.includes(part), part);
  }
});
