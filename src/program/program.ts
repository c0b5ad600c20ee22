/**
 * A program: what one rank does in a step of the model, as data.
 *
 * A local graph is cut at its collectives into segments of local compute. Values that cross a cut live in buffers:
 * private ones, or shared ones that the peers read. After a segment that writes shared values comes one barrier; the next
 * segment begins by combining what all ranks wrote (a sum, a concatenation) where it lies. So a collective costs one
 * barrier and no copy. Source: DESIGN, "zero-copy collectives".
 */
import type { Dim } from "../core/dim.ts";
import type { Graph } from "../graph/graph.ts";
import type { TensorType } from "../graph/types.ts";

/** Where a segment's input comes from. */
export type Source =
  /** A graph input, by its name. */
  | { readonly kind: "input"; readonly name: string }
  /** A value that an earlier segment of this rank wrote. */
  | { readonly kind: "value"; readonly name: string }
  /** A shared value as `rank` wrote it; `shape` is that rank's. */
  | { readonly kind: "peer"; readonly name: string; readonly rank: number; readonly type: TensorType }
  /** Sizes that are computed from the inputs' shapes before the step. */
  | { readonly kind: "sizes"; readonly elements: readonly Dim[]; readonly scalar: boolean };

/** Local compute between two cuts. */
export interface Segment {
  /** Tells steps apart. */
  readonly kind: "segment";
  /** Among the segments, from 0. */
  readonly index: number;
  /** Placeholders are the inputs; the output node's names are the values that are kept. */
  readonly graph: Graph<"local">;
  /** By placeholder name. */
  readonly inputs: ReadonlyMap<string, Source>;
  /** Names of the values that this segment writes for later use, in the order of the graph's outputs. */
  readonly outputs: readonly string[];
}

/** All ranks wait for each other; what they wrote to shared values before is then visible to all. */
export interface Barrier {
  /** Tells steps apart. */
  readonly kind: "barrier";
  /** The collectives that this barrier stands for, for texts and traces. */
  readonly collectives: readonly { readonly kind: string; readonly value: string; readonly type: TensorType }[];
}

/** One step of a program. */
export type Step = Segment | Barrier;

/** A value that crosses a cut or leaves the program. */
export interface Stored {
  /** Unique within the program. */
  readonly name: string;
  /** Local type. */
  readonly type: TensorType;
  /** Shared values are written where the peers can read them. */
  readonly shared: boolean;
  /** For a shared value: its type on every rank, from which all ranks derive the same buffer size. */
  readonly peers?: readonly TensorType[];
  /** Index of the segment that writes it, and of the last that reads it (∞ for outputs of the program). */
  readonly writtenBy: number;
  /** Index of the last segment that reads it; ∞ for outputs of the program. */
  readonly lastRead: number;
}

/** All that one rank does for one run. */
export interface Program {
  /** Whose program it is. */
  readonly rank: number;
  /** How many ranks run one like it. */
  readonly ranks: number;
  /** Segments, and a barrier wherever shared values are written. */
  readonly steps: readonly Step[];
  /** Values that cross a cut or leave the program, by name. */
  readonly stored: ReadonlyMap<string, Stored>;
  /** Graph inputs: local types by name. */
  readonly inputs: ReadonlyMap<string, TensorType>;
  /** Graph outputs in order: the caller's name, and the stored value (or input) that holds it. */
  readonly outputs: readonly { readonly name: string; readonly value: Source }[];
  /** States by the callers' names: see `Carried`. Without an output they stay as they are; not all need be inputs. */
  readonly carried: readonly { readonly input: string; readonly output?: string }[];
}

/** The segments of a program. */
export function segmentsOf(program: Program): Segment[] {
  return program.steps.filter((s) => s.kind === "segment");
}
