/** One step of the search by itself: what can be chosen there, what that makes of the values' sets, and what it bounds. */
import type { SlotClass, Way } from "./slot.ts";

/** One choice at a step. */
export interface Alternative {
  /** Whole picoseconds, without redistribution. */
  readonly cost: number;
  /** Bytes that it makes the rank with the most hold, as long as the model lives. */
  readonly memory: number;
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

/** Of all steps from one on: bytes that they need at least, and may need at most, and the least cost. */
export interface Bounds {
  readonly least: readonly number[];
  readonly most: readonly number[];
  readonly cost: readonly number[];
}

/** The bounds of all steps and of none, in order. */
export function boundsOf(steps: readonly Step[]): Bounds {
  const least = new Array<number>(steps.length + 1).fill(0), most = least.slice(), cost = least.slice();
  steps.forEach(({ alternatives }, i) => {
    const memory = alternatives.map((a) => a.memory);
    least[i] = Math.min(...memory);
    most[i] = Math.max(...memory);
    cost[i] = Math.min(...alternatives.map((a) => a.cost));
  });
  const entered = new Map<string, SlotClass>();
  steps.forEach(({ inputs, outputs, dies }, i) => {
    for (const { value, cls } of outputs) if (cls.kind !== "value") entered.set(value, cls);
    for (const value of inputs) {
      const cls = entered.get(value);
      // A state is placed where it is first read. A shared constant may be loaded in every placement, up to its last reader.
      if (cls?.kind === "fixed") {
        least[i]! += Math.min(...cls.bytes);
        most[i]! += Math.max(...cls.bytes);
        entered.delete(value);
      } else if (cls && dies.has(value)) most[i]! += cls.allBytes;
    }
  });
  for (let i = steps.length - 1; i >= 0; i--) for (const bound of [least, most, cost]) bound[i]! += bound[i + 1]!;
  return { least, most, cost };
}

/** A result of a step. */
export interface Expansion {
  /** Sets of the surviving inputs and outputs. */
  readonly key: string;
  readonly cost: number;
  readonly memory: number;
  readonly decision: Decision;
}

/**
 * All that a step can make of the sets of its inputs; of equal results the cheapest, of those the first. Where memory
 * counts by itself (`exact`), results that differ in it are different.
 */
export function expand(
  step: Step,
  classes: readonly SlotClass[],
  how: { readonly sets: string; readonly weights: { time: number; byte: number }; readonly exact: boolean },
): readonly Expansion[] {
  const best = new Map<string, Expansion>();
  const { sets, exact, weights: { time, byte } } = how;
  const priced = (cost: number, memory: number) => time * cost + (byte === 0 ? 0 : Math.round(byte * memory));
  step.alternatives.forEach((alternative, index) => {
    const outputs = alternative.outputs
      .map((set, i) => (step.dies.has(step.outputs[i]!.value) ? "" : String.fromCharCode(set))).join("");
    choose(0, { cost: priced(alternative.cost, alternative.memory), memory: alternative.memory }, "", []);

    function choose(
      input: number,
      { cost, memory }: { readonly cost: number; readonly memory: number },
      key: string,
      ways: readonly Way[],
    ): void {
      if (input === classes.length) {
        const full = key + outputs, id = exact ? `${full}\n${memory}` : full;
        if (cost < (best.get(id)?.cost ?? Infinity)) {
          best.set(id, { key: full, cost, memory, decision: { alternative: index, ways } });
        }
        return;
      }
      const dies = step.dies.has(step.inputs[input]!);
      for (const way of classes[input]!.ways(sets.charCodeAt(input), alternative.wants[input]!)) {
        const added = { cost: cost + priced(way.cost, way.memory), memory: memory + way.memory };
        choose(input + 1, added, dies ? key : key + String.fromCharCode(way.set), [...ways, way]);
      }
    }
  });
  return [...best.values()];
}
