/** From a plan to what the viewer shows: modules as a tree with equal blocks folded, memory by rank, a timeline of one step. */
import { type Graph, opKey, valueOf } from "../graph/graph.ts";
import { localSize } from "../graph/layout.ts";
import { type Placement, placementKey, printPlacement } from "../graph/placement.ts";
import { opDef } from "../ops/table.ts";
import { type Nominal, nominalSizes, seconds } from "../plan/cost.ts";
import { type CollectiveReport, type LayerReport, type PlanReport, planSummary } from "../plan/explain.ts";
import { planOutline } from "../plan/outline.ts";
import type { Plan } from "../plan/plan.ts";
import { buildProblem, type PlanOptions, type PricedCall, type Problem } from "../plan/problem.ts";
import { communicates, directStep } from "../plan/redistribute.ts";
import { keyOf } from "../plan/strategies.ts";
import { layerTree } from "./layer_tree.ts";
import type { Leaf, Mark, Moment, PlanView, RankMemory, Role } from "./view_data.ts";

/** A plan with what it is of. */
export interface ViewedPlan {
  /** What the model is called. */
  readonly title: string;
  /** The clean graph. */
  readonly graph: Graph<"global">;
  readonly plan: Plan;
  readonly report: PlanReport;
  /** Sizes of symbols at which it was made. */
  readonly nominal?: Nominal;
  /** Numbers of the cost model that it was made with. */
  readonly costs?: PlanOptions["costs"];
}

/** The view of a plan. */
export function planView({ title, graph, plan, report, nominal, costs }: ViewedPlan): PlanView {
  const problem = buildProblem(graph, {
    ranks: plan.ranks,
    opDef,
    ...(nominal ? { nominal } : {}),
    ...(costs ? { costs } : {}),
    // Only what was chosen is priced.
    restrict: (node, _, all) => {
      const wanted = plan.strategies.get(node.name), key = wanted && keyOf(wanted);
      return all.filter((c) => keyOf(c) === key);
    },
  });
  const collectives = pricedCollectives(graph, plan, problem);
  const layers = new Map(report.layers.map((l) => [l.name, l]));
  const marks = marksByCall(report, collectives, problem.calls);
  const leaves = problem.calls.map((call) => leafOf(plan, call, { layer: layers.get(call.node.name), marks }));
  const { rows, places } = layerTree(leaves.map((leaf, i) => ({ leaf, scope: problem.calls[i]!.node.scope })));
  const before = Map.groupBy(collectives, (c) => c.before);
  const timeline = leaves.flatMap((leaf, i): Moment[] => {
    const { id, block } = places[i]!;
    const reshards = (before.get(leaf.name) ?? []).concat(i === leaves.length - 1 ? before.get("output") ?? [] : []);
    const waits = reshards.map((c): Moment => ({
      row: id,
      block,
      seconds: c.seconds,
      collective: c.kind,
      bytes: c.bytes,
    }));
    const work: Moment = { row: id, block, seconds: leaf.seconds };
    return i === leaves.length - 1 ? [work, ...waits] : [...waits, work];
  });
  return {
    title,
    ranks: plan.ranks,
    summary: planSummary(report),
    outline: planOutline(report).map((line) => {
      const [label = "", ...rest] = line.split(/\s{2,}/);
      return [label, rest.join("  ")] as const;
    }),
    rows,
    memory: Array.from({ length: plan.ranks }, (_, rank) => memoryOf(graph, plan, problem, { rank, layers })),
    weightBytes: report.weightBytes,
    timeline,
    tokens: report.tokens,
    sizes: Object.fromEntries([...nominalSizes(graph, nominal)].filter(([name]) => !name.includes("#"))),
  };
}

interface PricedCollective {
  readonly kind: string;
  readonly value: string;
  readonly before: string;
  readonly bytes: number;
  readonly seconds: number;
}

function pricedCollectives(graph: Graph, plan: Plan, { pricing }: Problem): PricedCollective[] {
  return plan.reshards.flatMap(({ before, value, from, to }) => {
    const kind = directStep(from, to);
    if (!kind || !communicates(kind)) return [];
    const bytes = pricing.bytes(valueOf(graph, value).type);
    return [{ kind, value, before, bytes, seconds: seconds(pricing.step(kind, bytes, to.kind === "S" ? to : from)) }];
  });
}

/** The collectives of every call: of a layer those that the report gives it, of other calls those in front of them. */
function marksByCall(
  report: PlanReport,
  collectives: readonly PricedCollective[],
  calls: readonly PricedCall[],
): Map<string, Mark[]> {
  const left = new Map(collectives.map((c) => [`${c.before}\n${c.value}\n${c.kind}`, c]));
  const marks = new Map<string, Mark[]>();
  const add = (node: string, c: PricedCollective, before: boolean) => {
    const { kind, value, bytes, seconds } = c;
    marks.set(node, [...marks.get(node) ?? [], { kind, value, before, bytes, seconds }]);
  };
  const take = (node: string, list: readonly CollectiveReport[], before: boolean) => {
    for (const c of list) {
      const key = `${c.before}\n${c.value}\n${c.kind}`, priced = left.get(key);
      if (priced && left.delete(key)) add(node, priced, before);
    }
  };
  for (const layer of report.layers) {
    take(layer.name, layer.before, true);
    take(layer.name, layer.after, false);
  }
  for (const c of left.values()) {
    const last = calls.at(-1);
    if (c.before !== "output") add(c.before, c, true);
    else if (last) add(last.node.name, c, false);
  }
  return marks;
}

function leafOf(
  plan: Plan,
  call: PricedCall,
  { layer, marks }: { layer: LayerReport | undefined; marks: ReadonlyMap<string, readonly Mark[]> },
): Omit<Leaf, "id"> {
  const { node } = call, strategy = plan.strategies.get(node.name)!;
  const places = (names: readonly string[], placements: readonly Placement[]) =>
    names.flatMap((name, i) => (name === "" ? [] : [[name, printPlacement(placements[i]!)] as const]));
  const price = layer?.priceOfNotSplitting;
  return {
    kind: "op",
    label: node.op,
    name: node.name,
    op: opKey(node),
    role: layer?.kind ?? roleOf(strategy.outputs),
    layer: layer !== undefined,
    inputs: places(node.inputs, strategy.inputs),
    outputs: places(node.outputs, strategy.outputs),
    weights: layer?.weights ?? [],
    seconds: seconds(call.compute[0] ?? 0),
    marks: marks.get(node.name) ?? [],
    price: layer && layer.kind !== "replicated" && Number.isFinite(price) ? price! : null,
  };
}

/** Of an op without weights: where its results live. */
function roleOf(outputs: readonly Placement[]): Role {
  return outputs.some((p) => p.kind === "S") ? "data" : outputs.some((p) => p.kind === "P") ? "partial" : "replicated";
}

function memoryOf(
  graph: Graph,
  plan: Plan,
  { calls, isConstant, pricing }: Problem,
  { rank, layers }: { rank: number; layers: ReadonlyMap<string, LayerReport> },
): RankMemory {
  const held = new Set<string>();
  const weights: Partial<Record<Role, number>> = {};
  for (const { node } of calls) {
    const strategy = plan.strategies.get(node.name)!;
    node.inputs.forEach((name, i) => {
      if (name === "" || !isConstant(name) || valueOf(graph, name).ints) return;
      const placement = strategy.inputs[i]!, key = `${name}\n${placementKey(placement)}`;
      if (held.has(key)) return;
      held.add(key);
      // A whole weight of a layer whose other weights are cut is replicated all the same.
      const kind = placement.kind === "R" ? "replicated" : layers.get(node.name)?.kind ?? "replicated";
      weights[kind] = (weights[kind] ?? 0) + pricing.bytes(valueOf(graph, name).type) * shareOf(placement, rank);
    });
  }
  const states = graph.carried.reduce((sum, { input }) => {
    const { type } = valueOf(graph, input);
    return sum + 2 * pricing.bytes(type) * shareOf(plan.placements.get(input) ?? { kind: "R" }, rank);
  }, 0);
  return { weights, states };
}

function shareOf(p: Placement, rank: number): number {
  if (p.kind === "S") return localSize(p.layout, rank) / p.layout.size;
  return p.kind === "P" && rank > 0 ? 0 : 1;
}
