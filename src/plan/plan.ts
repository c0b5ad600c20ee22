/**
 * A plan: a placement for every value of a graph, the strategy of every call, and the reshards between them.
 *
 * A plan is data. The search makes one, users read, override and store them, and passes only carry them out.
 */
import type { Placement } from "../graph/placement.ts";

/** One candidate for one call: the placements that it wants of its inputs and gives to its outputs. */
export interface Strategy {
  /** By input position; replicated for inputs that are left out. */
  readonly inputs: readonly Placement[];
  /** By output position. */
  readonly outputs: readonly Placement[];
  /** The factors that are sharded, as texts and explanations name them: `n`, `k`, `h`; `-` when replicated. */
  readonly name: string;
}

/** A change of placement of one value, before the node that needs it. Later nodes may use the result too. */
export interface Reshard {
  /** Name of the node in front of which it happens. */
  readonly before: string;
  /** Name of the value that moves. */
  readonly value: string;
  /** A placement in which it exists before. */
  readonly from: Placement;
  /** The placement that is wanted. */
  readonly to: Placement;
}

/** What a plan costs on the slowest rank, for one step at the nominal sizes. */
export interface PlanCost {
  /** Seconds of arithmetic and memory traffic. */
  readonly compute: number;
  /** Seconds of collectives; those that do not wait for each other share a barrier. */
  readonly communication: number;
  /** Bytes of weights that the rank with the most holds. */
  readonly weightBytes: number;
  /** All that this rank holds. */
  readonly memory: PlanMemory;
  /** What the search minimised: seconds, with a barrier for each collective, plus the price of the weights' memory. */
  readonly total: number;
}

/** Bytes on the rank with the most. */
export interface PlanMemory {
  /** Every constant, once for each placement in which it is used. */
  readonly weights: number;
  /** Carried states (KV caches), present and next content. */
  readonly states: number;
  /** Activations that live at once, at the nominal sizes; an estimate, as engines reuse buffers in ways of their own. */
  readonly activations: number;
  /** Of all three. */
  readonly total: number;
}

/** The decision for a whole graph on one mesh axis. */
export interface Plan {
  /** Ranks of the mesh axis. */
  readonly ranks: number;
  /**
   * Placement that each value is produced in, by value name; constants (get_attr) are loaded as each use wants them. Also
   * of the states that the graph begins, by their name.
   */
  readonly placements: ReadonlyMap<string, Placement>;
  /** Strategy of each call, by node name. Calls whose outputs are all known sizes have none: nothing of them is planned. */
  readonly strategies: ReadonlyMap<string, Strategy>;
  /** In order of execution. */
  readonly reshards: readonly Reshard[];
  /** What the search minimised, in parts. */
  readonly cost: PlanCost;
  /** Seconds by which the total may exceed the optimum: 0 unless the search met its limit of states. */
  readonly gap: number;
}
