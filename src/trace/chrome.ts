/** A trace in Chrome's format, which Perfetto (ui.perfetto.dev) and chrome://tracing open: a process a rank, spans as complete events. */
import type { RunTrace, SpanKind } from "./run_trace.ts";

/** An event of the format. Times are in microseconds. */
export interface ChromeEvent {
  /** What the box says. */
  readonly name: string;
  /** `X`: complete; `M`: metadata. */
  readonly ph: "X" | "M";
  /** The rank. */
  readonly pid: number;
  /** 0: a rank has one track. */
  readonly tid: number;
  /** Begin. */
  readonly ts?: number;
  /** Duration. */
  readonly dur?: number;
  /** What the rank was doing. */
  readonly cat?: string;
  /** A colour of the viewer's. */
  readonly cname?: string;
  /** What is shown of a box that is chosen. */
  readonly args?: Readonly<Record<string, unknown>>;
}

/** The file, before it is JSON. */
export interface ChromeTrace {
  /** Metadata and spans of all ranks. */
  readonly traceEvents: readonly ChromeEvent[];
  /** What the viewer's axis counts in. */
  readonly displayTimeUnit: "ms";
  /** What holds of the whole trace. */
  readonly otherData: Readonly<Record<string, unknown>>;
}

/** The viewer's own colours. */
const COLOURS: Readonly<Record<SpanKind, string>> = {
  step: "grey",
  compute: "thread_state_running",
  waiting: "thread_state_runnable",
  collective: "thread_state_iowait",
};

/** `trace` for Chrome and Perfetto; `JSON.stringify` makes the file of it. */
export function chromeTrace({ ranks, clockError }: RunTrace): ChromeTrace {
  const traceEvents = ranks.flatMap(({ rank, spans }): ChromeEvent[] => [
    { name: "process_name", ph: "M", pid: rank, tid: 0, args: { name: `rank ${rank}` } },
    { name: "process_sort_index", ph: "M", pid: rank, tid: 0, args: { sort_index: rank } },
    { name: "thread_name", ph: "M", pid: rank, tid: 0, args: { name: "steps" } },
    ...spans.map(({ kind, name, start, end, step, index, bytes }): ChromeEvent => ({
      name: kind === "waiting" ? `waiting: ${name}` : name,
      ph: "X",
      pid: rank,
      tid: 0,
      ts: micro(start),
      dur: micro(end) - micro(start),
      cat: kind,
      cname: COLOURS[kind],
      args: { step, ...(index === undefined ? {} : { part: index }), ...(bytes === undefined ? {} : { bytes }) },
    })),
  ]);
  return { traceEvents, displayTimeUnit: "ms", otherData: { "clock error in ms": clockError } };
}

/** Microseconds to the nanosecond: neighbours that touch stay neighbours. */
function micro(ms: number): number {
  return Math.round(ms * 1e6) / 1e3;
}
