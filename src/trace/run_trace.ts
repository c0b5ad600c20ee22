/** What a traced run looked like, on every rank, on one clock. */

/** What a rank was doing. */
export type SpanKind = "step" | "compute" | "waiting" | "collective";

/** A stretch of time on one rank. */
export interface Span {
  /** What the rank was doing. */
  readonly kind: SpanKind;
  /** For people: which modules were computed, which collective was waited for. */
  readonly name: string;
  /** Milliseconds from the begin of the trace, on the clock of rank 0. */
  readonly start: number;
  /** Milliseconds; not before `start`. */
  readonly end: number;
  /** Which of the steps, from 0. */
  readonly step: number;
  /** Position in the program's steps; absent for a whole step. */
  readonly index?: number;
  /** Bytes that a collective moves, of the whole tensors, where known. */
  readonly bytes?: number;
}

/** One rank's part of a trace. */
export interface RankTrace {
  /** Whose it is. */
  readonly rank: number;
  /** By begin; a span lies within its step, and no two others of a rank overlap. */
  readonly spans: readonly Span[];
}

/** A trace of all ranks. */
export interface RunTrace {
  /** By rank. */
  readonly ranks: readonly RankTrace[];
  /** Milliseconds by which clocks of two ranks may disagree after alignment. */
  readonly clockError: number;
}
