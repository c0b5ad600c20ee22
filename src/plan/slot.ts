/**
 * What the search keeps of one live value: the set of placements in which it exists already, and what each further
 * placement would cost.
 */
import { type Placement, placementKey } from "../graph/placement.ts";

/**
 * `value`: redistributed at need. `fixed`: a carried state, which enters in no placement, gets one for free where it is first
 * read, and keeps it. `constant`: data of the model, loaded in any placement for the price of the memory.
 */
export type SlotKind = "value" | "fixed" | "constant";

/** One way to have a placement: its price, the set of placements afterwards, and the moves (indices of placements). */
export interface Way {
  readonly cost: number;
  /** Bytes that the rank with the most holds for it as long as the model lives: of constants and states. */
  readonly memory: number;
  readonly set: number;
  readonly moves: readonly (readonly [from: number, to: number])[];
}

/** The number of the set without placements, of all classes: in it constants and states enter. */
export const UNPLACED = 0;

/** What makes slots alike. */
export interface SlotSpec {
  readonly kind: SlotKind;
  /** Replicated first. */
  readonly placements: readonly Placement[];
  /** Prices of single moves, `[from][to]`; Infinity where there is none. For constants, `[0][to]` is the price of loading. */
  readonly moves: readonly (readonly number[])[];
  /** By placement, of constants and states: bytes on the rank with the most. */
  readonly bytes: readonly number[];
}

/** All that slots of one class share. Sets of placements are numbers, so that states are short strings. */
export class SlotClass {
  readonly id: number;
  readonly kind: SlotKind;
  /** Replicated first. */
  readonly placements: readonly Placement[];
  /** Prices of single moves, `[from][to]`; Infinity where there is none. For constants, `[0][to]` is the price of loading. */
  readonly #moves: readonly (readonly number[])[];
  /** Bytes that a rank holds for each placement; of constants and states only. */
  readonly bytes: readonly number[];
  readonly #sets: (readonly number[])[] = [[]];
  readonly #setIds = new Map<string, number>([["", 0]]);
  readonly #ways = new Map<number, readonly Way[]>();
  readonly #conversions = new Map<number, number>();

  constructor(id: number, { kind, placements, moves, bytes }: SlotSpec) {
    this.id = id;
    this.kind = kind;
    this.placements = placements;
    this.#moves = moves;
    this.bytes = bytes;
  }

  /** Bytes of all placements together: what a constant needs that is wanted in every one. */
  get allBytes(): number {
    return this.bytes.reduce((a, b) => a + b, 0);
  }

  /** The index of a placement. */
  indexOf(p: Placement): number {
    const at = this.placements.indexOf(p);
    if (at >= 0) return at;
    const key = placementKey(p);
    return this.placements.findIndex((x) => placementKey(x) === key);
  }

  /** Whether the replicated placement is in a set, or to be had for nothing but memory. */
  mayReplicate(set: number): boolean {
    return this.kind === "constant" || (this.kind === "fixed" && set === UNPLACED) || this.#sets[set]!.includes(0);
  }

  /** The placements of a set. */
  placementsOf(set: number): readonly Placement[] {
    return this.#sets[set]!.map((i) => this.placements[i]!);
  }

  /** The number of a set of placements. */
  setOf(placements: readonly number[]): number {
    const sorted = [...new Set(placements)].toSorted((a, b) => a - b);
    const key = sorted.join();
    const known = this.#setIds.get(key);
    if (known !== undefined) return known;
    this.#sets.push(sorted);
    this.#setIds.set(key, this.#sets.length - 1);
    return this.#sets.length - 1;
  }

  /**
   * The ways to have all of `wants` from a set, in every order. A way may leave R behind, which costs more now and may
   * save more later, so the search looks at each.
   */
  ways(set: number, wants: readonly number[]): readonly Way[] {
    if (wants.length === 0) return [{ cost: 0, memory: 0, set, moves: [] }];
    if (wants.length === 1) return this.#reach(set, wants[0]!);
    const best = new Map<number, Way>();
    for (const first of wants) {
      for (const a of this.#reach(set, first)) {
        for (const b of this.ways(a.set, wants.filter((w) => w !== first))) {
          const cost = a.cost + b.cost;
          if (cost < (best.get(b.set)?.cost ?? Infinity)) {
            best.set(b.set, { cost, memory: a.memory + b.memory, set: b.set, moves: [...a.moves, ...b.moves] });
          }
        }
      }
    }
    return [...best.values()];
  }

  /** What it costs at most to turn set `a` into one that holds set `b`; Infinity where that is not allowed. */
  conversion(a: number, b: number): number {
    if (a === b) return 0;
    const key = a * 65536 + b;
    const known = this.#conversions.get(key);
    if (known !== undefined) return known;
    let cost = 0, at = a;
    if (this.kind === "fixed") cost = Infinity;
    else {
      for (const p of this.#sets[b]!) {
        const [way] = this.#reach(at, p);
        if (!way) {
          cost = Infinity;
          break;
        }
        cost += way.cost;
        at = way.set;
      }
    }
    this.#conversions.set(key, cost);
    return cost;
  }

  #reach(set: number, target: number): readonly Way[] {
    const key = set * 65536 + target;
    let ways = this.#ways.get(key);
    if (!ways) this.#ways.set(key, ways = this.#findWays(set, target));
    return ways;
  }

  #findWays(set: number, target: number): readonly Way[] {
    const members = this.#sets[set]!;
    if (members.includes(target)) return [{ cost: 0, memory: 0, set, moves: [] }];
    if (this.kind === "fixed") {
      return set === UNPLACED ? [{ cost: 0, memory: this.bytes[target]!, set: this.setOf([target]), moves: [] }] : [];
    }
    if (this.kind === "constant") {
      const set = this.setOf([...members, target]);
      return [{ cost: this.#moves[0]![target]!, memory: this.bytes[target]!, set, moves: [] }];
    }
    const direct = this.#cheapest(members, target);
    const out: Way[] = direct
      ? [{ cost: direct.cost, memory: 0, set: this.setOf([...members, target]), moves: [direct.move] }]
      : [];
    if (target !== 0 && !members.includes(0)) {
      const first = this.#cheapest(members, 0);
      const second = this.#moves[0]![target]!;
      if (first && second < Infinity) {
        const cost = first.cost + second;
        if (direct && cost <= direct.cost) out.pop();
        const after = this.setOf([...members, 0, target]);
        out.push({ cost, memory: 0, set: after, moves: [first.move, [0, target]] });
      }
    }
    return out;
  }

  #cheapest(members: readonly number[], target: number): { cost: number; move: readonly [number, number] } | undefined {
    let best: { cost: number; move: readonly [number, number] } | undefined;
    for (const from of members) {
      const cost = this.#moves[from]![target]!;
      if (cost < (best?.cost ?? Infinity)) best = { cost, move: [from, target] };
    }
    return best;
  }
}

/** Makes slot classes; equal ones are the same object. */
export class SlotClasses {
  readonly #known = new Map<string, SlotClass>();

  /** The class of slots like this one. */
  of(spec: SlotSpec): SlotClass {
    const { kind, placements, moves, bytes } = spec;
    const key = `${kind};${placements.map(placementKey).join()};${
      moves.map((row) => row.join()).join(";")
    };${bytes.join()}`;
    let known = this.#known.get(key);
    if (!known) this.#known.set(key, known = new SlotClass(this.#known.size, spec));
    return known;
  }
}
