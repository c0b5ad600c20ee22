/** Options by which users have a say in plans: the same for every command that makes one. */
import type { Config } from "../src/passes/context.ts";
import { isOverride, type Override } from "../src/plan/overrides.ts";
import type { OptionSpec, ParsedArgs } from "./command.ts";

/** The options. */
export const PLAN_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  override: {
    value: "LAYER=KIND",
    many: true,
    help: "make layers column, row, vocab or replicated, or place their weights: S(1), R;\n" +
      "LAYER is a name or the end of one, * stands for any characters: 'h.*.mlp.fc=column'",
  },
  "memory-per-rank": {
    value: "SIZE",
    help: "most memory of a rank for weights, KV cache and activations, as in 6GB or 512MiB",
  },
  "no-fuse": { help: "run the model as it was written: no attention, norm or rotary position becomes one op" },
  context: { value: "TOKENS", help: "length of the KV cache that --memory-per-rank counts; default 2048" },
};

/** What the options ask of the planner. */
export type PlanConfig = Pick<Config, "overrides" | "memoryPerRank" | "memoryLength" | "fuse">;

/** Tokens of the cache where nobody says. */
const CONTEXT = 2048;
const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/** What `args` asks of the planner. @throws {UsageError} If it cannot be understood. */
export function planConfig(args: ParsedArgs): PlanConfig {
  const overrides = overridesOf(args), memoryPerRank = bytesOf(args, "memory-per-rank");
  const memoryLength = args.number("context", { least: 0, whole: true });
  return {
    ...(args.flag("no-fuse") ? { fuse: false } : {}),
    ...(Object.keys(overrides).length > 0 ? { overrides } : {}),
    ...(memoryPerRank === undefined ? {} : { memoryPerRank }),
    ...(memoryPerRank === undefined && memoryLength === undefined ? {} : { memoryLength: memoryLength ?? CONTEXT }),
  };
}

function overridesOf(args: ParsedArgs): Record<string, Override> {
  return Object.fromEntries(
    args.texts("override").map((text) => {
      const at = text.lastIndexOf("="), pattern = text.slice(0, at), wish = text.slice(at + 1);
      if (at < 1) throw args.error(`--override ${JSON.stringify(text)} is not LAYER=KIND`);
      if (!isOverride(wish)) {
        throw args.error(
          `--override ${JSON.stringify(text)}: ${JSON.stringify(wish)} is no kind of layer`,
          "use column, row, vocab, replicated, or a placement of the weight: R, P(sum), S(0), S(1), …",
        );
      }
      return [pattern, wish] as const;
    }),
  );
}

/** A size with a unit, in bytes. */
function bytesOf(args: ParsedArgs, name: string): number | undefined {
  const text = args.text(name);
  if (text === undefined) return undefined;
  const [, digits, unit] = /^\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*$/i.exec(text) ?? [];
  const size = UNITS[unit?.toLowerCase() ?? "?"];
  if (digits === undefined || size === undefined || Number(digits) <= 0) {
    throw args.error(`--${name} ${JSON.stringify(text)} is no size`, "write it as 6GB, 512MiB or 6e9 bytes in digits");
  }
  return Math.floor(Number(digits) * size);
}
