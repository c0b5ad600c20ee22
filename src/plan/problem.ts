/**
 * A graph as a sequence of steps with priced alternatives: what the frontier search solves.
 *
 * Beside the calls there are steps for what enters and leaves the graph. They stand where they matter, not at its ends,
 * so that few values are live at once: an input enters in front of its first reader, and a result is demanded behind
 * its last. A carried state enters in any placement, for free, and its new value must end in the same one.
 */
import { dtypeInfo } from "../core/dtype.ts";
import { PlanError } from "../core/errors.ts";
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import { candidateLayouts } from "./candidates.ts";
import { type CostModel, costModel, type Nominal, nominalSizes, Pricing, shareOf } from "./cost.ts";
import type { Alternative, Step } from "./frontier.ts";
import { layerKind, weightInputs } from "./layer_kind.ts";
import { type Overrides, resolveOverrides } from "./overrides.ts";
import { type OpLookup, type PlannedCall, plannedCalls } from "./places.ts";
import { pruneStrategies } from "./prune.ts";
import { directStep } from "./redistribute.ts";
import { SlotClasses } from "./slot.ts";
import type { SlotClass, SlotKind } from "./slot.ts";
import { type Candidate, LINEAR, strategiesOf } from "./strategies.ts";

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
}

/** A call with its strategies and their prices in picoseconds. */
export interface PricedCall extends PlannedCall {
  readonly candidates: readonly Candidate[];
  readonly compute: readonly number[];
  /** Price of the memory of weights, without those that several calls read. */
  readonly memory: readonly number[];
  /** Positions of weights, the largest first. */
  readonly weights: readonly number[];
}

/** What a step stands for. */
export type StepSource =
  | { readonly kind: "call"; readonly call: PricedCall }
  | { readonly kind: "enter"; readonly value: string }
  | { readonly kind: "result"; readonly value: string };

/** The problem of one graph. */
export interface Problem {
  readonly graph: Graph;
  readonly calls: readonly PricedCall[];
  readonly steps: readonly Step[];
  /** By step. */
  readonly sources: readonly StepSource[];
  /** Classes of the values that the search follows; all others are replicated wherever they are used. */
  readonly classes: ReadonlyMap<string, SlotClass>;
  readonly pricing: Pricing;
  readonly isConstant: (value: string) => boolean;
}

/** Constants of fewer bytes are not followed when several calls read them: holding them twice costs next to nothing. */
const FOLLOWED_BYTES = 65536;

/** States its alternatives as indices of a call's candidates. @throws {PlanError} If an override cannot be met. */
export function buildProblem(graph: Graph, options: PlanOptions): Problem {
  const { ranks } = options;
  if (!Number.isInteger(ranks) || ranks < 1) {
    throw new PlanError(`Cannot plan for ${ranks} ranks`, { hint: "pass a whole number of at least 1" });
  }
  const model = costModel(options.costs ?? {}, meanMatrixBytes(graph));
  const pricing = new Pricing(ranks, model, nominalSizes(graph, options.nominal));
  const constants = new Set(graph.nodes.filter((n) => n.kind === "get_attr").map((n) => n.outputs[0]!));
  const isConstant = (value: string) => constants.has(value);
  const planned = plannedCalls(graph, options.opDef);
  const layouts = candidateLayouts(graph, planned, ranks, isConstant);
  const choices = planned.map((call) => ({ call, candidates: strategiesOf(graph, call, layouts, isConstant) }));
  const pruned = pruneStrategies(choices, isConstant);
  const free = planned.map((call, i) => ({
    call,
    candidates: pruned[i]!,
    weights: weightInputs(graph, call, isConstant),
  }));
  const layers = free.filter(({ call, weights }) => isLayer(call, weights));
  const wishes = resolveOverrides(
    options.overrides ?? {},
    layers.map(({ call: { node }, candidates, weights }) => ({
      name: node.name,
      scope: node.scope,
      kinds: [...new Set(candidates.map((c) => layerKind(c, weights[0])))],
    })),
  );
  const readers = new Map<string, number>();
  for (const { call } of free) for (const v of call.node.inputs) readers.set(v, (readers.get(v) ?? 0) + 1);
  const bytesOf = (value: string) => pricing.bytes(valueOf(graph, value).type);
  const shared = (value: string) => isConstant(value) && readers.get(value)! > 1 && bytesOf(value) >= FOLLOWED_BYTES;
  const calls = free.map(({ call, candidates: all, weights }): PricedCall => {
    const wish = wishes.get(call.node.name);
    const candidates = wish === undefined ? all : all.filter((c) => layerKind(c, weights[0]) === wish);
    const memory = candidates.map((c) =>
      call.node.inputs.reduce(
        (sum, name, i) =>
          name === "" || !isConstant(name) || shared(name)
            ? sum
            : sum + Math.round(pricing.memory(valueOf(graph, name).type, c.inputs[i]!) / readers.get(name)!),
        0,
      )
    );
    return {
      ...call,
      candidates,
      weights,
      memory,
      compute: computeCosts(call, candidates, pricing, isConstant),
    };
  });
  return new Sequence(graph, calls, pricing, isConstant, shared).problem();
}

/** Mean bytes of the constants with at least two dims of more than one. */
function meanMatrixBytes(graph: Graph): number {
  const bytes = graph.nodes.flatMap((n) =>
    n.kind === "get_attr" && n.data.shape.filter((d) => d > 1).length > 1
      ? [n.data.shape.reduce((a, b) => a * b, 1) * dtypeInfo(n.data.dtype).bits / 8]
      : []
  );
  return bytes.length === 0 ? 0 : bytes.reduce((a, b) => a + b, 0) / bytes.length;
}

/** Whether a call is reported and can be overridden: it has weights, or is a layer by definition. */
export function isLayer(call: PlannedCall, weights: readonly number[]): boolean {
  return weights.length > 0 || call.node.kind === "call_module";
}

/** Arithmetic and traffic of a call on the busiest rank, by strategy. */
function computeCosts(
  call: PlannedCall,
  candidates: readonly Candidate[],
  pricing: Pricing,
  isConstant: (value: string) => boolean,
): number[] {
  const { context, def, node, rule } = call;
  const inputs = context.inputs.map((t) => pricing.bytes(t)), outputs = context.outputs.map((t) => pricing.bytes(t));
  const outputBytes = outputs.reduce((a, b) => a + b, 0);
  // A table of which rows are selected is not read whole; nor is a constant that a plain move takes a part of.
  const lookup = rule.factors.some((f) => f.selected);
  const reads = inputs.map((bytes, i) =>
    (lookup && i === 0) || (!def?.flops && isConstant(node.inputs[i]!)) ? Math.min(bytes, outputBytes) : bytes
  );
  const shape = context.outputs[0]?.shape;
  const whole = def?.flops && context.inputs.every((t) => t === undefined || t.shape)
    ? pricing.size(def.flops(context))
    : shape?.reduce<number>((n, d) => n * pricing.size(d), 1) ?? 0;
  return candidates.map((c) => {
    const traffic = (bytes: readonly number[], at: readonly Placement[]) =>
      bytes.reduce((sum, b, i) => sum + b * shareOf(at[i]!), 0);
    // Of equal plans, the one that sums earlier wins.
    const own =
      pricing.call({ flops: whole * c.share, bytes: traffic(reads, c.inputs) + traffic(outputs, c.outputs) }) +
      (c.name === LINEAR ? 1 : 0);
    return c.factors.some((f) => f.internal) ? own + pricing.internal(outputBytes) : own;
  });
}

interface Item {
  readonly source: StepSource;
  /** For each alternative: its price, and placements wanted and given, by value. */
  readonly alternatives: readonly {
    readonly cost: number;
    readonly wants: readonly (readonly [value: string, placement: Placement])[];
    readonly gives: readonly (readonly [value: string, placement: Placement])[];
  }[];
}

/** Orders calls, entries and results, and finds out which values have to be followed. */
class Sequence {
  readonly #graph: Graph;
  readonly #calls: readonly PricedCall[];
  readonly #pricing: Pricing;
  readonly #isConstant: (value: string) => boolean;
  readonly #shared: (value: string) => boolean;
  /** For each carried placeholder, the value that it becomes. */
  readonly #carried = new Map<string, string>();

  constructor(
    graph: Graph,
    calls: readonly PricedCall[],
    pricing: Pricing,
    isConstant: (value: string) => boolean,
    shared: (value: string) => boolean,
  ) {
    this.#graph = graph;
    this.#calls = calls;
    this.#pricing = pricing;
    this.#isConstant = isConstant;
    this.#shared = shared;
    for (const { input, output } of graph.carried) this.#carried.set(input, outputOf(graph).inputs[output]!);
  }

  problem(): Problem {
    const items = this.#calls.map((call) => this.#callItem(call));
    const universes = this.#universes(items);
    narrow(items, (value) => (this.#followed(value) ? Math.log(universes.get(value)?.length ?? 1) : 0));
    this.#insertResults(items, universes);
    const reads = new Map<string, number>();
    for (const item of items) for (const v of this.#read(item)) reads.set(v, (reads.get(v) ?? 0) + 1);
    const slots = new SlotClasses(), classes = new Map<string, SlotClass>();
    for (const [value, universe] of universes) {
      if (universe.length > 1 && reads.has(value) && this.#followed(value)) {
        classes.set(value, this.#class(slots, value, universe));
      }
    }
    this.#insertEntries(items, classes);
    const last = new Map<string, number>();
    items.forEach((item, i) => [...this.#read(item)].forEach((v) => last.set(v, i)));
    return {
      graph: this.#graph,
      calls: this.#calls,
      steps: items.map((item, i) => this.#step(item, i, classes, last)),
      sources: items.map((item) => item.source),
      classes,
      pricing: this.#pricing,
      isConstant: this.#isConstant,
    };
  }

  #callItem(call: PricedCall): Item {
    const { node } = call;
    return {
      source: { kind: "call", call },
      alternatives: call.candidates.map((c, i) => ({
        cost: call.compute[i]! + call.memory[i]!,
        wants: [
          ...node.inputs.map((name, k) => [name, c.inputs[k]!] as const),
          ...(node.captures ?? []).map((name) => [name, REPLICATE] as const),
        ].filter(([name]) => this.#planned(name)),
        gives: node.outputs.map((name, k) => [name, c.outputs[k]!] as const).filter(([name]) => this.#planned(name)),
      })),
    };
  }

  /** Sizes are known to every rank, and constants are loaded as wanted. */
  #planned(value: string): boolean {
    return value !== "" && !valueOf(this.#graph, value).ints;
  }

  #followed(value: string): boolean {
    return !this.#isConstant(value) || this.#shared(value);
  }

  /** All placements in which a value may be produced or wanted, replicated first. */
  #universes(items: readonly Item[]): Map<string, Placement[]> {
    const out = new Map<string, Placement[]>(), seen = new Set<string>();
    const add = (value: string, p: Placement) => {
      const list = out.get(value) ?? [REPLICATE];
      out.set(value, list);
      const key = `${value}\n${placementKey(p)}`;
      if (p.kind === "R" || seen.has(key)) return;
      seen.add(key);
      list.push(p);
    };
    for (const { alternatives } of items) {
      for (const { wants, gives } of alternatives) [...wants, ...gives].forEach(([v, p]) => add(v, p));
    }
    for (const [input, output] of this.#carried) {
      const states = (out.get(input) ?? [REPLICATE]).filter((p) => p.kind !== "P");
      out.set(input, this.#isConstant(output) || !this.#planned(output) ? [REPLICATE] : states);
      for (const p of out.get(input)!) add(output, p);
    }
    return out;
  }

  /** Demands the graph's results, each behind the last call that has to do with it. */
  #insertResults(items: Item[], universes: ReadonlyMap<string, readonly Placement[]>): void {
    const last = new Map<string, number>();
    items.forEach((item, i) => {
      for (const { wants, gives } of item.alternatives) [...wants, ...gives].forEach(([v]) => last.set(v, i));
    });
    const behind = new Map<number, Item[]>();
    const put = (value: string, alternatives: Item["alternatives"]) => {
      const at = last.get(value) ?? items.length - 1;
      behind.set(at, [...(behind.get(at) ?? []), { source: { kind: "result", value }, alternatives }]);
    };
    const { inputs } = outputOf(this.#graph);
    const carriedOutputs = new Set(this.#graph.carried.map((c) => c.output));
    for (const [input, output] of this.#carried) {
      if (output === input) continue;
      put(
        output,
        (universes.get(input) ?? [REPLICATE]).map((p) => ({ cost: 0, wants: [[input, p], [output, p]], gives: [] })),
      );
    }
    inputs.forEach((value, i) => {
      if (carriedOutputs.has(i) || !this.#planned(value) || this.#isConstant(value)) return;
      put(value, [{ cost: 0, wants: [[value, REPLICATE]], gives: [] }]);
    });
    const merged = items.flatMap((item, i) => [item, ...(behind.get(i) ?? [])]);
    items.splice(0, items.length, ...merged, ...(behind.get(-1) ?? []));
  }

  /** Lets inputs and shared constants enter, each in front of its first reader. */
  #insertEntries(items: Item[], classes: ReadonlyMap<string, SlotClass>): void {
    const entered = new Set<string>(this.#calls.flatMap((c) => c.node.outputs));
    const merged = items.flatMap((item) => {
      const fresh = [...this.#read(item)].filter((v) => classes.has(v) && !entered.has(v));
      fresh.forEach((v) => entered.add(v));
      const entries = fresh.map((value): Item => {
        const cls = classes.get(value)!;
        const choices = cls.kind === "fixed" ? cls.placements : [REPLICATE];
        const alternatives = choices.map((p) => ({ cost: 0, wants: [], gives: [[value, p] as const] }));
        return { source: { kind: "enter", value }, alternatives };
      });
      return [...entries, item];
    });
    items.splice(0, items.length, ...merged);
  }

  #read({ alternatives }: Item): Set<string> {
    return new Set(alternatives.flatMap((a) => a.wants.map(([v]) => v)));
  }

  #class(slots: SlotClasses, value: string, placements: readonly Placement[]): SlotClass {
    const { type } = valueOf(this.#graph, value);
    const bytes = this.#pricing.bytes(type);
    const kind: SlotKind = this.#isConstant(value) ? "constant" : this.#carried.has(value) ? "fixed" : "value";
    if (kind === "constant") {
      return slots.of(kind, placements, [placements.map((p) => this.#pricing.memory(type, p))]);
    }
    return slots.of(
      kind,
      placements,
      placements.map((from) =>
        placements.map((to) => {
          const step = directStep(from, to);
          return step ? this.#pricing.step(step, bytes, to.kind === "S" ? to : from) : Infinity;
        })
      ),
    );
  }

  #step(item: Item, index: number, classes: ReadonlyMap<string, SlotClass>, last: ReadonlyMap<string, number>): Step {
    const inputs = [...this.#read(item)].filter((v) => classes.has(v));
    const outputs = [...new Set(item.alternatives.flatMap((a) => a.gives.map(([v]) => v)))].filter((v) =>
      classes.has(v)
    );
    return {
      inputs,
      outputs: outputs.map((value) => ({ value, cls: classes.get(value)! })),
      dies: new Set([...inputs, ...outputs].filter((v) => (last.get(v) ?? -1) <= index)),
      alternatives: item.alternatives.map(({ cost, wants, gives }): Alternative => ({
        cost,
        wants: inputs.map((v) => {
          const cls = classes.get(v)!;
          return [...new Set(wants.filter(([w]) => w === v).map(([, p]) => cls.indexOf(p)))];
        }),
        outputs: outputs.map((v) => {
          const cls = classes.get(v)!;
          return cls.kind === "constant" ? 0 : cls.setOf([cls.indexOf(gives.find(([w]) => w === v)![1])]);
        }),
      })),
    };
  }
}

/**
 * Brings calls into an order in which few values with many placements are live at once: always the call next that adds
 * least, the earliest of several. The order in which a rank runs them later is another matter.
 */
function narrow(items: Item[], weight: (value: string) => number): void {
  const touched = (item: Item, side: "wants" | "gives") => [...new Set(item.alternatives[0]![side].map(([v]) => v))];
  const reads = items.map((item) => touched(item, "wants")), writes = items.map((item) => touched(item, "gives"));
  const readers = new Map<string, number[]>(), left = new Map<string, number>();
  reads.forEach((values, i) => values.forEach((v) => readers.set(v, [...readers.get(v) ?? [], i])));
  for (const [v, list] of readers) left.set(v, list.length);
  const made = new Set(writes.flat());
  const waits = reads.map((values) => values.filter((v) => made.has(v)).length);
  const live = new Set<string>();
  const ready = new Set(items.flatMap((_, i) => (waits[i] === 0 ? [i] : [])));
  const order: number[] = [];
  while (ready.size > 0) {
    let next = -1, least = Infinity;
    for (const i of ready) {
      let added = 0;
      for (const v of writes[i]!) if (readers.has(v)) added += weight(v);
      for (const v of reads[i]!) {
        if (left.get(v) === 1) added -= live.has(v) ? weight(v) : 0;
        else if (!live.has(v)) added += weight(v);
      }
      if (added < least - 1e-9 || (added < least + 1e-9 && i < next)) [next, least] = [i, added];
    }
    ready.delete(next);
    order.push(next);
    for (const v of reads[next]!) {
      const rest = left.get(v)! - 1;
      left.set(v, rest);
      if (rest > 0) live.add(v);
      else live.delete(v);
    }
    for (const v of writes[next]!) {
      live.add(v);
      for (const r of readers.get(v) ?? []) if (--waits[r]! === 0) ready.add(r);
    }
  }
  items.splice(0, items.length, ...order.map((i) => items[i]!));
}
