/** Options by which users have a say in plans: the same for every command that makes one. */
import type { Config } from "../src/passes/context.ts";
import { parseQuantize } from "../src/passes/quantise/weight_format.ts";
import { isOverride, type Override } from "../src/plan/overrides.ts";
import { planSource } from "../src/plan_source.ts";
import { shardedFor } from "../src/sharded_folder.ts";
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
  quantize: {
    value: "FORMAT",
    many: true,
    help:
      "hold weights in 4 or 8 bits, in blocks of 32: int4, int8, or int4,lm_head=int8 for formats by LAYER (as in --override,\n" +
      "none keeps a layer as it is); int4:64:asym means blocks of 64 with zero points",
  },
  plan: {
    value: "FILE",
    help: "follow this plan.json (of `plan --json` or `export`) instead of planning, or let the device\n" +
      "annotations of this .onnx file bind the search",
  },
  context: { value: "TOKENS", help: "length of the KV cache that --memory-per-rank counts; default 2048" },
};

/** What the options ask of the planner. */
export interface PlanConfig extends Pick<Config, "overrides" | "memoryPerRank" | "memoryLength" | "fuse" | "quantize"> {
  /** The file that says what the plan is; each rank reads it. */
  readonly file?: string;
}

/** What passes are told, for `ranks` ranks. @throws {PlanError} If the plan's file is not for as many. */
export function passConfig({ file, ...config }: PlanConfig, ranks: number): Config {
  return file === undefined ? config : { ...config, ...planSource(file, ranks) };
}

/** All that is wrong with a plan's file by itself is told here, before a rank starts. @throws {UsageError | PlanError} */
export function checkPlanFile(args: ParsedArgs, { file }: PlanConfig, at: { ranks: number; model: string }): void {
  const parts = shardedFor(at.model) !== undefined;
  const idle = parts && Object.keys(PLAN_OPTIONS).find((name) => args.flag(name) || args.texts(name).length > 0);
  if (idle) throw args.error(`--${idle} has no effect on ${at.model}, which is split already`);
  if (file !== undefined) planSource(file, at.ranks);
}

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
  const quantize = args.texts("quantize").flatMap((text) => text.split(","));
  const file = args.text("plan");
  const said = ["override", "memory-per-rank"].find((name) => args.texts(name).length > 0);
  if (file !== undefined && !file.endsWith(".onnx") && said !== undefined) {
    throw args.error(`--${said} has no effect on the plan of a file`, "leave one of them out");
  }
  return {
    ...(file === undefined ? {} : { file }),
    ...(args.flag("no-fuse") ? { fuse: false } : {}),
    ...(quantize.length > 0 ? { quantize: args.reading(() => parseQuantize(quantize)) } : {}),
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
