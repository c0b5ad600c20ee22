/**
 * The exact dynamic program over the frontier.
 *
 * Steps are taken in order. A state says for each live value in which placements it exists; equal states are merged,
 * keeping the cheapest. A state is dropped when another, cheaper one can be turned into it for no more than the
 * difference: it can then do whatever the first can do, so nothing is lost.
 *
 * A frontier is all states between two steps, with costs relative to the cheapest. Frontiers and steps are interned,
 * and a transition is computed once: in a model of equal blocks the frontier soon repeats itself, and every further
 * block is a look-up.
 */
import { Memo } from "./memo.ts";
import type { SlotClass } from "./slot.ts";
import { type Alternative, type Bounds, boundsOf, type Decision, expand, type Expansion, type Step } from "./step.ts";

/** All states between two steps. */
export interface Frontier {
  readonly id: number;
  readonly classes: readonly SlotClass[];
  /** One character a slot: the number of its set. */
  readonly states: readonly string[];
  /** Above the cheapest, ascending. */
  readonly costs: readonly number[];
  /** Bytes so far, by state, under a budget; {@linkcode FITS} where the rest fits whatever is chosen. */
  readonly memory: readonly number[] | undefined;
}

/** The memory of states that no further choice can bring over the budget. */
const FITS = -1;

interface Transition {
  readonly next: Frontier;
  /** Cost of the cheapest state after the step, above the cheapest before it. */
  readonly delta: number;
  /** For each state of `next`, the state that it came from. */
  readonly previous: readonly number[];
  readonly decisions: readonly Decision[];
  /** The least cost of a state that was dropped for want of room, above the cheapest of `next`. */
  readonly dropped: number;
}

/** A way through all steps. */
export interface Solution {
  /** Whole picoseconds; with a price of memory, that included. */
  readonly cost: number;
  /** By step. */
  readonly decisions: readonly Decision[];
  /** How far the cost may be above the optimum: 0 unless states were dropped for want of room. */
  readonly gap: number;
}

/** Where the cheapest way passes, by step. */
export interface Trace {
  /** All states; equal frontiers are the same object. */
  readonly frontiers: readonly Frontier[];
  /** Names of the values that live, in the order of the frontier. */
  readonly slots: readonly (readonly string[])[];
  /** Cost of the cheapest state. */
  readonly spent: readonly number[];
  /** Index of the state in the frontier. */
  readonly states: readonly number[];
}

/** How a search weighs and bounds what it finds. */
export interface SearchLimits {
  /** Most states that are kept at a time. */
  readonly maxStates: number;
  /** Weight of the alternatives' costs, and of a byte of their memory, in what is minimised: `{ time: 1, byte: 0 }`. */
  readonly weights?: { readonly time: number; readonly byte: number };
  /** Ways that need more bytes, or cost more, are none. Memory is then a part of each state, and the result exact. */
  readonly budget?: { readonly bytes: number; readonly cost: number };
}

/** How many of the cheapest states are tried as replacements of a dearer one. */
const DOMINATORS = 24;

/** Solves one sequence of steps, and variants of it. */
export class FrontierSearch {
  readonly #steps: readonly Step[];
  readonly #limits: SearchLimits;
  readonly #weights: { readonly time: number; readonly byte: number };
  readonly #bounds: Bounds | undefined;
  readonly #frontiers = new Map<string, Frontier>();
  readonly #transitions = new Map<string, Transition | undefined>();
  readonly #stepIds = new Map<string, number>();
  /** The texts of lists of alternatives; equal calls share a list. */
  readonly #choices = new Memo((alternatives: readonly Alternative[]) =>
    alternatives.map((a) => `${a.cost}:${a.memory}:${a.wants.map((w) => w.join("+")).join()}:${a.outputs.join()}`)
      .join("|")
  );
  readonly #start: Frontier;
  #path:
    | {
      readonly frontiers: readonly Frontier[];
      readonly transitions: readonly Transition[];
      readonly slots: readonly (readonly string[])[];
      /** Cost before each step, and of all. */
      readonly spent: readonly number[];
    }
    | undefined;
  #most = 0;

  constructor(steps: readonly Step[], limits: SearchLimits) {
    this.#steps = steps;
    this.#limits = limits;
    this.#weights = limits.weights ?? { time: 1, byte: 0 };
    this.#bounds = limits.budget && boundsOf(steps);
    this.#start = this.#frontier([], { states: [""], costs: [0], memory: limits.budget ? [0] : undefined });
  }

  /** The most states that a frontier had. */
  get mostStates(): number {
    return this.#most;
  }

  /** The cheapest way through all steps; undefined where there is none. */
  solve(): Solution | undefined {
    const path = this.#solvePath();
    return path && readPath(path.transitions);
  }

  /**
   * The cheapest way when step `index` may use only some of its alternatives; undefined where that is impossible. Shares
   * the work of {@linkcode solve}: it ends where the frontier is again the one of the free search.
   */
  solveWith(index: number, allowed: (alternative: number) => boolean): Solution | undefined {
    const path = this.#solvePath(), varied = path && this.#vary(index, allowed);
    if (!varied) return undefined;
    const { from, kept, transitions } = varied;
    const all = [...path.transitions.slice(0, index), ...transitions, ...path.transitions.slice(from)];
    const { decisions, ...rest } = readPath(all);
    const own = decisions[index]!;
    return { ...rest, decisions: decisions.with(index, { ...own, alternative: kept[own.alternative]! }) };
  }

  /** Where the cheapest way passes, before each step and at the end; undefined where there is none. */
  trace(): Trace | undefined {
    const path = this.#solvePath();
    if (!path) return undefined;
    const states = new Array<number>(path.frontiers.length).fill(0);
    for (let i = path.transitions.length - 1; i >= 0; i--) states[i] = path.transitions[i]!.previous[states[i + 1]!]!;
    return { frontiers: path.frontiers, slots: path.slots, spent: path.spent, states };
  }

  /** The cost of {@linkcode solveWith}; Infinity where that is impossible. */
  costWith(index: number, allowed: (alternative: number) => boolean): number {
    const path = this.#solvePath(), varied = path && this.#vary(index, allowed);
    if (!varied) return Infinity;
    const { spent } = path;
    return varied.transitions.reduce((sum, t) => sum + t.delta, spent[index]!) + spent.at(-1)! - spent[varied.from]!;
  }

  /** The transitions from step `index` on that a restriction of it changes; from step `from` on they are those of the path. */
  #vary(index: number, allowed: (alternative: number) => boolean) {
    const path = this.#path!, { alternatives } = this.#steps[index]!;
    const kept = alternatives.flatMap((_, i) => (allowed(i) ? [i] : []));
    const restricted = { ...this.#steps[index]!, alternatives: kept.map((i) => alternatives[i]!) };
    const transitions: Transition[] = [];
    let frontier = path.frontiers[index]!, spent = path.spent[index]!, from = index;
    for (; from < this.#steps.length; from++) {
      if (from > index && frontier === path.frontiers[from]) break;
      const step = from === index ? restricted : this.#steps[from]!;
      const t = this.#transition(frontier, { step, index: from, spent }, path.slots[from]!);
      if (!t) return undefined;
      spent += t.delta;
      transitions.push(t);
      frontier = t.next;
    }
    return { from, kept, transitions };
  }

  #solvePath() {
    if (this.#path) return this.#path;
    const frontiers = [this.#start], transitions: Transition[] = [], slots: string[][] = [[]];
    const spent = [0];
    for (const [index, step] of this.#steps.entries()) {
      const names = slots.at(-1)!;
      const t = this.#transition(frontiers.at(-1)!, { step, index, spent: spent.at(-1)! }, names);
      if (!t) return undefined;
      spent.push(spent.at(-1)! + t.delta);
      transitions.push(t);
      frontiers.push(t.next);
      slots.push([
        ...names.filter((n) => !step.inputs.includes(n)),
        ...step.inputs.filter((n) => !step.dies.has(n)),
        ...step.outputs.map((o) => o.value).filter((n) => !step.dies.has(n)),
      ]);
    }
    return this.#path = { frontiers, transitions, slots, spent };
  }

  #transition(frontier: Frontier, at: At, slots: readonly string[]): Transition | undefined {
    const positions = at.step.inputs.map((n) => slots.indexOf(n));
    // Under a budget it matters what came before and what is still to come.
    const place = this.#bounds ? `${at.index}@${at.spent}` : "";
    const key = `${frontier.id}/${this.#stepId(at.step)}/${positions.join()}/${place}`;
    if (!this.#transitions.has(key)) this.#transitions.set(key, this.#advance(frontier, at, positions));
    return this.#transitions.get(key);
  }

  #advance(frontier: Frontier, { step, index, spent }: At, positions: readonly number[]): Transition | undefined {
    const untouched = frontier.classes.map((_, i) => i).filter((i) => !positions.includes(i));
    const touched = positions.map((p) => frontier.classes[p]!);
    const expansions = new Map<string, readonly Expansion[]>();
    const best = new Map<string, Reached>();
    frontier.states.forEach((state, from) => {
      let sets = "", rest = "";
      for (const p of positions) sets += state[p];
      for (const p of untouched) rest += state[p];
      let list = expansions.get(sets);
      if (!list) {
        expansions.set(sets, list = expand(step, touched, { sets, weights: this.#weights, exact: !!this.#bounds }));
      }
      for (const { key, cost, memory: added, decision } of list) {
        const total = frontier.costs[from]! + cost;
        const memory = this.#bounds && this.#memoryAfter(frontier.memory![from]!, added, index);
        if (memory === undefined && this.#bounds) continue;
        if (this.#bounds && spent + total + this.#bounds.cost[index + 1]! > this.#limits.budget!.cost) continue;
        const id = memory === undefined ? rest + key : `${rest}${key}\n${memory}`;
        const known = best.get(id);
        if (known === undefined) best.set(id, { state: rest + key, cost: total, from, decision, memory });
        else if (total < known.cost) {
          known.cost = total;
          known.from = from;
          known.decision = decision;
        }
      }
    });
    if (best.size === 0) return undefined;
    const classes = [
      ...untouched.map((i) => frontier.classes[i]!),
      ...touched.filter((_, i) => !step.dies.has(step.inputs[i]!)),
      ...step.outputs.filter((o) => !step.dies.has(o.value)).map((o) => o.cls),
    ];
    const sorted = [...best.values()].sort((a, b) =>
      a.cost - b.cost || (a.memory ?? 0) - (b.memory ?? 0) || (a.state < b.state ? -1 : 1)
    );
    const kept = this.#dropDominated(sorted, classes);
    const { maxStates } = this.#limits;
    const dropped = kept.length > maxStates ? kept[maxStates]! : undefined;
    const final = kept.slice(0, maxStates).map((i) => sorted[i]!);
    // Where room is short, the state in which everything is replicated stays: from there all steps are possible.
    const safe = dropped === undefined ? -1 : kept.findIndex((i) => isSafe(sorted[i]!.state, classes));
    if (safe >= maxStates) final.push(sorted[kept[safe]!]!);
    this.#most = Math.max(this.#most, final.length);
    const delta = final[0]!.cost;
    return {
      next: this.#frontier(classes, {
        states: final.map((s) => s.state),
        costs: final.map((s) => s.cost - delta),
        memory: this.#bounds && final.map((s) => s.memory!),
      }),
      delta,
      previous: final.map((s) => s.from),
      decisions: final.map((s) => s.decision),
      dropped: dropped === undefined ? Infinity : sorted[dropped]!.cost - delta,
    };
  }

  /** Bytes after a step; undefined where the budget cannot be kept any more. */
  #memoryAfter(before: number, added: number, index: number): number | undefined {
    if (before === FITS) return FITS;
    const { bytes } = this.#limits.budget!, { least, most } = this.#bounds!;
    const now = before + added;
    return now + most[index + 1]! <= bytes ? FITS : now + least[index + 1]! <= bytes ? now : undefined;
  }

  /** Indices of the states that no cheaper one can become for the difference. */
  #dropDominated(states: readonly Reached[], classes: readonly SlotClass[]): number[] {
    const kept: number[] = [];
    // States rarely replace each other across carried placements or loaded weights: these have no price, or a high one.
    const fixed = classes.flatMap((c, i) => (c.kind === "value" ? [] : [i]));
    const groups = new Map<string, number[]>();
    states.forEach(({ state, cost, memory = 0 }, index) => {
      const key = fixed.map((i) => state[i]).join("");
      let rivals = groups.get(key);
      if (!rivals) groups.set(key, rivals = []);
      for (let k = 0; k < rivals.length && k < DOMINATORS; k++) {
        const a = states[rivals[k]!]!;
        if ((a.memory ?? 0) > memory) continue;
        let left = cost - a.cost;
        for (let s = 0; s < classes.length && left >= 0; s++) {
          const x = a.state.charCodeAt(s), y = state.charCodeAt(s);
          if (x !== y) left -= classes[s]!.conversion(x, y);
        }
        if (left >= 0) return;
      }
      rivals.push(index);
      kept.push(index);
    });
    return kept;
  }

  #frontier(classes: readonly SlotClass[], found: Pick<Frontier, "states" | "costs" | "memory">): Frontier {
    const { states, costs, memory } = found;
    const texts = states.map((s, i) => `${s}${costs[i]}${memory ? `/${memory[i]}` : ""}`);
    const key = `${classes.map((c) => c.id).join()};${texts.join("\uffff")}`;
    let known = this.#frontiers.get(key);
    if (!known) this.#frontiers.set(key, known = { id: this.#frontiers.size, classes, ...found });
    return known;
  }

  /** Steps that do the same to their slots have the same number. */
  #stepId(step: Step): number {
    const fate = (name: string) => (step.dies.has(name) ? "x" : "");
    const inputs = step.inputs.map(fate).join();
    const outputs = step.outputs.map((o) => `${o.cls.id}${fate(o.value)}`).join();
    const key = `${inputs};${outputs};${this.#choices.of(step.alternatives)}`;
    const known = this.#stepIds.get(key);
    if (known !== undefined) return known;
    this.#stepIds.set(key, this.#stepIds.size);
    return this.#stepIds.size - 1;
  }
}

/** Whether every value of a state exists replicated, or can. */
function isSafe(state: string, classes: readonly SlotClass[]): boolean {
  return classes.every((c, i) => c.mayReplicate(state.charCodeAt(i)));
}

/** A step and its place. */
interface At {
  readonly step: Step;
  readonly index: number;
  /** Cost of the cheapest state before it. */
  readonly spent: number;
}

/** A state that a step leads to, with the cheapest way there. */
interface Reached {
  readonly state: string;
  /** Bytes, under a budget. */
  readonly memory: number | undefined;
  cost: number;
  from: number;
  decision: Decision;
}

/** The way through a row of transitions that ends in the cheapest state. */
function readPath(transitions: readonly Transition[]): Solution {
  const decisions = new Array<Decision>(transitions.length);
  let state = 0;
  for (let i = transitions.length - 1; i >= 0; i--) {
    const t = transitions[i]!;
    decisions[i] = t.decisions[state]!;
    state = t.previous[state]!;
  }
  let cost = 0, bound = Infinity;
  for (const t of transitions) {
    cost += t.delta;
    bound = Math.min(bound, cost + t.dropped);
  }
  return { cost, decisions, gap: Math.max(0, cost - bound) };
}
