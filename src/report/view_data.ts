/** What the viewer of a plan gets: plain data, for JSON. */

/** What became of a call: a layer's kind, or, of other ops, where their results live. */
export type Role = "column" | "row" | "vocab" | "data" | "partial" | "replicated";

/** A collective, as a mark on the row that it belongs to. */
export interface Mark {
  /** `all_reduce`, `all_gather`, `reduce_scatter`. */
  readonly kind: string;
  /** The tensor that it moves. */
  readonly value: string;
  /** Whether it comes before the call; after it otherwise. */
  readonly before: boolean;
  /** Of the whole tensor in one step. */
  readonly bytes: number;
  /** Seconds, estimated. */
  readonly seconds: number;
}

/** A weight of a call. */
export interface ViewWeight {
  readonly name: string;
  /** As DTensor prints it. */
  readonly placement: string;
  /** Of the whole. */
  readonly bytes: number;
  /** On the rank with the most. */
  readonly bytesPerRank: number;
}

/** A call. */
export interface Leaf {
  readonly kind: "op";
  /** Counted from 0 in order of the rows; the timeline refers to it. */
  readonly id: number;
  /** What the row says. */
  readonly label: string;
  /** The node's full name; of equal blocks, that in the first. */
  readonly name: string;
  readonly op: string;
  readonly role: Role;
  /** Whether it holds weights. */
  readonly layer: boolean;
  /** Of its inputs and outputs: name and placement. */
  readonly inputs: readonly (readonly [name: string, placement: string])[];
  readonly outputs: readonly (readonly [name: string, placement: string])[];
  readonly weights: readonly ViewWeight[];
  /** Seconds of work on the slowest rank, estimated. */
  readonly seconds: number;
  readonly marks: readonly Mark[];
  /** Seconds that the plan would cost more with this layer replicated; null where nobody has worked it out. */
  readonly price: number | null;
}

/** A module, or several equal ones in a row. */
export interface Group {
  readonly kind: "group";
  readonly label: string;
  /** Names of the equal blocks that this row stands for; one of them for an ordinary module. */
  readonly names: readonly string[];
  readonly rows: readonly Row[];
}

/** A row of the tree. */
export type Row = Leaf | Group;

/** One step of the timeline. */
export interface Moment {
  /** The leaf's id. */
  readonly row: number;
  /** Which of the equal blocks, from the outside in; empty outside of such. */
  readonly block: string;
  readonly seconds: number;
  /** The collective that it is; work of the call otherwise. */
  readonly collective?: string;
  readonly bytes?: number;
}

/** Bytes on one rank. */
export interface RankMemory {
  /** Of weights, by what became of their layer. */
  readonly weights: Readonly<Partial<Record<Role, number>>>;
  /** Of carried states, present and next content, at the nominal sizes. */
  readonly states: number;
}

/** A plan as the viewer shows it. */
export interface PlanView {
  readonly title: string;
  readonly ranks: number;
  readonly summary: string;
  /** Lines of label and text. */
  readonly outline: readonly (readonly [label: string, text: string])[];
  readonly rows: readonly Row[];
  readonly memory: readonly RankMemory[];
  /** Bytes of the whole model's weights. */
  readonly weightBytes: number;
  /** One step on the slowest rank, in order. */
  readonly timeline: readonly Moment[];
  /** Tokens of that step, and the sizes at which it was priced. */
  readonly tokens: number;
  readonly sizes: Readonly<Record<string, number>>;
}
