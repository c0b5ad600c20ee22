/**
 * The proof that no sample of a batch has a say in another's results, call by call.
 *
 * A group of ranks runs the same graph on its own samples. For every value the proof finds a {@linkcode RowFact}: that the
 * group has of it what belongs to its samples, or all of it where it is alike for all. Factors prove it of most calls: where
 * one factor has the samples in every tensor that has them, and is not reduced, the op computes each of them for itself. What
 * factors do not say (numbers of rows, and what is selected by them) is `rows` and `numbers` of the op's definition. Whatever
 * nothing says of is refused: the proof may be too careful, never too bold.
 *
 * Sizes that follow from shapes are no values here: they are known as polynomials, and each group computes its own. A call may
 * read those that count samples for the shape of its result only ({@linkcode OpDef.shapedBy}).
 */
import { asSymbol, type Dim, dimAdd, dimDivide, dimMul, symbol, symbolsOf } from "../core/dim.ts";
import { type Graph, type Node, outputOf, valueOf } from "../graph/graph.ts";
import type { KnownInts, Shape } from "../graph/types.ts";
import type { Factor } from "../ops/factors.ts";
import { type RowFact, type RowNumbers, type RowPlace, type RowsContext, samePlace, tellsRows } from "../ops/rows.ts";
import { type OpLookup, type PlannedCall, plannedCalls } from "./places.ts";

/** Where samples mix, or nobody knows that they do not. */
export interface Mixed {
  /** The node, or the value that is a result. */
  readonly at: string;
  readonly why: string;
}

/** Vectors of more known integers are no coordinates. */
const MAX_COORDINATES = 8;

/** Follows the samples through a clean graph. */
export class RowProof {
  readonly #graph: Graph;
  readonly #batch: string;
  readonly #facts = new Map<string, RowFact>();
  /** Symbols of dims whose units belong to samples: the batch, and lists of entries. */
  readonly #rowSymbols: Set<string>;

  /** `batch` is the symbol for how many samples there are. */
  constructor(graph: Graph, batch: string) {
    this.#graph = graph;
    this.#batch = batch;
    this.#rowSymbols = new Set([batch]);
  }

  /** Where the samples are in a value; undefined where all have it alike. */
  placeOf(value: string): RowPlace | undefined {
    return this.#facts.get(value)?.place;
  }

  /** Where they mix first; undefined where they never do. */
  mixed(opDef: OpLookup): Mixed | undefined {
    for (const node of this.#graph.nodes) {
      const why = node.kind === "placeholder" ? this.#begin(node) : undefined;
      if (why !== undefined) return { at: node.name, why };
    }
    for (const call of plannedCalls(this.#graph, opDef)) {
      const outcome = this.#follow(call);
      if (typeof outcome === "string") return { at: call.node.name, why: `${call.node.op} ${outcome}` };
      for (const [i, fact] of outcome.entries()) {
        const name = call.node.outputs[i]!;
        if (name === "") continue;
        this.#facts.set(name, fact);
        if (fact.place) this.#rowSymbols.add(fact.place.of);
        if (this.#crosses(name, fact.place)) {
          return {
            at: call.node.name,
            why: `${call.node.op} sets samples against samples: its result has them in two dims`,
          };
        }
      }
    }
    return this.#end();
  }

  #begin(node: Node): string | undefined {
    const name = node.outputs[0]!, shape = valueOf(this.#graph, name).type.shape ?? [];
    const dims = shape.flatMap((d, dim) => (this.#counts(d) ? [dim] : []));
    if (dims.length === 0) return undefined;
    const [dim] = dims as [number];
    if (dims.length > 1 || asSymbol(shape[dim]!) !== this.#batch) return "an input has the batch in more than one way";
    this.#facts.set(name, { place: { dim, outer: 1, inner: 1, of: this.#batch } });
  }

  #end(): Mixed | undefined {
    for (const name of outputOf(this.#graph).inputs) {
      const { type, ints } = valueOf(this.#graph, name), { place, numbers } = this.#facts.get(name) ?? {};
      const refuse = (why: string) => ({ at: name, why });
      if (ints?.elements.some((d) => this.#counts(d))) return refuse("a result is how many samples there are");
      if (tellsRows(numbers)) return refuse("a result has the numbers of samples");
      if (place && place.outer !== 1) return refuse("a result has its samples inside of another index");
      if (place && place.of !== this.#batch) {
        return refuse("a result lists entries, and nobody knows how many of each sample");
      }
      if (!place && (!type.shape || type.shape.some((d) => this.#counts(d)))) {
        return refuse("a result has lost the batch");
      }
    }
    return undefined;
  }

  /** Facts of a call's outputs, or why they cannot be told. */
  #follow(call: PlannedCall): readonly RowFact[] | string {
    const { node, shape: { def, context } } = call;
    const facts = node.inputs.map((name, i) => this.#factOf(name, context.ints[i]));
    const captured = (node.captures ?? []).some((name) => this.#isOfSamples(name));
    if (captured) return "reads samples, or how many there are, inside its subgraph, where nobody follows them";
    // Sizes, of which each group computes its own.
    if (call.shape.known.every(Boolean)) return node.outputs.map(() => ({}));
    const rows: RowsContext = {
      ...context,
      node,
      facts,
      batch: this.#batch,
      counts: (d) => this.#counts(d),
      placeIn: (size, dim) => this.#placeIn(size, dim),
    };
    const own = def?.rows?.(rows);
    if (own && "mixes" in own) return `may mix samples: ${own.mixes}`;
    if (own) return own;
    const counting = node.inputs.findIndex((_, i) =>
      !def?.shapedBy?.includes(i) && context.ints[i]?.elements.some((d) => this.#counts(d))
    );
    if (counting >= 0) return "computes with how many samples there are";
    const isOfSamples = facts.some(({ place }) => place) ||
      context.outputs.some((t) => t?.shape?.some((d) => this.#counts(d)));
    if (def?.draws?.(node) !== undefined && isOfSamples) return "draws random numbers, others for a part of the batch";
    const places = isOfSamples ? this.#places(call, facts) : node.outputs.map(() => undefined);
    if (typeof places === "string") return places;
    const telling = facts.some(({ numbers }) => tellsRows(numbers));
    const numbers = def?.numbers?.(rows) ?? [];
    if (telling && node.outputs.some((name, i) => name !== "" && !numbers[i])) {
      return "computes with the numbers of samples, which are others in each group";
    }
    return node.outputs.map((_, i) => ({ place: places[i], numbers: numbers[i] }));
  }

  /** Whether a value has samples elsewhere than in one place. */
  #crosses(name: string, place: RowPlace | undefined): boolean {
    const { shape } = valueOf(this.#graph, name).type;
    if (!place) return false;
    return !shape || this.#counts(place.outer) || this.#counts(place.inner) ||
      shape.some((d, dim) => dim !== place.dim && this.#counts(d));
  }

  /** Where the factors of a call leave the samples, by output. */
  #places(call: PlannedCall, facts: readonly RowFact[]): readonly (RowPlace | undefined)[] | string {
    const { node, names, shape: { rule, inputs: count, context, known, def } } = call;
    const shapes = [...context.inputs, ...context.outputs].map((t) => t?.shape);
    const placeOf = (tensor: number) => (tensor < count ? facts[tensor]!.place : undefined);
    const found: (RowPlace | undefined)[] = node.outputs.map(() => undefined);
    const explained = new Set<number>();
    for (const factor of rule.factors) {
      const places = [...factor.inputs, ...factor.outputs];
      const row = this.#rowOf(places, shapes, placeOf);
      if (row === undefined) continue;
      for (const [tensor, at] of places.entries()) {
        const name = names[tensor]!;
        if (name === "" || known[tensor]) continue;
        if (!at) {
          if (tensor >= count && facts.some(({ place }) => place)) return reduces(factor);
          continue;
        }
        if (at.offset !== 0 || at.shared !== 1) return whole(at.dim);
        const place: RowPlace = {
          dim: at.dim,
          outer: dimMul(row.outer, at.outer),
          inner: dimMul(row.inner, at.inner),
          of: row.of,
        };
        if (tensor < count) {
          const own = placeOf(tensor);
          if (!own) return `meets samples in input ${tensor}, which is not known to have them in that order`;
          if (!samePlace(own, place)) return `meets samples of inputs that are not known to be the same ones`;
        } else if (found[tensor - count] && !samePlace(found[tensor - count], place)) {
          return "sets samples against samples";
        } else found[tensor - count] = place;
        explained.add(tensor);
      }
    }
    for (const [tensor, name] of names.entries()) {
      if (name === "" || explained.has(tensor) || known[tensor]) continue;
      const own = placeOf(tensor), shape = shapes[tensor];
      if (own) {
        if (!def) return "is an op that nobody described, so that it may mix samples";
        return def.factors === undefined ? "needs all samples at once, as far as is known" : whole(own.dim);
      }
      if (tensor < count ? shape?.some((d) => this.#counts(d)) : !shape || shape.some((d) => this.#counts(d))) {
        return "is not known to keep samples apart";
      }
    }
    return found;
  }

  /** Where the samples are in a factor's own index; undefined where they are not in it. */
  #rowOf(
    places: Factor["inputs"],
    shapes: readonly (Shape | undefined)[],
    placeOf: (tensor: number) => RowPlace | undefined,
  ): Omit<RowPlace, "dim"> | undefined {
    for (const [tensor, at] of places.entries()) {
      const size = at ? shapes[tensor]?.[at.dim] : undefined;
      if (!at || size === undefined || at.offset !== 0) continue;
      const own = placeOf(tensor);
      if (own ? own.dim !== at.dim : !this.#counts(size)) continue;
      // Of a dim that nothing says more of, the batch is what is left without its symbol.
      const place = own ?? this.#placeIn(size, at.dim);
      const inner = place && dimDivide(place.inner, at.inner), outer = place && dimDivide(place.outer, at.outer);
      if (place && inner !== undefined && outer !== undefined) return { outer, inner, of: place.of };
    }
    return undefined;
  }

  #factOf(name: string, ints: KnownInts | undefined): RowFact {
    const fact = this.#facts.get(name) ?? {};
    const numbers = ints && !fact.numbers ? this.#numbersOf(ints) : undefined;
    return numbers ? { ...fact, numbers } : fact;
  }

  /** What is known of small contents: constants, and sizes that all groups have alike. */
  #numbersOf({ dims, elements }: KnownInts): RowNumbers | undefined {
    if (dims.length > 1 || elements.length === 0 || elements.length > MAX_COORDINATES) return undefined;
    const of = elements.map((low) => this.#counts(low) ? undefined : { coefficient: 0, low, high: dimAdd(low, 1) });
    if (of.length === 1) return { of };
    return { along: 0, of };
  }

  #isOfSamples(name: string): boolean {
    const fact = this.#facts.get(name);
    return fact?.place !== undefined || tellsRows(fact?.numbers) ||
      (valueOf(this.#graph, name).ints?.elements.some((d) => this.#counts(d)) ?? false);
  }

  /** Whether a size depends on how many samples, or entries of a list of theirs, there are. */
  #counts(d: Dim | undefined): boolean {
    return d !== undefined && typeof d !== "number" && [...symbolsOf(d)].some((s) => this.#rowSymbols.has(s));
  }

  #placeIn(size: Dim, dim: number): RowPlace | undefined {
    const [of, ...others] = [...symbolsOf(size)].filter((s) => this.#rowSymbols.has(s));
    const inner = of === undefined || others.length > 0 ? undefined : dimDivide(size, symbol(of));
    return inner === undefined || this.#counts(inner) ? undefined : { dim, outer: 1, inner, of: of! };
  }
}

function reduces({ reduce, inputs }: Factor): string {
  const dim = inputs.find((at) => at)?.dim;
  return reduce === undefined ? "gives a result without the samples" : `combines samples: ${reduce} over dim ${dim}`;
}

function whole(dim: number): string {
  return `needs dim ${dim}, in which the samples are, whole`;
}
