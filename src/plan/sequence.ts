/**
 * A graph as a sequence of steps with priced alternatives: what the frontier search solves.
 *
 * Beside the calls there are steps for what enters and leaves the graph. They stand where they matter, not at its ends,
 * so that few values are live at once: an input enters in front of its first reader, and a result is demanded behind
 * its last. A carried state takes the placement in which it is first read, for free, and its new value must end in the same
 * one: were its placement chosen where it enters, a layer's keys and values would multiply the states of the search by all that
 * they could be, of which the attention behind them leaves what fits its own.
 */
import { type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { type Placement, placementKey, REPLICATE } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";
import { printType } from "../graph/types.ts";
import { type Pricing, shareOf } from "./cost.ts";
import type { Alternative, Step } from "./step.ts";
import { Memo } from "./memo.ts";
import { narrow, type Touches } from "./narrow.ts";
import type { PlannedCall } from "./places.ts";
import { directStep } from "./redistribute.ts";
import { type SlotClass, SlotClasses, type SlotKind, UNPLACED } from "./slot.ts";
import type { Candidate } from "./strategies.ts";

/** A call with its strategies and their prices in picoseconds. Lists of equal calls are the same objects. */
export interface PricedCall extends PlannedCall {
  readonly candidates: readonly Candidate[];
  readonly compute: readonly number[];
  /** Price of the memory of weights, without those that several calls read. */
  readonly memory: readonly number[];
  /** Bytes of these weights on the rank with the most. */
  readonly held: readonly number[];
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
  /** Where the states that the graph begins end, by their name. */
  readonly begun: ReadonlyMap<string, Placement>;
  /** Bytes that each rank holds whatever is chosen: of constants and states that are not followed. */
  readonly fixedBytes: number;
  /** Sizes at which states are held. */
  readonly stateSizes: Pricing;
}

/** A step before it is known which of its values are followed. */
interface Item extends Touches {
  readonly source: StepSource;
  readonly options: Options;
}

/** The choices at a step, with values by their position in `reads` and `writes`: the same object for equal steps. */
interface Options {
  readonly choices: readonly {
    readonly cost: number;
    /** Bytes on the rank with the most, as long as the model lives. */
    readonly memory: number;
    /** By read: the placements needed, each once. */
    readonly wants: readonly (readonly Placement[])[];
    /** By write: the placement given. */
    readonly gives: readonly Placement[];
  }[];
  /** By read, then by write: all placements, each once, in order of the choices. */
  readonly universes: readonly (readonly Placement[])[];
  /** Alternatives by the classes of the values that are followed. */
  readonly alternatives: Map<string, readonly Alternative[]>;
}

function optionsOf(choices: Options["choices"]): Options {
  const [{ wants, gives }] = choices as readonly [Options["choices"][number]];
  const universes = [
    ...wants.map((_, r) => [...new Set(choices.flatMap((c) => c.wants[r]!))]),
    ...gives.map((_, w) => [...new Set(choices.map((c) => c.gives[w]!))]),
  ];
  return { choices, universes, alternatives: new Map() };
}

/** Buffers of a carried state: one with the present content, one that takes the next. */
const STATE_BUFFERS = 2;

/** Bytes of a state on the rank with the most. */
export function stateBytes(sizes: Pricing, type: TensorType, p: Placement): number {
  return Math.round(STATE_BUFFERS * sizes.bytes(type) * shareOf(p));
}

/** Orders calls, entries and results, and finds out which values have to be followed. */
export class Sequence {
  readonly #graph: Graph;
  readonly #calls: readonly PricedCall[];
  readonly #pricing: Pricing;
  readonly #stateSizes: Pricing;
  readonly #isConstant: (value: string) => boolean;
  readonly #shared: (value: string) => boolean;
  /** Placements of constants that cost no memory. */
  readonly #held: ReadonlyMap<string, readonly Placement[]>;
  /** For each carried placeholder, the value that it becomes: itself, where it stays as it is. */
  readonly #carried = new Map<string, string>();
  /** For each output that begins a state, where it has to end. */
  readonly #begun = new Map<number, Placement>();
  readonly #callOptions = new Memo((_: readonly Candidate[]) =>
    new Memo((_: readonly number[]) => new Map<string, Options>())
  );
  readonly #slots = new SlotClasses();
  readonly #classes = new Map<string, SlotClass>();

  constructor(
    graph: Graph,
    calls: readonly PricedCall[],
    how: {
      readonly pricing: Pricing;
      /** Sizes at which states are held. */
      readonly stateSizes: Pricing;
      readonly isConstant: (value: string) => boolean;
      /** Whether a constant is followed, as several calls read it. */
      readonly shared: (value: string) => boolean;
      /** Where the states that the graph begins have to end. */
      readonly states: ReadonlyMap<string, Placement>;
      /** Placements of constants that cost no memory. */
      readonly held: ReadonlyMap<string, readonly Placement[]>;
    },
  ) {
    this.#graph = graph;
    this.#calls = calls;
    this.#pricing = how.pricing;
    this.#stateSizes = how.stateSizes;
    this.#isConstant = how.isConstant;
    this.#shared = how.shared;
    this.#held = how.held;
    const { inputs } = outputOf(graph);
    for (const { input, output } of graph.carried) {
      if (graph.values.has(input)) this.#carried.set(input, output === undefined ? input : inputs[output]!);
      else if (output !== undefined) this.#begun.set(output, how.states.get(input) ?? REPLICATE);
    }
  }

  /** The steps of the graph. */
  problem(): Problem {
    const calls = this.#calls.map((call) => this.#callItem(call));
    const universes = this.#universes(calls);
    const weight = new Memo((v: string) => (this.#followed(v) ? Math.log(universes.get(v)?.length ?? 1) : 0));
    const withResults = this.#insertResults(narrow(calls, (value) => weight.of(value)), universes);
    const reads = new Set(withResults.flatMap((item) => item.reads));
    for (const [value, universe] of universes) {
      if (universe.length > 1 && reads.has(value) && this.#followed(value)) {
        this.#classes.set(value, this.#class(value, universe));
      }
    }
    const items = this.#insertEntries(withResults);
    const last = new Map<string, number>();
    items.forEach((item, i) => item.reads.forEach((v) => last.set(v, i)));
    return {
      graph: this.#graph,
      calls: this.#calls,
      steps: items.map((item, i) => this.#step(item, i, last)),
      sources: items.map((item) => item.source),
      classes: this.#classes,
      pricing: this.#pricing,
      isConstant: this.#isConstant,
      begun: new Map(this.#graph.carried.flatMap(({ input, output }) => {
        const placement = output === undefined ? undefined : this.#begun.get(output);
        return placement ? [[input, placement] as const] : [];
      })),
      fixedBytes: this.#fixedBytes(),
      stateSizes: this.#stateSizes,
    };
  }

  /** Bytes of what no step loads or enters, and so is whole on every rank. */
  #fixedBytes(): number {
    const read = new Set(this.#calls.flatMap(({ node }) => [...node.inputs, ...(node.captures ?? [])]));
    let bytes = 0;
    for (const name of read) {
      if (!this.#isConstant(name) || this.#classes.has(name) || !this.#shared(name)) continue;
      bytes += this.#pricing.bytes(valueOf(this.#graph, name).type);
    }
    for (const name of this.#carried.keys()) {
      if (!this.#classes.has(name)) bytes += stateBytes(this.#stateSizes, valueOf(this.#graph, name).type, REPLICATE);
    }
    return bytes;
  }

  #callItem(call: PricedCall): Item {
    const { node, candidates, compute, memory, held, shape } = call;
    // Sizes are known to every rank; captures may be sizes, and are always replicated.
    const inputs = node.inputs.map((name, k) => (name === "" || shape.known[k] ? "" : name));
    const captures = (node.captures ?? []).filter((name) => this.#planned(name));
    const reads = [...new Set([...inputs, ...captures])].filter((name) => name !== "");
    const outputs = node.outputs.map((name, k) => (name === "" || shape.known[shape.inputs + k] ? "" : name));
    const writes = outputs.filter((name) => name !== "");
    // Calls of one shape may still differ in which of their inputs are the same value.
    const at = inputs.map((name) => reads.indexOf(name));
    const key = captures.length > 0 ? node.name : at.join();
    const known = this.#callOptions.of(candidates).of(memory);
    let options = known.get(key);
    if (!options) {
      const choices = candidates.map((c, i) => ({
        cost: compute[i]! + memory[i]!,
        memory: held[i]!,
        wants: reads.map((name, r) => [
          ...new Set([
            ...at.flatMap((x, k) => (x === r ? [c.inputs[k]!] : [])),
            ...(captures.includes(name) ? [REPLICATE] : []),
          ]),
        ]),
        gives: outputs.flatMap((name, k) => (name === "" ? [] : [c.outputs[k]!])),
      }));
      known.set(key, options = optionsOf(choices));
    }
    return { source: { kind: "call", call }, reads, writes, options };
  }

  /** Sizes are known to every rank. */
  #planned(value: string): boolean {
    return value !== "" && !valueOf(this.#graph, value).ints;
  }

  /** Constants are loaded as wanted, and not followed but where several calls share one. */
  #followed(value: string): boolean {
    return !this.#isConstant(value) || this.#shared(value);
  }

  /** All placements in which a value may be produced or wanted, replicated first. */
  #universes(items: readonly Item[]): Map<string, Placement[]> {
    const out = new Map<string, Placement[]>();
    const add = (value: string, placements: readonly Placement[]) => {
      let list = out.get(value);
      if (!list) out.set(value, list = [REPLICATE]);
      for (const p of placements) if (!list.includes(p)) list.push(p);
    };
    for (const { reads, writes, options: { universes } } of items) {
      reads.forEach((v, r) => add(v, universes[r]!));
      writes.forEach((v, w) => add(v, universes[reads.length + w]!));
    }
    for (const [input, output] of this.#carried) {
      const states = (out.get(input) ?? [REPLICATE]).filter((p) => p.kind !== "P");
      out.set(input, this.#isConstant(output) || !this.#planned(output) ? [REPLICATE] : states);
      add(output, out.get(input)!);
    }
    for (const [output, placement] of this.#begun) {
      const value = outputOf(this.#graph).inputs[output]!, key = placementKey(placement);
      const known = out.get(value)?.find((p) => placementKey(p) === key);
      if (known) this.#begun.set(output, known);
      else add(value, [placement]);
    }
    return out;
  }

  /** The items, with demands of the graph's results, each behind the last call that has to do with it. */
  #insertResults(items: readonly Item[], universes: ReadonlyMap<string, readonly Placement[]>): Item[] {
    const last = new Map<string, number>();
    items.forEach(({ reads, writes }, i) => {
      for (const v of reads) last.set(v, i);
      for (const v of writes) last.set(v, i);
    });
    const behind = new Map<number, Item[]>();
    const put = (value: string, reads: readonly string[], options: Options) => {
      const at = last.get(value) ?? items.length - 1;
      behind.set(at, [...(behind.get(at) ?? []), { source: { kind: "result", value }, reads, writes: [], options }]);
    };
    const { inputs } = outputOf(this.#graph);
    const carriedOutputs = new Set(this.#graph.carried.flatMap((c) => this.#carried.has(c.input) ? [c.output] : []));
    const ids: Memo<Placement, number> = new Memo(() => ids.size);
    const same = new Map<string, Options>();
    for (const [input, output] of this.#carried) {
      if (output === input) continue;
      const universe = universes.get(input) ?? [REPLICATE], key = universe.map((p) => ids.of(p)).join();
      let options = same.get(key);
      if (!options) {
        same.set(key, options = optionsOf(universe.map((p) => ({ cost: 0, memory: 0, wants: [[p], [p]], gives: [] }))));
      }
      put(output, [input, output], options);
    }
    const demands = new Memo((p: Placement) => optionsOf([{ cost: 0, memory: 0, wants: [[p]], gives: [] }]));
    inputs.forEach((value, i) => {
      if (carriedOutputs.has(i) || !this.#planned(value) || this.#isConstant(value)) return;
      put(value, [value], demands.of(this.#begun.get(i) ?? REPLICATE));
    });
    return [...items.flatMap((item, i) => [item, ...(behind.get(i) ?? [])]), ...(behind.get(-1) ?? [])];
  }

  /** The items, with entries of inputs and shared constants, each in front of its first reader. */
  #insertEntries(items: readonly Item[]): Item[] {
    const entered = new Set<string>(this.#calls.flatMap((c) => c.node.outputs));
    const options = optionsOf([{ cost: 0, memory: 0, wants: [], gives: [REPLICATE] }]);
    return items.flatMap((item) => {
      const fresh = item.reads.filter((v) => this.#classes.has(v) && !entered.has(v));
      if (fresh.length === 0) return [item];
      fresh.forEach((v) => entered.add(v));
      const entries = fresh.map((value): Item => ({
        source: { kind: "enter", value },
        reads: [],
        writes: [value],
        options,
      }));
      return [...entries, item];
    });
  }

  readonly #known = new Map<string, SlotClass>();
  readonly #placementIds: Memo<Placement, number> = new Memo(() => this.#placementIds.size);

  #class(value: string, placements: readonly Placement[]): SlotClass {
    const { type } = valueOf(this.#graph, value);
    const kind: SlotKind = this.#isConstant(value) ? "constant" : this.#carried.has(value) ? "fixed" : "value";
    const held = this.#held.get(value)?.map(placementKey) ?? [];
    const free = placements.map((p) => kind === "constant" && held.includes(placementKey(p)));
    const key = `${kind} ${printType(type)} ${placements.map((p) => this.#placementIds.of(p)).join()} ${free.join()}`;
    let known = this.#known.get(key);
    if (!known) {
      const moves = kind === "constant"
        ? [placements.map((p, i) => free[i] ? 0 : this.#pricing.memory(type, p))]
        : this.#moves(type, placements);
      const bytes = this.#bytes(kind, type, placements).map((n, i) => free[i] ? 0 : n);
      known = this.#slots.of({ kind, placements, moves, bytes });
      this.#known.set(key, known);
    }
    return known;
  }

  /** What constants and states take on the rank with the most; nothing of values that pass. */
  #bytes(kind: SlotKind, type: TensorType, placements: readonly Placement[]): number[] {
    if (kind === "value") return [];
    if (kind === "fixed") return placements.map((p) => stateBytes(this.#stateSizes, type, p));
    return placements.map((p) => Math.round(this.#pricing.bytes(type) * shareOf(p)));
  }

  /** Prices of moves between placements. */
  #moves(type: TensorType, placements: readonly Placement[]): number[][] {
    const bytes = this.#pricing.bytes(type);
    return placements.map((from) =>
      placements.map((to) => {
        const step = directStep(from, to);
        return step ? this.#pricing.step(step, bytes, to.kind === "S" ? to : from) : Infinity;
      })
    );
  }

  #step({ reads, writes, options }: Item, index: number, last: ReadonlyMap<string, number>): Step {
    let key = "";
    const inputs: string[] = [], outputs: { value: string; cls: SlotClass }[] = [], dies = new Set<string>();
    const follow = (value: string) => {
      const cls = this.#classes.get(value);
      key += `${cls?.id ?? ""},`;
      if (cls && (last.get(value) ?? -1) <= index) dies.add(value);
      return cls;
    };
    for (const value of reads) if (follow(value)) inputs.push(value);
    for (const value of writes) {
      const cls = follow(value);
      if (cls) outputs.push({ value, cls });
    }
    let alternatives = options.alternatives.get(key);
    if (!alternatives) options.alternatives.set(key, alternatives = this.#alternatives(reads, writes, options));
    return { inputs, outputs, dies, alternatives };
  }

  #alternatives(reads: readonly string[], writes: readonly string[], { choices }: Options): Alternative[] {
    return choices.map(({ cost, memory, wants, gives }) => ({
      cost,
      memory,
      wants: reads.flatMap((v, r) => {
        const cls = this.#classes.get(v);
        return cls ? [wants[r]!.map((p) => cls.indexOf(p))] : [];
      }),
      outputs: writes.flatMap((v, w) => {
        const cls = this.#classes.get(v);
        return cls ? [cls.kind === "value" ? cls.setOf([cls.indexOf(gives[w]!)]) : UNPLACED] : [];
      }),
    }));
  }
}
