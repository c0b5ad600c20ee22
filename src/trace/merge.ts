/**
 * The recordings of all ranks as one trace.
 *
 * A rank that comes to a barrier waits until the last one comes; what is left of its time in the barrier from then on is the
 * collective itself. So a span of waiting ends, and the collective begins, on all ranks at the moment when the last
 * arrived. (The sum or concatenation that a collective needs is computed by the segment that follows.)
 */
import { clockOffsets, type Meeting } from "./clock.ts";
import type { Recording } from "./recorder.ts";
import type { RankTrace, RunTrace, Span } from "./run_trace.ts";

/** What a position in the program is. */
export interface PartLabel {
  readonly kind: "compute" | "collective";
  readonly name: string;
  readonly bytes?: number;
}

/** One rank's recording, and what the positions in its program are. */
export interface LabelledRecording {
  readonly recording: Recording;
  readonly labels: readonly PartLabel[];
  /** Barriers outside of the recording, from which its clock is aligned besides those in it. */
  readonly meetings?: readonly Meeting[];
}

/** The trace of `ranks`, by rank. */
export function mergeRecordings(ranks: readonly LabelledRecording[]): RunTrace {
  // All ranks have the same barriers in the same order.
  const barriers = ranks.map(({ recording, labels }) =>
    recording.parts.filter(([, index]) => labels[index]!.kind === "collective")
  );
  const { offsets, error } = clockOffsets(
    ranks.map(({ meetings = [] }, r) => [...meetings, ...barriers[r]!.map(([, , from, to]) => [from, to] as const)]),
  );
  const begin = Math.min(...ranks.map(({ recording }, r) => (recording.steps[0]?.[0] ?? Infinity) - offsets[r]!));
  const onClock = (rank: number, t: number) => Math.max(0, t - offsets[rank]! - begin);
  const arrivals = Array.from(
    { length: Math.max(0, ...barriers.map((list) => list.length)) },
    (_, k) => Math.max(...barriers.map((list, r) => (list[k] ? onClock(r, list[k][2]) : 0))),
  );
  return {
    clockError: error,
    ranks: ranks.map(({ recording, labels }, rank): RankTrace => {
      const spans: Span[] = recording.steps.map(([start, end], step) => ({
        kind: "step",
        name: `step ${step}`,
        start: onClock(rank, start),
        end: onClock(rank, end),
        step,
      }));
      let barrier = 0;
      for (const [step, index, from, to] of recording.parts) {
        const label = labels[index]!, start = onClock(rank, from), end = onClock(rank, to);
        const common = { step, index, ...(label.bytes === undefined ? {} : { bytes: label.bytes }) };
        if (label.kind === "compute") {
          spans.push({ kind: "compute", name: label.name, start, end, ...common });
          continue;
        }
        // Within what the clocks are known to: a rank never leaves before the last has come.
        const last = Math.min(end, Math.max(start, arrivals[barrier++]!));
        if (last > start) spans.push({ kind: "waiting", name: label.name, start, end: last, ...common });
        spans.push({ kind: "collective", name: label.name, start: last, end, ...common });
      }
      // A step before what lies in it.
      return { rank, spans: spans.sort((a, b) => a.start - b.start || b.end - a.end || (a.kind === "step" ? -1 : 1)) };
    }),
  };
}
