/**
 * From a graph to the problem that the frontier search solves: the strategies of all calls, and their prices.
 *
 * All is worked out once for calls that are alike: see {@linkcode CallShape}.
 */
import { dtypeInfo } from "../core/dtype.ts";
import { PlanError } from "../core/errors.ts";
import { type Call, type Graph, valueOf } from "../graph/graph.ts";
import { type Placement, placementKey } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";
import { type Baseline, baselineStrategies } from "./baselines.ts";
import { candidateLayouts, type Candidates } from "./candidates.ts";
import { type CostModel, costModel, type Nominal, nominalSizes, Pricing, shareOf } from "./cost.ts";
import { layerKind, weightInputs } from "./layer_kind.ts";
import { Memo } from "./memo.ts";
import { grants, type Override, type Overrides, resolveOverrides } from "./overrides.ts";
import { type CallShape, type OpLookup, type PlannedCall, plannedCalls } from "./places.ts";
import { pruneStrategies } from "./prune.ts";
import { type PricedCall, type Problem, Sequence } from "./sequence.ts";
import { type Candidate, LINEAR, strategiesOfAll } from "./strategies.ts";
import { whyNot } from "./why_not.ts";

export type { PricedCall, Problem };

/** What planning may be told. */
export interface PlanOptions {
  readonly ranks: number;
  /** Definitions of ops; a call without one is replicated. */
  readonly opDef: OpLookup;
  readonly costs?: Partial<CostModel>;
  /** Sizes of symbols at which costs are compared. */
  readonly nominal?: Nominal;
  readonly overrides?: Overrides;
  /** Most states that the search keeps at a time. */
  readonly maxStates?: number;
  /** Where the states that the graph begins have to end, by their name in `carried`; replicated by default. */
  readonly states?: ReadonlyMap<string, Placement>;
  /** Placements in which ranks hold constants anyway, for another graph: these cost no memory. */
  readonly held?: ReadonlyMap<string, readonly Placement[]>;
  /** Leaves a call some of its strategies, of the useful ones if it can, at least one; throws where it cannot. */
  readonly restrict?: (
    node: Call,
    useful: readonly Candidate[],
    all: readonly Candidate[],
  ) => readonly Candidate[];
  /** What each rank may hold. */
  readonly memory?: MemoryCap;
  /** Restrict layers to what a simple rule makes of them, to compare with. */
  readonly baseline?: Baseline;
}

/** What a graph that stands for a larger one says of that. */
export interface Whole {
  /** Mean bytes of its matrices. */
  readonly matrixBytes: number;
  /** For how many of its calls a call stands that reads a value, on the mean. */
  readonly reads: (node: string, value: string) => number;
}

/** A cap on the memory of every rank. */
export interface MemoryCap {
  /** Bytes of weights, carried states and activations; no cap where it is left out. */
  readonly perRank?: number;
  /** Tokens of the past at which states are counted; by default as many as costs are compared at. */
  readonly length?: number;
}

/** Constants of fewer bytes are not followed when several calls read them: holding them twice costs next to nothing. */
const FOLLOWED_BYTES = 65536;

/** How often what lies between two layers, a norm and a residual sum, reads or writes a tensor of their size. */
const LIGHT_PASSES = 8;

/** States its alternatives as indices of a call's candidates. @throws {PlanError} If an override cannot be met. */
export function buildProblem(graph: Graph, options: PlanOptions, whole?: Whole): Problem {
  const { ranks } = options;
  if (!Number.isInteger(ranks) || ranks < 1) {
    throw new PlanError(`Cannot plan for ${ranks} ranks`, { hint: "pass a whole number of at least 1" });
  }
  const model = costModel(options.costs ?? {}, whole?.matrixBytes ?? meanMatrixBytes(graph));
  const pricing = new Pricing(ranks, model, nominalSizes(graph, options.nominal));
  const constants = new Set(graph.nodes.filter((n) => n.kind === "get_attr").map((n) => n.outputs[0]!));
  const isConstant = (value: string) => constants.has(value);
  const planned = plannedCalls(graph, options.opDef);
  const layouts = candidateLayouts(graph, planned, ranks);
  const strategies = strategiesOfAll(planned, layouts);
  const { restrict } = options;
  const bytesOf = (value: string) => pricing.bytes(valueOf(graph, value).type);
  const isLarge = (value: string) => pricing.sharingOut(LIGHT_PASSES * bytesOf(value)) > model.collectiveSeconds;
  const useful = pruneStrategies(planned.map((call, i) => ({ call, candidates: strategies[i]! })), isLarge);
  const pruned = restrict ? useful.map((list, i) => restrict(planned[i]!.node, list, strategies[i]!)) : useful;
  const weights = new Memo((shape: CallShape) => weightInputs(shape));
  const all: Alternatives = { planned, strategies, pruned, weights, layouts, ranks };
  const allowed = options.baseline
    ? baselineStrategies(options.baseline, planned.map((call, i) => ({ call, candidates: pruned[i]! })), weights)
    : pruned;
  const wished = wishedStrategies(all, allowed, options.overrides ?? {});
  const readers = new Map<string, number>();
  for (const { node } of planned) {
    for (const v of node.inputs) readers.set(v, (readers.get(v) ?? 0) + (whole?.reads(node.name, v) ?? 1));
  }
  if (whole) { for (const [value, n] of readers) readers.set(value, Math.round(n)); }
  const shared = (value: string) => isConstant(value) && readers.get(value)! > 1 && bytesOf(value) >= FOLLOWED_BYTES;
  const compute = new Memo((candidates: readonly Candidate[]) =>
    new Memo((s: CallShape) => computeCosts(s, candidates, pricing))
  );
  const memory = new Map<string, WeightCosts>();
  const ids: Memo<readonly Candidate[], number> = new Memo(() => ids.size);
  const calls = planned.map((call, i): PricedCall => {
    const { node, shape } = call, candidates = wished[i]!;
    // By input: how many share the price of a weight; 0 where it has none, or one of its own.
    const sharers = node.inputs.map((name, k) =>
      name === "" || !shape.constant[k] || shared(name) ? 0 : readers.get(name)!
    );
    const held = node.inputs.map((name) => options.held?.get(name));
    const key = `${ids.of(candidates)}:${sharers.join()}:${
      held.map((h) => h?.map(placementKey).join() ?? "").join(";")
    }`;
    let prices = memory.get(key);
    if (!prices) memory.set(key, prices = weightCosts(shape, candidates, { sharers, held, pricing }));
    return {
      ...call,
      candidates,
      weights: weights.of(shape),
      ...prices,
      compute: compute.of(candidates).of(shape),
    };
  });
  const stateSizes = new Pricing(ranks, model, nominalSizes(graph, options.nominal, options.memory?.length));
  const { states = new Map(), held = new Map() } = options;
  return new Sequence(graph, calls, { pricing, stateSizes, isConstant, shared, states, held }).problem();
}

/** All calls with what they could do. */
interface Alternatives {
  readonly planned: readonly PlannedCall[];
  readonly strategies: readonly (readonly Candidate[])[];
  readonly pruned: readonly (readonly Candidate[])[];
  readonly weights: Memo<CallShape, readonly number[]>;
  readonly layouts: Candidates;
  readonly ranks: number;
}

/** The strategies that overrides leave to each call; `allowed` to those that nobody asks anything of. Equal lists are the same object. */
function wishedStrategies(
  all: Alternatives,
  allowed: readonly (readonly Candidate[])[],
  overrides: Overrides,
): readonly (readonly Candidate[])[] {
  const { planned, strategies, pruned, weights, ranks } = all;
  if (Object.keys(overrides).length === 0) return allowed;
  const granted = new Memo((candidates: readonly Candidate[]) =>
    new Memo((shape: CallShape) =>
      new Memo((wish: Override) => candidates.filter((c) => grants(c, wish, weights.of(shape)[0])))
    )
  );
  // What pruning left out because it is never worth it is there for those who ask.
  const grantedTo = (i: number, wish: Override) => {
    const useful = granted.of(pruned[i]!).of(planned[i]!.shape).of(wish);
    return useful.length > 0 ? useful : granted.of(strategies[i]!).of(planned[i]!.shape).of(wish);
  };
  const layers = planned.flatMap((call, i) => {
    const held = weights.of(call.shape), { name, scope } = call.node;
    if (!isLayer(call, held)) return [];
    return [{
      name,
      scope,
      heavy: isHeavy(call),
      kinds: [...new Set(pruned[i]!.map((c) => layerKind(c, held[0])))],
      allows: (wish: Override) => grantedTo(i, wish).length > 0,
      whyNot: (wish: Override) => whyNot(call, wish, { weight: held[0], candidates: all.layouts, ranks }),
    }];
  });
  const wishes = resolveOverrides(overrides, layers);
  return planned.map(({ node }, i) => {
    const wish = wishes.get(node.name);
    return wish === undefined ? allowed[i]! : grantedTo(i, wish);
  });
}

/** Mean bytes of the constants with at least two dims of more than one; `times` says for how many each stands. */
export function meanMatrixBytes(graph: Graph, times: (name: string) => number = () => 1): number {
  let bytes = 0, count = 0;
  for (const n of graph.nodes) {
    if (n.kind !== "get_attr" || n.data.shape.filter((d) => d > 1).length < 2) continue;
    const stands = times(n.outputs[0]);
    bytes += stands * n.data.shape.reduce((a, b) => a * b, 1) * dtypeInfo(n.data.dtype).bits / 8;
    count += stands;
  }
  return count === 0 ? 0 : bytes / count;
}

/** The layers of a clean graph that overrides can be about. */
export function overridableLayers(graph: Graph, opDef: OpLookup): Call[] {
  return plannedCalls(graph, opDef).flatMap((c) => isLayer(c, weightInputs(c.shape)) ? [c.node] : []);
}

/** Whether a call is reported and can be overridden: it has weights, or is a layer by definition. */
export function isLayer(call: Pick<PlannedCall, "node">, weights: readonly number[]): boolean {
  return weights.length > 0 || call.node.kind === "call_module";
}

/** Whether a layer does the work of its module: a product, or a table; not a bias. */
export function isHeavy({ node, shape }: Pick<PlannedCall, "node" | "shape">): boolean {
  return node.kind === "call_module" || shape.def?.flops !== undefined || shape.rule.factors.some((f) => f.selected);
}

type WeightCosts = Pick<PricedCall, "memory" | "held">;

/**
 * Prices and bytes of weights, by strategy; `sharers` says by input how many calls share the price, `held` where another
 * graph has paid it.
 */
function weightCosts(
  { context }: CallShape,
  candidates: readonly Candidate[],
  { sharers, held, pricing }: {
    readonly sharers: readonly number[];
    readonly held: readonly (readonly Placement[] | undefined)[];
    readonly pricing: Pricing;
  },
): WeightCosts {
  const isHeld = (i: number, at: Placement) => held[i]?.some((p) => placementKey(p) === placementKey(at)) ?? false;
  const sum = (c: Candidate, cost: (type: TensorType, p: Placement) => number) =>
    sharers.reduce(
      (total, n, i) =>
        n === 0 || isHeld(i, c.inputs[i]!) ? total : total + Math.round(cost(context.inputs[i]!, c.inputs[i]!) / n),
      0,
    );
  return {
    memory: candidates.map((c) => sum(c, (type, p) => pricing.memory(type, p))),
    held: candidates.map((c) => sum(c, (type, p) => pricing.bytes(type) * shareOf(p))),
  };
}

/** Arithmetic and traffic of a call on the busiest rank, by strategy. */
function computeCosts(
  { context, def, rule, constant }: CallShape,
  candidates: readonly Candidate[],
  pricing: Pricing,
): number[] {
  const inputs = context.inputs.map((t) => pricing.bytes(t)), outputs = context.outputs.map((t) => pricing.bytes(t));
  const outputBytes = outputs.reduce((a, b) => a + b, 0);
  // A table of which rows are selected is not read whole; nor is a constant that a plain move takes a part of.
  const lookup = rule.factors.some((f) => f.selected);
  const reads = inputs.map((bytes, i) =>
    (lookup && i === 0) || (!def?.flops && constant[i]) ? Math.min(bytes, outputBytes) : bytes
  );
  const shape = context.outputs[0]?.shape;
  const whole = def?.flops && context.inputs.every((t) => t === undefined || t.shape)
    ? pricing.size(def.flops(context))
    : shape?.reduce<number>((n, d) => n * pricing.size(d), 1) ?? 0;
  // Rows of a product: all dims of the result but the last.
  const rows = shape?.slice(0, -1).reduce<number>((n, d) => n * pricing.size(d), 1) ?? 1;
  return candidates.map((c) => {
    const traffic = (bytes: readonly number[], at: readonly Placement[]) =>
      bytes.reduce((sum, b, i) => sum + b * shareOf(at[i]!), 0);
    // Of equal plans, the one that sums earlier wins.
    const own =
      pricing.call({ flops: whole * c.share, bytes: traffic(reads, c.inputs) + traffic(outputs, c.outputs), rows }) +
      (c.name === LINEAR ? 1 : 0);
    return c.factors.some((f) => f.internal) ? own + pricing.internal(outputBytes) : own;
  });
}
