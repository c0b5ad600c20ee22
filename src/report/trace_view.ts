/** From a trace to what its page shows: the spans of all ranks, and where the time of a step went, as a flame. */
import type { RunTrace, Span, SpanKind } from "../trace/run_trace.ts";

/** A box of the flame: a stretch of a mean step, with what it is made of. */
export interface Flame {
  readonly name: string;
  /** `step` for the root, `other` for time between the parts (JavaScript, inputs and outputs). */
  readonly kind: SpanKind | "other";
  /** Milliseconds of a step, on the mean. */
  readonly ms: number;
  readonly parts: readonly Flame[];
}

/** The page's data. */
export interface TraceView {
  readonly title: string;
  /** By rank: `[kind, name, start, end, step]`, with kinds and names as positions in the lists. */
  readonly spans: readonly (readonly (readonly [number, number, number, number, number])[])[];
  readonly kinds: readonly SpanKind[];
  readonly names: readonly string[];
  /** By rank. */
  readonly flames: readonly Flame[];
  /** Steps that the flames are means of, and how many there were. */
  readonly counted: readonly [from: number, steps: number];
  readonly clockError: number;
}

const KINDS: readonly SpanKind[] = ["step", "compute", "waiting", "collective"];

/** The view of a trace. The first step (a prompt, usually) counts for the flames only if it is the only one. */
export function traceView(title: string, trace: RunTrace): TraceView {
  const names = new Map<string, number>();
  const id = (name: string) => names.get(name) ?? (names.set(name, names.size), names.size - 1);
  const steps = trace.ranks[0]?.spans.filter((s) => s.kind === "step").length ?? 0;
  const from = steps > 1 ? 1 : 0;
  // To the nanosecond.
  const short = (ms: number) => Math.round(ms * 1e6) / 1e6;
  return {
    title,
    spans: trace.ranks.map(({ spans }) =>
      spans.map((s) => [KINDS.indexOf(s.kind), id(s.name), short(s.start), short(s.end), s.step] as const)
    ),
    kinds: KINDS,
    names: [...names.keys()],
    flames: trace.ranks.map(({ spans }) => flameOf(spans.filter((s) => s.step >= from), steps - from)),
    counted: [from, steps],
    clockError: trace.clockError,
  };
}

function flameOf(spans: readonly Span[], steps: number): Flame {
  const mean = (list: readonly Span[]) => list.reduce((ms, s) => ms + s.end - s.start, 0) / Math.max(1, steps);
  const total = mean(spans.filter((s) => s.kind === "step"));
  const parts = (["compute", "waiting", "collective"] as const).map((kind): Flame => {
    const own = spans.filter((s) => s.kind === kind);
    const blocks = [...Map.groupBy(own, (s) => blockOf(s.name))].map(([name, list]): Flame => {
      const leaves = [...Map.groupBy(list, (s) => s.name)].map(([leaf, l]): Flame => ({
        name: leaf,
        kind,
        ms: mean(l),
        parts: [],
      }));
      return { name, kind, ms: mean(list), parts: leaves.length === 1 && leaves[0]!.name === name ? [] : leaves };
    });
    return { name: kind, kind, ms: mean(own), parts: blocks };
  }).filter(({ ms }) => ms > 0);
  const rest = total - parts.reduce((ms, p) => ms + p.ms, 0);
  return {
    name: "step",
    kind: "step",
    ms: total,
    parts: rest > 0
      ? [...parts, { name: "between: JavaScript, inputs, outputs", kind: "other", ms: rest, parts: [] }]
      : parts,
  };
}

/** Parts of one numbered block stand together; so do collectives of one kind. */
function blockOf(name: string): string {
  const [first = name] = name.split(" ");
  const block = /^.*?\d+(?=\.|$)/.exec(first);
  return block && name.split(" … ").every((part) => part.startsWith(block[0])) ? block[0] : first;
}
