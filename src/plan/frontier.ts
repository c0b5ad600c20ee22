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
import type { SlotClass, Way } from "./slot.ts";

/** One choice at a step. */
export interface Alternative {
  /** Whole picoseconds, without redistribution. */
  readonly cost: number;
  /** For each input of the step, the placements that it needs. */
  readonly wants: readonly (readonly number[])[];
  /** For each output of the step, the set in which it starts. */
  readonly outputs: readonly number[];
}

/** A step of the program: a call, the entry of an input, or a demand of the graph's results. */
export interface Step {
  readonly inputs: readonly string[];
  readonly outputs: readonly { readonly value: string; readonly cls: SlotClass }[];
  /** Inputs and outputs that nothing later reads. */
  readonly dies: ReadonlySet<string>;
  /** The first of equally cheap ones wins. */
  readonly alternatives: readonly Alternative[];
}

/** What a state's way through a step was. */
export interface Decision {
  /** Index of the alternative. */
  readonly alternative: number;
  /** How each input got its placements. */
  readonly ways: readonly Way[];
}

interface Frontier {
  readonly id: number;
  readonly classes: readonly SlotClass[];
  /** One character a slot: the number of its set. */
  readonly states: readonly string[];
  /** Above the cheapest, ascending. */
  readonly costs: readonly number[];
}

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
  /** Whole picoseconds. */
  readonly cost: number;
  /** By step. */
  readonly decisions: readonly Decision[];
  /** How far the cost may be above the optimum: 0 unless states were dropped for want of room. */
  readonly gap: number;
}

/** How many of the cheapest states are tried as replacements of a dearer one. */
const DOMINATORS = 24;

/** Solves one sequence of steps, and variants of it. */
export class FrontierSearch {
  readonly #steps: readonly Step[];
  readonly #maxStates: number;
  readonly #frontiers = new Map<string, Frontier>();
  readonly #transitions = new Map<string, Transition | undefined>();
  readonly #stepIds = new Map<string, number>();
  /** The texts of lists of alternatives; equal calls share a list. */
  readonly #choices = new Memo((alternatives: readonly Alternative[]) =>
    alternatives.map((a) => `${a.cost}:${a.wants.map((w) => w.join("+")).join()}:${a.outputs.join()}`).join("|")
  );
  readonly #start: Frontier;
  #path: { readonly frontiers: Frontier[]; readonly transitions: Transition[]; readonly slots: string[][] } | undefined;
  #most = 0;

  constructor(steps: readonly Step[], maxStates: number) {
    this.#steps = steps;
    this.#maxStates = maxStates;
    this.#start = this.#frontier([], [""], [0]);
  }

  /** The most states that a frontier had. */
  get mostStates(): number {
    return this.#most;
  }

  /** The cheapest way through all steps; undefined where there is none. */
  solve(): Solution | undefined {
    const path = this.#solvePath();
    if (!path) return undefined;
    const decisions = new Array<Decision>(this.#steps.length);
    let state = 0;
    for (let i = this.#steps.length - 1; i >= 0; i--) {
      const t = path.transitions[i]!;
      decisions[i] = t.decisions[state]!;
      state = t.previous[state]!;
    }
    let cost = 0, bound = Infinity;
    for (const t of path.transitions) {
      cost += t.delta;
      bound = Math.min(bound, cost + t.dropped);
    }
    return { cost, decisions, gap: Math.max(0, cost - bound) };
  }

  /**
   * The least cost when step `index` may use only some of its alternatives; Infinity where that is impossible. Shares
   * the work of {@linkcode solve}: it ends where the frontier is again the one of the free search.
   */
  costWith(index: number, allowed: (alternative: number) => boolean): number {
    const path = this.#solvePath();
    if (!path) return Infinity;
    const step = this.#steps[index]!;
    const restricted = { ...step, alternatives: step.alternatives.filter((_, i) => allowed(i)) };
    let cost = path.transitions.slice(0, index).reduce((sum, t) => sum + t.delta, 0);
    let frontier = path.frontiers[index]!;
    for (let i = index; i < this.#steps.length; i++) {
      if (i > index && frontier === path.frontiers[i]) {
        return path.transitions.slice(i).reduce((sum, t) => sum + t.delta, cost);
      }
      const t = this.#transition(frontier, i === index ? restricted : this.#steps[i]!, path.slots[i]!);
      if (!t) return Infinity;
      cost += t.delta;
      frontier = t.next;
    }
    return cost;
  }

  #solvePath() {
    if (this.#path) return this.#path;
    const frontiers = [this.#start], transitions: Transition[] = [], slots: string[][] = [[]];
    for (const step of this.#steps) {
      const names = slots.at(-1)!;
      const t = this.#transition(frontiers.at(-1)!, step, names);
      if (!t) return undefined;
      transitions.push(t);
      frontiers.push(t.next);
      slots.push([
        ...names.filter((n) => !step.inputs.includes(n)),
        ...step.inputs.filter((n) => !step.dies.has(n)),
        ...step.outputs.map((o) => o.value).filter((n) => !step.dies.has(n)),
      ]);
    }
    return this.#path = { frontiers, transitions, slots };
  }

  #transition(frontier: Frontier, step: Step, slots: readonly string[]): Transition | undefined {
    const positions = step.inputs.map((n) => slots.indexOf(n));
    const key = `${frontier.id}/${this.#stepId(step)}/${positions.join()}`;
    if (!this.#transitions.has(key)) this.#transitions.set(key, this.#advance(frontier, step, positions));
    return this.#transitions.get(key);
  }

  #advance(frontier: Frontier, step: Step, positions: readonly number[]): Transition | undefined {
    const untouched = frontier.classes.map((_, i) => i).filter((i) => !positions.includes(i));
    const touched = positions.map((p) => frontier.classes[p]!);
    const expansions = new Map<string, readonly Expansion[]>();
    const best = new Map<string, { cost: number; from: number; decision: Decision }>();
    frontier.states.forEach((state, from) => {
      let sets = "", rest = "";
      for (const p of positions) sets += state[p];
      for (const p of untouched) rest += state[p];
      let list = expansions.get(sets);
      if (!list) expansions.set(sets, list = expand(step, touched, sets));
      for (const { key, cost, decision } of list) {
        const total = frontier.costs[from]! + cost;
        const known = best.get(rest + key);
        if (known === undefined) best.set(rest + key, { cost: total, from, decision });
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
    const sorted = [...best].sort(([a, x], [b, y]) => x.cost - y.cost || (a < b ? -1 : 1));
    const kept = this.#dropDominated(sorted.map(([state, { cost }]) => ({ state, cost })), classes);
    const dropped = kept.length > this.#maxStates ? kept[this.#maxStates]! : undefined;
    const final = kept.slice(0, this.#maxStates).map((i) => sorted[i]!);
    // Where room is short, the state in which everything is replicated stays: from there all steps are possible.
    const safe = dropped === undefined ? -1 : kept.findIndex((i) => isSafe(sorted[i]![0], classes));
    if (safe >= this.#maxStates) final.push(sorted[kept[safe]!]!);
    this.#most = Math.max(this.#most, final.length);
    const delta = final[0]![1].cost;
    return {
      next: this.#frontier(classes, final.map(([s]) => s), final.map(([, { cost }]) => cost - delta)),
      delta,
      previous: final.map(([, { from }]) => from),
      decisions: final.map(([, { decision }]) => decision),
      dropped: dropped === undefined ? Infinity : sorted[dropped]![1].cost - delta,
    };
  }

  /** Indices of the states that no cheaper one can become for the difference. */
  #dropDominated(states: readonly { state: string; cost: number }[], classes: readonly SlotClass[]): number[] {
    const kept: number[] = [];
    // States rarely replace each other across carried placements or loaded weights: these have no price, or a high one.
    const fixed = classes.flatMap((c, i) => (c.kind === "value" ? [] : [i]));
    const groups = new Map<string, number[]>();
    states.forEach(({ state, cost }, index) => {
      const key = fixed.map((i) => state[i]).join("");
      let rivals = groups.get(key);
      if (!rivals) groups.set(key, rivals = []);
      for (let k = 0; k < rivals.length && k < DOMINATORS; k++) {
        const a = states[rivals[k]!]!;
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

  #frontier(classes: readonly SlotClass[], states: readonly string[], costs: readonly number[]): Frontier {
    const key = `${classes.map((c) => c.id).join()};${states.map((s, i) => `${s}${costs[i]}`).join("\uffff")}`;
    let known = this.#frontiers.get(key);
    if (!known) this.#frontiers.set(key, known = { id: this.#frontiers.size, classes, states, costs });
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

/** Whether every value of a state exists replicated. */
function isSafe(state: string, classes: readonly SlotClass[]): boolean {
  return classes.every((c, i) => c.kind === "constant" || c.holdsReplicated(state.charCodeAt(i)));
}

interface Expansion {
  /** Sets of the surviving inputs and outputs. */
  readonly key: string;
  readonly cost: number;
  readonly decision: Decision;
}

/** All that a step can make of the sets of its inputs; of equal results the cheapest, of those the first. */
function expand(step: Step, classes: readonly SlotClass[], sets: string): readonly Expansion[] {
  const best = new Map<string, Expansion>();
  step.alternatives.forEach((alternative, index) => {
    const outputs = alternative.outputs
      .map((set, i) => (step.dies.has(step.outputs[i]!.value) ? "" : String.fromCharCode(set))).join("");
    choose(0, alternative.cost, "", []);

    function choose(input: number, cost: number, key: string, ways: readonly Way[]): void {
      if (input === classes.length) {
        const full = key + outputs;
        if (cost < (best.get(full)?.cost ?? Infinity)) {
          best.set(full, { key: full, cost, decision: { alternative: index, ways } });
        }
        return;
      }
      const dies = step.dies.has(step.inputs[input]!);
      for (const way of classes[input]!.ways(sets.charCodeAt(input), alternative.wants[input]!)) {
        choose(input + 1, cost + way.cost, dies ? key : key + String.fromCharCode(way.set), [...ways, way]);
      }
    }
  });
  return [...best.values()];
}
