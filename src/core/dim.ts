/**
 * Sizes of tensor dims: a number, or an integer polynomial over the model's symbols (`batch`, `past + seq`).
 *
 * Values are canonical: equal polynomials print the same, so {@linkcode dimKey} is an identity. What is no polynomial
 * (`floor(a / b)`, `max(a, b)`, …) is an opaque atom that still evaluates once its symbols are bound.
 *
 * @example
 * const total = dimAdd(parseDim("past"), parseDim("seq"));
 * evalDim(total, new Map([["past", 5], ["seq", 1]])); // 6
 */

/** A size: constant or symbolic. */
export type Dim = number | SymDim;

/** Functions that are kept as opaque atoms where they do not fold. */
export type DimFunction = "floor" | "ceil" | "mod" | "max" | "min";

/** A factor of a term: a symbol, or a function of two sizes. `floor(a, b)` is floor(a / b), `ceil` likewise. */
export type Atom = { readonly kind: "symbol"; readonly name: string } | {
  readonly kind: DimFunction;
  readonly a: Dim;
  readonly b: Dim;
};

/** A product: a coefficient and its factors; none for a constant. */
export interface Term {
  /** Never 0. */
  readonly coefficient: number;
  /** Sorted by their printed form. */
  readonly atoms: readonly Atom[];
}

/** A size that is no constant: a sum of terms, sorted, with no zero coefficient. */
export class SymDim {
  /** In canonical order. */
  readonly terms: readonly Term[];
  readonly #text: string;

  /** Made by the functions of this file only: `terms` must be canonical. */
  constructor(terms: readonly Term[]) {
    this.terms = terms;
    this.#text = printTerms(terms);
  }

  /** As graph text prints it: `2*batch+1`. */
  toString(): string {
    return this.#text;
  }
}

/** Bindings of symbols to sizes. */
export type Bindings = ReadonlyMap<string, number>;

/** A symbol. Characters that a text form cannot hold are replaced by `_`. */
export function symbol(name: string): SymDim {
  const clean = name.replace(/[^A-Za-z0-9_.#]/g, "_").replace(/^(?=[0-9.])/, "_");
  return new SymDim([{ coefficient: 1, atoms: [{ kind: "symbol", name: clean || "_" }] }]);
}

export function dimAdd(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a + b;
  return build([...termsOf(a), ...termsOf(b)]);
}

export function dimSub(a: Dim, b: Dim): Dim {
  return dimAdd(a, dimMul(b, -1));
}

export function dimMul(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return a * b + 0; // -1 * 0 is 0 too
  if (a === 1) return b;
  if (b === 1) return a;
  const out: Term[] = [];
  for (const x of termsOf(a)) {
    for (const y of termsOf(b)) {
      out.push({ coefficient: x.coefficient * y.coefficient, atoms: sortAtoms([...x.atoms, ...y.atoms]) });
    }
  }
  return build(out);
}

/** The product of sizes; 1 for none. */
export function dimProduct(dims: readonly Dim[]): Dim {
  return dims.reduce<Dim>((x, y) => dimMul(x, y), 1);
}

/** `a / b` where the division is provably exact for all values of the symbols, else undefined. */
export function dimDivide(a: Dim, b: Dim): Dim | undefined {
  if (b === 0) return undefined;
  if (b === 1) return a;
  if (a === 0) return 0;
  if (typeof a === "number" && typeof b === "number") return a % b === 0 ? a / b : undefined;
  if (dimEquals(a, b)) return 1;
  // Long division by the leading term.
  let rest = a, quotient: Dim = 0;
  const lead = termsOf(b)[0]!;
  for (let guard = 0; guard < 32 && rest !== 0; guard++) {
    const q = divideTerm(termsOf(rest)[0]!, lead);
    if (!q) return undefined;
    const term = build([q]);
    quotient = dimAdd(quotient, term);
    rest = dimSub(rest, dimMul(term, b));
  }
  return rest === 0 ? quotient : undefined;
}

/** floor(a / b) for sizes (a ≥ 0, b > 0). */
export function dimFloorDiv(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return Math.floor(a / b);
  const exact = dimDivide(a, b);
  if (exact !== undefined) return exact;
  if (typeof b === "number" && typeof a !== "number") {
    // (k·b + c) / b with 0 ≤ c < b is k: the arithmetic of chunk().
    const terms = termsOf(a);
    const constant = terms.find((t) => t.atoms.length === 0)?.coefficient ?? 0;
    const base = dimDivide(build(terms.filter((t) => t.atoms.length > 0)), b);
    if (base !== undefined && constant >= 0) return dimAdd(base, Math.floor(constant / b));
  }
  return atom("floor", a, b);
}

/** ceil(a / b) for sizes (a ≥ 0, b > 0). */
export function dimCeilDiv(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return Math.ceil(a / b);
  return dimDivide(a, b) ?? atom("ceil", a, b);
}

export function dimMod(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return ((a % b) + b) % b;
  return dimDivide(a, b) !== undefined ? 0 : atom("mod", a, b);
}

export function dimMax(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return Math.max(a, b);
  const d = constantDifference(a, b);
  return d === undefined ? atom("max", a, b) : d >= 0 ? a : b;
}

export function dimMin(a: Dim, b: Dim): Dim {
  if (typeof a === "number" && typeof b === "number") return Math.min(a, b);
  const d = constantDifference(a, b);
  return d === undefined ? atom("min", a, b) : d <= 0 ? a : b;
}

/** Whether two sizes are the same polynomial (so equal whatever the symbols are). */
export function dimEquals(a: Dim, b: Dim): boolean {
  return a === b || (typeof a !== "number" && typeof b !== "number" && a.toString() === b.toString());
}

/** An identity for maps: equal sizes have equal keys. */
export function dimKey(d: Dim): string {
  return d.toString();
}

/** The size under `bindings`, or undefined while a symbol is unbound. */
export function evalDim(d: Dim, bindings: Bindings): number | undefined {
  if (typeof d === "number") return d;
  let sum = 0;
  for (const { coefficient, atoms } of d.terms) {
    let product = coefficient;
    for (const a of atoms) {
      const value = evalAtom(a, bindings);
      if (value === undefined) return undefined;
      product *= value;
    }
    sum += product;
  }
  return sum;
}

/** `d` with symbols replaced by sizes. */
export function substituteDim(d: Dim, by: ReadonlyMap<string, Dim>): Dim {
  if (typeof d === "number") return d;
  return d.terms.reduce<Dim>((sum, { coefficient, atoms }) => {
    const factors = atoms.map((a) =>
      a.kind === "symbol"
        ? by.get(a.name) ?? symbol(a.name)
        : call(a.kind, substituteDim(a.a, by), substituteDim(a.b, by))
    );
    return dimAdd(sum, dimMul(coefficient, dimProduct(factors)));
  }, 0);
}

/** The names of all symbols in `d`. */
export function symbolsOf(d: Dim, into: Set<string> = new Set()): Set<string> {
  if (typeof d === "number") return into;
  for (const { atoms } of d.terms) {
    for (const a of atoms) {
      if (a.kind === "symbol") into.add(a.name);
      else symbolsOf(a.a, symbolsOf(a.b, into) && into);
    }
  }
  return into;
}

/** Whether a symbol of `d` stands for a size that only data decides (NonZero): its name contains `#`. */
export function dependsOnData(d: Dim): boolean {
  return typeof d !== "number" && d.toString().includes("#");
}

/** The symbol's name if `d` is just one symbol. */
export function asSymbol(d: Dim): string | undefined {
  if (typeof d === "number" || d.terms.length !== 1) return undefined;
  const { coefficient, atoms } = d.terms[0]!;
  return coefficient === 1 && atoms.length === 1 && atoms[0]!.kind === "symbol" ? atoms[0]!.name : undefined;
}

/**
 * Reads what {@linkcode SymDim.toString} prints, and the expressions that exporters write as dim names
 * (`past_sequence_length + sequence_length`, `6*batch`). Any other string becomes one symbol.
 */
export function parseDim(text: string): Dim {
  const tokens = text.match(/[A-Za-z_][\w.#]*|\d+|[-+*/(),]|\S/g) ?? [];
  let at = 0;
  const fail = Symbol();
  function sum(): Dim {
    let left = tokens[at] === "-" ? (at++, dimMul(product(), -1)) : product();
    while (tokens[at] === "+" || tokens[at] === "-") {
      left = tokens[at++] === "+" ? dimAdd(left, product()) : dimSub(left, product());
    }
    return left;
  }
  function product(): Dim {
    let left = primary();
    while (tokens[at] === "*" || tokens[at] === "/") {
      left = tokens[at++] === "*" ? dimMul(left, primary()) : dimFloorDiv(left, primary());
    }
    return left;
  }
  function primary(): Dim {
    const t = tokens[at++] ?? "";
    if (/^\d+$/.test(t)) return Number(t);
    if (t === "(") return closed(sum());
    if (!/^[A-Za-z_]/.test(t)) throw fail;
    if (tokens[at] !== "(") return symbol(t);
    if (!["floor", "ceil", "mod", "max", "min"].includes(t)) throw fail;
    at++;
    const a = sum();
    if (tokens[at++] !== ",") throw fail;
    return call(t as DimFunction, a, closed(sum()));
  }
  function closed(d: Dim): Dim {
    if (tokens[at++] !== ")") throw fail;
    return d;
  }
  try {
    const d = sum();
    if (at !== tokens.length) throw fail;
    return d;
  } catch (error) {
    if (error !== fail) throw error;
    return symbol(text);
  }
}

function call(kind: DimFunction, a: Dim, b: Dim): Dim {
  return { floor: dimFloorDiv, ceil: dimCeilDiv, mod: dimMod, max: dimMax, min: dimMin }[kind](a, b);
}

function atom(kind: DimFunction, a: Dim, b: Dim): SymDim {
  return new SymDim([{ coefficient: 1, atoms: [{ kind, a, b }] }]);
}

function evalAtom(a: Atom, bindings: Bindings): number | undefined {
  if (a.kind === "symbol") return bindings.get(a.name);
  const x = evalDim(a.a, bindings), y = evalDim(a.b, bindings);
  if (x === undefined || y === undefined) return undefined;
  return call(a.kind, x, y) as number;
}

function constantDifference(a: Dim, b: Dim): number | undefined {
  const d = dimSub(a, b);
  return typeof d === "number" ? d : undefined;
}

function divideTerm(a: Term, b: Term): Term | undefined {
  if (a.coefficient % b.coefficient !== 0) return undefined;
  const rest = a.atoms.map(printAtom);
  const atoms = [...a.atoms];
  for (const factor of b.atoms) {
    const i = rest.indexOf(printAtom(factor));
    if (i < 0) return undefined;
    rest.splice(i, 1);
    atoms.splice(i, 1);
  }
  return { coefficient: a.coefficient / b.coefficient, atoms };
}

function termsOf(d: Dim): readonly Term[] {
  if (typeof d !== "number") return d.terms;
  return d === 0 ? [] : [{ coefficient: d, atoms: [] }];
}

/** Merges equal monomials, drops zeros, sorts by degree then name; a constant comes back as a number. */
function build(terms: readonly Term[]): Dim {
  const merged = new Map<string, Term>();
  for (const t of terms) {
    const key = t.atoms.map(printAtom).join("*");
    const coefficient = (merged.get(key)?.coefficient ?? 0) + t.coefficient;
    if (coefficient === 0) merged.delete(key);
    else merged.set(key, { coefficient, atoms: t.atoms });
  }
  if (merged.size === 0) return 0;
  const sorted = [...merged].sort(([a, s], [b, t]) => t.atoms.length - s.atoms.length || (a < b ? -1 : 1));
  if (sorted.length === 1 && sorted[0]![0] === "") return sorted[0]![1].coefficient;
  return new SymDim(sorted.map(([, t]) => t));
}

function sortAtoms(atoms: Atom[]): Atom[] {
  return atoms.sort((a, b) => (printAtom(a) < printAtom(b) ? -1 : 1));
}

function printAtom(a: Atom): string {
  return a.kind === "symbol" ? a.name : `${a.kind}(${a.a},${a.b})`;
}

function printTerms(terms: readonly Term[]): string {
  return terms.map(({ coefficient, atoms }, i) => {
    const magnitude = Math.abs(coefficient);
    const body = [...(magnitude !== 1 || atoms.length === 0 ? [String(magnitude)] : []), ...atoms.map(printAtom)].join(
      "*",
    );
    return coefficient < 0 ? `-${body}` : i > 0 ? `+${body}` : body;
  }).join("");
}
