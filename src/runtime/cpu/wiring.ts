/**
 * What a step has to renew when sizes change: for every segment, which feeds and fetches depend on which symbols.
 *
 * A decode step changes one symbol (the past), and most tensors do not depend on it. So the wiring is worked out once, and
 * a step touches only what has changed.
 */
import { type Dim, symbolsOf } from "../../core/dim.ts";
import type { Program, Segment, Source, Stored } from "../../program/program.ts";

type SourceOf<K extends Source["kind"]> = Extract<Source, { kind: K }>;

/** One feed of a segment: the placeholder's name and where it comes from. */
export interface Link<K extends Source["kind"]> {
  readonly name: string;
  readonly source: SourceOf<K>;
}

/** The feeds and fetches of a segment, sorted by kind. */
export interface Wiring {
  readonly inputs: readonly Link<"input">[];
  readonly values: readonly Link<"value">[];
  readonly peers: readonly Link<"peer">[];
  readonly sizes: readonly (Link<"sizes"> & { readonly symbols: ReadonlySet<string> })[];
  readonly outputs: readonly Stored[];
}

/** A carried output: where it is written, and the feeds of later segments that read it. */
export interface CarriedWiring {
  /** The caller's name of the input that it continues. */
  readonly input: string;
  /** The caller's name. */
  readonly output: string;
  readonly stored: Stored;
  readonly readers: readonly { readonly segment: number; readonly placeholder: string }[];
}

/** The wiring of one segment. */
export function wireSegment(segment: Segment, program: Program): Wiring {
  const links = [...segment.inputs].map(([name, source]) => ({ name, source }));
  const of = <K extends Source["kind"]>(kind: K) => links.filter((l): l is Link<K> => l.source.kind === kind);
  return {
    inputs: of("input"),
    values: of("value"),
    peers: of("peer"),
    sizes: of("sizes").map((l) => ({ ...l, symbols: symbolsIn(l.source.elements) })),
    outputs: segment.outputs.map((name) => program.stored.get(name)!),
  };
}

/** The wiring of the carried outputs. */
export function wireCarried(program: Program, segments: readonly Segment[]): CarriedWiring[] {
  const outputs = new Map(program.outputs.map((o) => [o.name, o.value]));
  return program.carried.flatMap(({ input, output }) => {
    const value = output === undefined ? undefined : outputs.get(output);
    if (output === undefined || value?.kind !== "value") return [];
    const readers = segments.flatMap(({ inputs }, segment) =>
      [...inputs].flatMap(([placeholder, s]) =>
        s.kind === "value" && s.name === value.name ? [{ segment, placeholder }] : []
      )
    );
    return [{ input, output, stored: program.stored.get(value.name)!, readers }];
  });
}

/** All symbols of some sizes. */
export function symbolsIn(dims: readonly Dim[] | undefined): ReadonlySet<string> {
  const symbols = new Set<string>();
  for (const d of dims ?? []) symbolsOf(d, symbols);
  return symbols;
}
