/**
 * What a step has to renew when sizes change: for every segment, which of its inputs and outputs depend on which symbols.
 *
 * A decode step changes one symbol (the past), and most tensors do not depend on it. So the wiring is worked out once, and
 * a step touches only what has changed.
 */
import { type Dim, symbolsOf } from "../../core/dim.ts";
import type { Program, Segment, Source, Stored } from "../../program/program.ts";

type SourceOf<K extends Source["kind"]> = Extract<Source, { kind: K }>;

/** One input of a segment: its position, and where it comes from. */
export interface Link<K extends Source["kind"]> {
  readonly slot: number;
  readonly source: SourceOf<K>;
}

/** The inputs and outputs of a segment, sorted by kind. */
export interface Wiring {
  readonly values: readonly Link<"value">[];
  readonly peers: readonly Link<"peer">[];
  readonly sizes: readonly (Link<"sizes"> & { readonly symbols: ReadonlySet<string> })[];
  /** By position. */
  readonly outputs: readonly Stored[];
}

/** An input of a segment, by its position. */
export interface Place {
  readonly segment: number;
  readonly slot: number;
}

/** Who reads and writes the values of a program. */
export interface ProgramWiring {
  readonly segments: readonly Wiring[];
  /** Readers of the program's inputs, by name. */
  readonly inputs: ReadonlyMap<string, readonly Place[]>;
  /** Readers of stored values that are not shared, by name. */
  readonly readers: ReadonlyMap<string, readonly Place[]>;
  /** Position of a stored value among the outputs of the segment that writes it, by name. */
  readonly written: ReadonlyMap<string, Place>;
  readonly carried: readonly CarriedWiring[];
}

/** A carried output: where it is written. */
export interface CarriedWiring {
  /** The caller's name of the input that it continues. */
  readonly input: string;
  /** The caller's name. */
  readonly output: string;
  readonly stored: Stored;
}

/** The wiring of a program whose segments are these. */
export function wire(program: Program, segments: readonly Segment[]): ProgramWiring {
  const inputs = new Map<string, Place[]>(), readers = new Map<string, Place[]>(), written = new Map<string, Place>();
  const add = (to: Map<string, Place[]>, name: string, place: Place) => {
    const list = to.get(name);
    if (list) list.push(place);
    else to.set(name, [place]);
  };
  segments.forEach((s, segment) => {
    linksOf(s).forEach(({ slot, source }) => {
      if (source.kind === "input") add(inputs, source.name, { segment, slot });
      if (source.kind === "value") add(readers, source.name, { segment, slot });
    });
    s.outputs.forEach((name, slot) => written.set(name, { segment, slot }));
  });
  return {
    segments: segments.map((s) => wireSegment(s, program)),
    inputs,
    readers,
    written,
    carried: wireCarried(program),
  };
}

/** A segment's inputs, in their order. */
function linksOf({ graph, inputs }: Segment): { readonly slot: number; readonly source: Source }[] {
  const names = graph.nodes.flatMap((n) => (n.kind === "placeholder" ? n.outputs : []));
  return names.map((name, slot) => ({ slot, source: inputs.get(name)! }));
}

function wireSegment(segment: Segment, program: Program): Wiring {
  const links = linksOf(segment);
  const of = <K extends Source["kind"]>(kind: K) => links.filter((l): l is Link<K> => l.source.kind === kind);
  return {
    values: of("value"),
    peers: of("peer"),
    sizes: of("sizes").map((l) => ({ ...l, symbols: symbolsIn(l.source.elements) })),
    outputs: segment.outputs.map((name) => program.stored.get(name)!),
  };
}

function wireCarried(program: Program): CarriedWiring[] {
  const outputs = new Map(program.outputs.map((o) => [o.name, o.value]));
  return program.carried.flatMap(({ input, output }) => {
    const value = output === undefined ? undefined : outputs.get(output);
    if (output === undefined || value?.kind !== "value") return [];
    return [{ input, output, stored: program.stored.get(value.name)! }];
  });
}

/** All symbols of some sizes. */
export function symbolsIn(dims: readonly Dim[] | undefined): ReadonlySet<string> {
  const symbols = new Set<string>();
  for (const d of dims ?? []) symbolsOf(d, symbols);
  return symbols;
}
