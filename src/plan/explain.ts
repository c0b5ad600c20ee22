/**
 * Why a plan is as it is: for every layer what became of it, what it holds, what it says to the other ranks, and what it
 * would cost not to split it.
 *
 * That price is exact: the least total with the layer replicated and everything else free, less the optimum.
 */
import { PlanError } from "../core/errors.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { type CollectiveKind, type Graph, opKey, valueOf } from "../graph/graph.ts";
import { localSize } from "../graph/layout.ts";
import { type Placement, placementKey, printPlacement } from "../graph/placement.ts";
import { seconds } from "./cost.ts";
import { type LayerKind, layerKind } from "./layer_kind.ts";
import type { Plan, PlanCost, Reshard } from "./plan.ts";
import { isLayer, type PlanOptions, type Problem } from "./problem.ts";
import { communicates, directStep } from "./redistribute.ts";
import type { PricedCall } from "./sequence.ts";
import { type SolvedPlan, solvePlan } from "./search.ts";
import { printBytes, printSeconds } from "./units.ts";

/** A weight of a layer. */
export interface WeightReport {
  /** The value's name. */
  readonly name: string;
  /** As DTensor prints it: `S(1)`. */
  readonly placement: string;
  /** Of the whole weight. */
  readonly bytes: number;
  /** On the rank with the most. */
  readonly bytesPerRank: number;
}

/** A collective of a plan. */
export interface CollectiveReport {
  /** What it does. */
  readonly kind: CollectiveKind;
  /** The tensor that it moves. */
  readonly value: string;
  /** In front of this node. */
  readonly before: string;
  /** Of the whole tensor, at the nominal sizes. */
  readonly bytes: number;
  /** `bytes`, shared out among the tokens of a step. */
  readonly bytesPerToken: number;
}

/** What became of one layer. */
export interface LayerReport {
  /** Name of the node. */
  readonly name: string;
  /** The module that it came from. */
  readonly scope?: string;
  /** Domain and op. */
  readonly op: string;
  /** What became of it. */
  readonly kind: LayerKind;
  /** In the order of the inputs. */
  readonly weights: readonly WeightReport[];
  /** Of all its weights. */
  readonly bytes: number;
  /** Of all its weights, on the rank with the most. */
  readonly bytesPerRank: number;
  /** Collectives on its inputs that belong to no other layer. */
  readonly before: readonly CollectiveReport[];
  /** Collectives on its results, also those behind further additions. */
  readonly after: readonly CollectiveReport[];
  /** Seconds of arithmetic and memory traffic on the slowest rank. */
  readonly seconds: number;
  /** What the plan would cost more if this layer were replicated, in the seconds that the search minimises; absent where it must be split. */
  readonly priceOfNotSplitting?: number;
}

/** An explained plan. */
export interface PlanReport {
  /** The graph's name. */
  readonly graph: string;
  /** Ranks that share the model. */
  readonly ranks: number;
  /** In order of execution. */
  readonly layers: readonly LayerReport[];
  /** In order of execution. */
  readonly collectives: readonly CollectiveReport[];
  /** The plan's. */
  readonly cost: PlanCost;
  /** The plan's: 0 where the search was exact. */
  readonly gap: number;
  /** Bytes of all weights. */
  readonly weightBytes: number;
  /** Tokens of one step at the nominal sizes; 1 where the graph takes no ids. */
  readonly tokens: number;
  /** Ops without a definition, as `domain.Op`, each once: they run whole on every rank. Absent where all have one. */
  readonly undescribed?: readonly string[];
}

/**
 * Explains a plan of {@linkcode search}; `options` are those that it was made with.
 *
 * @throws {PlanError} If the plan was made with other options, or for another graph.
 */
export function explainPlan(graph: Graph<"global">, plan: Plan, options: PlanOptions): PlanReport {
  const solved = solvePlan(graph, options), same = solved.plan;
  if (
    same.ranks !== plan.ranks || same.cost.total !== plan.cost.total || same.strategies.size !== plan.strategies.size
  ) {
    throw new PlanError(`Cannot explain a plan of graph "${graph.name}" that these options do not lead to`, {
      hint: "pass the options that the plan was made with",
    });
  }
  return explainSolved(graph, solved);
}

/** The calls that are layers, in order of execution. */
export function layersOf({ calls }: Problem): PricedCall[] {
  return calls.filter((c) => isLayer(c, c.weights));
}

/** Like {@linkcode explainPlan}, without searching again; without `prices`, that of not splitting is left at 0. */
export function explainSolved(graph: Graph<"global">, solved: SolvedPlan, prices = true): PlanReport {
  const { plan, problem, frontier, solution } = solved;
  const optimum = prices ? frontier.solve()!.cost : 0;
  const tokens = tokensOf(graph, problem);
  const collectives = collectivesOf(graph, plan, problem, tokens);
  const layerCalls = layersOf(problem);
  const owners = ownersOf(plan, problem, new Set(layerCalls.map((c) => c.node.name)));
  const steps = new Map(problem.sources.flatMap((s, i) => (s.kind === "call" ? [[s.call, i] as const] : [])));
  const layers = layerCalls.map((call): LayerReport => {
    const { node } = call;
    const weights = call.weights.map((i) =>
      weightReport(graph, node.inputs[i]!, plan.strategies.get(node.name)!.inputs[i]!, plan.ranks)
    );
    const index = steps.get(call)!;
    const chosen = call.candidates[solution.decisions[index]!.alternative]!;
    const kind = layerKind(chosen, call.weights[0]);
    const isReplicated = (i: number) => layerKind(call.candidates[i]!, call.weights[0]) === "replicated";
    const price = kind === "replicated" || !prices ? 0 : Math.max(0, frontier.costWith(index, isReplicated) - optimum);
    return {
      name: node.name,
      ...(node.scope === undefined ? {} : { scope: node.scope }),
      op: opKey(node),
      kind,
      weights,
      bytes: sum(weights.map((w) => w.bytes)),
      bytesPerRank: sum(weights.map((w) => w.bytesPerRank)),
      before: collectives.filter((c) => c.before === node.name && !owners.has(c.value)),
      after: collectives.filter((c) => owners.get(c.value) === node.name),
      seconds: seconds(call.compute[solution.decisions[index]!.alternative]!),
      ...(price < Infinity ? { priceOfNotSplitting: seconds(price) } : {}),
    };
  });
  const constants = graph.nodes.flatMap((n) => (n.kind === "get_attr" ? [n.data] : []));
  const undescribed = [...new Set(problem.calls.flatMap((c) => c.shape.def ? [] : [opKey(c.node)]))];
  return {
    graph: graph.name,
    ranks: plan.ranks,
    layers,
    collectives,
    cost: plan.cost,
    gap: plan.gap,
    weightBytes: sum(constants.map((d) => d.shape.reduce((a, b) => a * b, 1) * dtypeInfo(d.dtype).bits / 8)),
    tokens,
    ...(undescribed.length > 0 ? { undescribed } : {}),
  };
}

/** Names of the columns of {@linkcode planRows}. */
export const PLAN_COLUMNS = [
  "layer",
  "op",
  "kind",
  "weights",
  "bytes per rank",
  "of",
  "collectives",
  "cost",
  "not splitting",
] as const;

/** The layers as rows of a table, one text a column of {@linkcode PLAN_COLUMNS}. */
export function planRows(report: PlanReport): string[][] {
  return report.layers.map((l) => [
    l.name,
    l.op,
    l.kind,
    l.weights.map((w) => w.placement).join(" "),
    printBytes(l.bytesPerRank),
    printBytes(l.bytes),
    [...l.before.map((c) => `${printCollective(c)} before`), ...l.after.map(printCollective)].join(", "),
    printSeconds(l.seconds),
    l.kind === "replicated" || l.priceOfNotSplitting === undefined ? "" : `+${printSeconds(l.priceOfNotSplitting)}`,
  ]);
}

/** The report as stable text, without anything that depends on the cost model's constants. */
export function planText(report: PlanReport): string {
  const rows = planRows(report).map((r) => r.slice(0, -2));
  const widths = rows.reduce<number[]>((w, r) => r.map((cell, i) => Math.max(w[i] ?? 0, cell.length)), []);
  return [planSummary(report), ...rows.map((r) => r.map((cell, i) => cell.padEnd(widths[i]!)).join("  ").trimEnd())]
    .join("\n") + "\n";
}

/** The plan in one line: kinds of layers, collectives and their bytes, weights. */
export function planSummary(report: PlanReport): string {
  const kinds = new Map<LayerKind, number>();
  for (const l of report.layers) kinds.set(l.kind, (kinds.get(l.kind) ?? 0) + 1);
  const counted = [...kinds].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([kind, n]) => `${n} ${kind}`).join(", ");
  const perToken = printBytes(sum(report.collectives.map((c) => c.bytesPerToken)));
  return `${report.graph} on ${report.ranks} rank${report.ranks === 1 ? "" : "s"}: layers ${
    counted || "none"
  }; ${report.collectives.length} collectives a step, ` +
    `${perToken} a token; weights ${printBytes(report.cost.weightBytes)} a rank of ${printBytes(report.weightBytes)}`;
}

/** The plan and its explanation as data for JSON: every placement by value, every reshard, every layer. */
export function planJson(report: PlanReport, plan: Plan): Record<string, unknown> {
  return {
    ...report,
    placements: Object.fromEntries([...plan.placements].map(([v, p]) => [v, placementKey(p)])),
    strategies: Object.fromEntries([...plan.strategies].map(([node, s]) => [node, {
      name: s.name,
      inputs: s.inputs.map(placementKey),
      outputs: s.outputs.map(placementKey),
    }])),
    reshards: plan.reshards.map((r) => ({
      before: r.before,
      value: r.value,
      kind: directStep(r.from, r.to),
      from: placementKey(r.from),
      to: placementKey(r.to),
    })),
  };
}

/** For values that are sums or parts of a layer's results, that layer: the last one, where several flow together. */
function ownersOf(plan: Plan, { calls }: Problem, layers: ReadonlySet<string>): Map<string, string> {
  const owners = new Map<string, string>(), order = new Map(calls.map((c, i) => [c.node.name, i]));
  for (const { node } of calls) {
    const strategy = plan.strategies.get(node.name)!;
    let owner = layers.has(node.name) && strategy.inputs.every((p) => p.kind !== "P") ? node.name : undefined;
    if (owner === undefined && strategy.outputs.some((p) => p.kind === "P")) {
      for (const [i, p] of strategy.inputs.entries()) {
        const from = p.kind === "P" ? owners.get(node.inputs[i]!) : undefined;
        if (from !== undefined && (owner === undefined || order.get(from)! > order.get(owner)!)) owner = from;
      }
    }
    if (owner !== undefined) { for (const name of node.outputs) owners.set(name, owner); }
  }
  return owners;
}

function collectivesOf(graph: Graph, plan: Plan, { pricing }: Problem, tokens: number): CollectiveReport[] {
  return plan.reshards.flatMap(({ before, value, from, to }: Reshard) => {
    const kind = directStep(from, to);
    if (!kind || !communicates(kind)) return [];
    const bytes = pricing.bytes(valueOf(graph, value).type);
    return [{ kind, value, before, bytes, bytesPerToken: Math.round(bytes / tokens) }];
  });
}

/** The elements of the first integer input with dims: token ids. */
function tokensOf(graph: Graph, { pricing }: Problem): number {
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    const { dtype, shape } = valueOf(graph, node.name).type;
    if (dtype && !dtypeInfo(dtype).float && shape && shape.length > 0) {
      return Math.max(1, shape.reduce<number>((n, d) => n * pricing.size(d), 1));
    }
  }
  return 1;
}

function weightReport(graph: Graph, name: string, p: Placement, ranks: number): WeightReport {
  const { shape, dtype } = valueOf(graph, name).type;
  const bytes = (shape as readonly number[]).reduce((a, b) => a * b, 1) * dtypeInfo(dtype!).bits / 8;
  const most = p.kind !== "S"
    ? 1
    : Math.max(...Array.from({ length: ranks }, (_, r) => localSize(p.layout, r))) / p.layout.size;
  return { name, placement: printPlacement(p), bytes, bytesPerRank: bytes * most };
}

function printCollective(c: CollectiveReport): string {
  return `${c.kind} ${printBytes(c.bytesPerToken)}/token`;
}

function sum(xs: readonly number[]): number {
  return xs.reduce((a, b) => a + b, 0);
}
