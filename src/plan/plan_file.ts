/**
 * A plan as a JSON file: every placement, strategy, collective and cost, and which model it is of.
 *
 * The form is docs/plan-json.md. A file is read in two steps: {@linkcode parsePlanFile} checks that it is a plan at all,
 * and {@linkcode planFromFile} (check_plan.ts) that it is one of the model at hand.
 */
import { builtinModule } from "../core/builtin.ts";
import { PlanError } from "../core/errors.ts";
import type { Graph } from "../graph/graph.ts";
import { parsePlacement } from "../graph/placement_parser.ts";
import type { Placement } from "../graph/placement.ts";
import { printGraph } from "../graph/text.ts";
import { planJson, type PlanReport } from "./explain.ts";
import type { Plan, PlanCost } from "./plan.ts";

/** What a plan's file calls its format, and the version of it that is written and read. */
export const PLAN_FORMAT = "shardwise.plan", PLAN_VERSION = 1;

/** A strategy in a file: placements as keys, by position. */
export interface StrategyEntry {
  /** The factors that are sharded; `-` when replicated. */
  readonly name: string;
  /** By input position. */
  readonly inputs: readonly string[];
  /** By output position. */
  readonly outputs: readonly string[];
}

/** A change of placement in a file. */
export interface ReshardEntry {
  /** The node in front of which it happens. */
  readonly before: string;
  /** The value that moves. */
  readonly value: string;
  /** The collective, or the local move. */
  readonly kind: string;
  /** Key of the placement before. */
  readonly from: string;
  /** Key of the placement after. */
  readonly to: string;
}

/** A plan's file, parsed. Placements are keys (`R`, `P(sum)`, `S(1;90:0-45|45-90)`). */
export interface PlanFile extends PlanReport {
  /** {@linkcode PLAN_FORMAT}. */
  readonly format: string;
  /** {@linkcode PLAN_VERSION}. */
  readonly version: number;
  /** Which model it is of. */
  readonly model: { readonly name: string; readonly fingerprint: string };
  /** Ranks by mesh axis. */
  readonly mesh: Readonly<Record<string, number>>;
  /** By value. */
  readonly placements: Readonly<Record<string, string>>;
  /** By node. */
  readonly strategies: Readonly<Record<string, StrategyEntry>>;
  /** In order of execution. */
  readonly reshards: readonly ReshardEntry[];
}

/**
 * What tells one clean graph from another: a hash of its nodes, attributes and types. Weights are not read, so models that
 * differ in nothing but their weights share their plans.
 */
export function graphFingerprint(graph: Graph<"global">): string {
  const { createHash } = builtinModule("node:crypto");
  return `sha256:${createHash("sha256").update(printGraph(graph)).digest("hex")}`;
}

/** The file of a plan for the clean graph `graph`. */
export function planFile(graph: Graph<"global">, plan: Plan, report: PlanReport): PlanFile {
  const body = planJson(report, plan) as unknown as Omit<PlanFile, "format" | "version" | "model" | "mesh">;
  return {
    format: PLAN_FORMAT,
    version: PLAN_VERSION,
    model: { name: graph.name, fingerprint: graphFingerprint(graph) },
    mesh: { tp: plan.ranks },
    ...body,
  };
}

/**
 * Reads the text of a plan's file; `path` names it in errors.
 *
 * @throws {PlanError} If it is no plan, or of a version that is not read.
 */
export function parsePlanFile(text: string, path: string): PlanFile {
  const fail = (what: string, hint = "make one with `shardwise plan MODEL --tp N --json`") =>
    new PlanError(`Cannot read ${path} as a plan: ${what}`, { hint });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new PlanError(`Cannot read ${path} as a plan: it is not valid JSON`, { cause });
  }
  if (!isRecord(value)) throw fail("it holds no JSON object");
  if (value.format !== PLAN_FORMAT) {
    throw fail(`its "format" is ${JSON.stringify(value.format) ?? "missing"}, not "${PLAN_FORMAT}"`);
  }
  if (value.version !== PLAN_VERSION) {
    throw fail(`it has version ${JSON.stringify(value.version)}, and this program reads ${PLAN_VERSION}`);
  }
  const { model, ranks, placements, strategies, reshards, cost, layers, collectives } = value;
  if (!isRecord(model) || typeof model.fingerprint !== "string") throw fail('"model" has no fingerprint');
  if (!Number.isInteger(ranks) || (ranks as number) < 1) {
    throw fail(`"ranks" is ${JSON.stringify(ranks)}, not a whole number of at least 1`);
  }
  if (!isRecord(placements)) throw fail('"placements" is no object');
  for (const [name, key] of Object.entries(placements)) requirePlacement(key, `placements[${JSON.stringify(name)}]`);
  if (!isRecord(strategies)) throw fail('"strategies" is no object');
  for (const [node, strategy] of Object.entries(strategies)) {
    const where = `strategies[${JSON.stringify(node)}]`;
    if (!isRecord(strategy) || !Array.isArray(strategy.inputs) || !Array.isArray(strategy.outputs)) {
      throw fail(`${where} has no inputs and outputs`);
    }
    for (const key of [...strategy.inputs, ...strategy.outputs]) requirePlacement(key, where);
  }
  if (!Array.isArray(reshards)) throw fail('"reshards" is no list');
  reshards.forEach((r: unknown, i) => {
    if (!isRecord(r) || typeof r.before !== "string" || typeof r.value !== "string") {
      throw fail(`reshards[${i}] does not say which value moves before which node`);
    }
    requirePlacement(r.from, `reshards[${i}].from`);
    requirePlacement(r.to, `reshards[${i}].to`);
  });
  for (const part of ["compute", "communication", "weightBytes", "total"]) {
    if (!isRecord(cost) || typeof cost[part] !== "number") throw fail(`"cost" has no number "${part}"`);
  }
  if (!Array.isArray(layers) || !Array.isArray(collectives)) throw fail('"layers" or "collectives" is no list');
  return value as unknown as PlanFile;

  function requirePlacement(key: unknown, where: string): void {
    if (typeof key !== "string" || !parsePlacement(key)) {
      throw fail(`${where} is ${JSON.stringify(key) ?? "missing"}, which is no placement`, "see docs/plan-json.md");
    }
  }
}

/** The plan that a file holds, as it stands there; check_plan.ts tells whether it is one of a given model. */
export function storedPlan(file: PlanFile): Plan {
  const place = (key: string): Placement => parsePlacement(key)!;
  return {
    ranks: file.ranks,
    placements: new Map(Object.entries(file.placements).map(([name, key]) => [name, place(key)])),
    strategies: new Map(
      Object.entries(file.strategies).map(([node, s]) => [
        node,
        { name: s.name, inputs: s.inputs.map(place), outputs: s.outputs.map(place) },
      ]),
    ),
    reshards: file.reshards.map(({ before, value, from, to }) => ({ before, value, from: place(from), to: place(to) })),
    cost: file.cost satisfies PlanCost,
    gap: typeof file.gap === "number" ? file.gap : 0,
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
