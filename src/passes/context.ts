/** What passes share: the job's ranks, what the user asked for, and what earlier passes found. */
import { PlanError } from "../core/errors.ts";
import type { NodeSharding } from "../formats/device_annotations.ts";
import type { Graph } from "../graph/graph.ts";
import type { Baseline } from "../plan/baselines.ts";
import type { CostModel, Nominal } from "../plan/cost.ts";
import type { Overrides } from "../plan/overrides.ts";
import type { Plan } from "../plan/plan.ts";
import { LocalSlices } from "./local_data.ts";
import { QuantisedWeights } from "./quantise/quantised_data.ts";
import type { Quantize } from "./quantise/weight_format.ts";
import type { PlanFile } from "../plan/plan_file.ts";
import type { NarrowDType } from "./round_values.ts";
import type { RewriteNote } from "./rewrites/rewrite.ts";

/** What a user may ask of the passes. Everything has a default. */
export interface Config {
  /** Seconds that a byte of weights on every rank is worth; see {@linkcode CostModel}. */
  readonly memoryPrice?: number;
  /** Wishes for single layers, by pattern of their name or scope: `{ "*.lm_head": "replicated" }`. */
  readonly overrides?: Overrides;
  /** Numbers of the cost model to replace; they win over measured ones. */
  readonly costs?: Partial<CostModel>;
  /** Whether what `shardwise calibrate` measured on this host is used, rank 0's on all ranks; true by default. */
  readonly calibrated?: boolean;
  /** Sizes of symbols at which costs are compared. */
  readonly nominal?: Nominal;
  /** The plan to carry out, from a file, instead of a search; it has to be one of this model, for as many ranks. */
  readonly plan?: PlanFile;
  /** ONNX's multi-device annotations, which bind the search. */
  readonly annotations?: readonly NodeSharding[];
  /** Most states that the search keeps at a time. */
  readonly maxStates?: number;
  /** Whether patterns that exporters write out become fused ops (src/passes/rewrites); true by default. */
  readonly fuse?: boolean;
  /** Positions for which a language model gives logits: all of them by default, or only the last, which is all that generation looks at. */
  readonly logits?: "all" | "last";
  /** In which form weights are held: `"int4"`, or formats by pattern of layers; as the model has them by default. */
  readonly quantize?: Quantize;
  /** Rounds floats to this dtype as they are computed: what holding them in it does to results; not at all by default. */
  readonly roundTo?: NarrowDType;
  /** Most bytes of weights, carried states and activations on any rank; a plan that needs more is an error. */
  readonly memoryPerRank?: number;
  /** Tokens of the past at which carried states are counted for it; by default as many as costs are compared at. */
  readonly memoryLength?: number;
  /** Let a simple rule decide what layers become instead of the search, to compare with. */
  readonly baseline?: Baseline;
  /** Whether the graph after each pass is kept as text, in {@linkcode ParallelExecutionCtx.dumps}; false by default. */
  readonly dump?: boolean;
}

/** `config` for another graph than the one that its plan is of: an encoder beside a decoder. */
export function withoutPlan(config: Config): Config {
  const { plan: _, annotations: __, ...rest } = config;
  return rest;
}

/** The text of a graph after a pass. */
export interface Dump {
  /** Name of the pass. */
  readonly pass: string;
  /** The graph that it gave, as `printGraph` prints it. */
  readonly text: string;
}

/** The state of one compilation on one rank. Passes read and write it; graphs themselves never refer to it. */
export class ParallelExecutionCtx {
  /** How many ranks share the model. */
  readonly ranks: number;
  /** This rank. */
  readonly rank: number;
  /** What the user asked for. */
  readonly config: Config;
  /**
   * This rank's parts of constants, shared by all graphs that are made local with this state.
   *
   * @internal
   */
  readonly slices: LocalSlices;
  /**
   * Weights in 4 or 8 bits, shared by all graphs that are cleaned with this state.
   *
   * @internal
   */
  readonly quantised: QuantisedWeights;
  /** Set by the solver pass. */
  plan: Plan | undefined;
  /** How often a pipeline has run to its end. */
  compileTimes = 0;
  /** What the last pipeline gave. */
  lastOptimizedGraph: Graph | undefined;
  /** What the rules of rewriting did, and why they left places alone. */
  readonly rewrites: RewriteNote[] = [];
  /** Graphs after each pass, in order, where `config.dump` asks for them. */
  readonly dumps: Dump[] = [];

  /** The state of rank `rank` of `ranks`. @throws {RangeError} If `rank` is none of `ranks`. */
  constructor(
    { ranks, rank, config = {}, shares }: {
      readonly ranks: number;
      readonly rank: number;
      readonly config?: Config;
      /** The state of another graph of the same model, whose weights this one shares. */
      readonly shares?: ParallelExecutionCtx;
    },
  ) {
    if (!Number.isInteger(ranks) || ranks < 1) throw new RangeError(`Cannot use ${ranks} ranks: expected at least 1`);
    if (!Number.isInteger(rank) || rank < 0 || rank >= ranks) {
      throw new RangeError(`Cannot use ${rank} as a rank: expected an integer in [0, ${ranks})`);
    }
    this.ranks = ranks;
    this.rank = rank;
    this.config = config;
    this.slices = shares?.slices ?? new LocalSlices(rank);
    this.quantised = shares?.quantised ?? new QuantisedWeights();
  }

  /** The plan. @throws {PlanError} If no pass has made one. */
  requirePlan(): Plan {
    if (!this.plan) {
      throw new PlanError("Cannot use the plan: no pass has made one yet", {
        hint: "run ParallelAxisSolverPass before passes that carry a plan out",
      });
    }
    return this.plan;
  }
}
