/**
 * Proofs about masks: what they add to the score of a key, before a token and after it, whatever the inputs are.
 *
 * A mask is followed up to the comparison of indices that made it (`t <= past + s`, where `t` runs over the keys and `past + s` over
 * the tokens of this step, both made by Range), or to the triangle that was cut out of a constant (Trilu). On the way the numbers
 * that it may hold are kept as sets, apart for keys up to the token and for keys after it. What depends on data (padding) may be
 * either of its branches.
 * Sources: sdpa_mask and _prepare_4d_causal_attention_mask of Hugging Face's transformers, as Optimum and torch.export write them.
 */
import { type Dim, dimAdd, dimEquals } from "../../core/dim.ts";
import { intOf } from "../../graph/attributes.ts";
import { type Call, opKey } from "../../graph/graph.ts";
import { producers } from "../../graph/graph.ts";
import { isFused, type Matcher } from "./matcher.ts";

/** The sizes that a mask `[…, sequence, past + sequence]` is about. */
export interface MaskSizes {
  readonly past: Dim;
  readonly sequence: Dim;
}

/** One step by which scores are masked: a tensor that is added, times `scale`, or a number that takes the place of some. */
export type MaskTerm =
  | { readonly kind: "add"; readonly name: string; readonly scale: number }
  | { readonly kind: "where"; readonly condition: string; readonly shows: boolean; readonly hidden: number };

/** What a mask adds. */
export interface MaskProof {
  /** What is added up to the token: the numbers that are enough to hide a key. */
  readonly hidden: readonly number[];
}

/** What is added to hide a key must be at most this: then every score is lost in it. */
export const HIDES = -1e30;

/** Keys after the token of a row, keys up to it, or all. */
type Region = "after" | "before" | "all";

/** More numbers than this are not kept apart. */
const MOST_NUMBERS = 8;

/** Proves that the masks together hide every later key from every token, or says why that is not seen. */
export function proveCausal(terms: readonly MaskTerm[], m: Matcher, sizes: MaskSizes): MaskProof | string {
  const reader = new MaskReader(m, sizes);
  const after = reader.sum(terms, "after"), before = reader.sum(terms, "before");
  if (!after || !before) {
    const unknown = terms.find((t) => t.kind === "add" && !reader.numbers(t.name, "all"));
    return unknown?.kind === "add"
      ? `the mask is not seen to be made of conditions and numbers, but by ${opOf(unknown.name, m)}`
      : "the mask is not seen to be made of conditions and numbers";
  }
  const most = Math.max(...after), hidden = [...before].filter((x) => x <= HIDES);
  const hardly = [...after].find((x) => x > HIDES && x < 0);
  if (hardly !== undefined) return `the mask adds ${hardly} to what it hides, which is not enough to hide it`;
  if (most > HIDES) {
    return "the mask is not seen to hide later tokens: it is not made of `key <= token` and more conditions";
  }
  return { hidden };
}

function opOf(name: string, m: Matcher): string {
  const node = producers(m.graph).get(name);
  return node?.kind === "call_function" || node?.kind === "call_module" ? opKey(node) : node?.kind ?? "nothing";
}

/** Reads masks of one attention. */
class MaskReader {
  readonly #m: Matcher;
  readonly #sizes: MaskSizes;
  readonly #numbers = new Map<string, ReadonlySet<number> | undefined>();
  readonly #truths = new Map<string, boolean | undefined>();

  constructor(m: Matcher, sizes: MaskSizes) {
    this.#m = m;
    this.#sizes = sizes;
  }

  /** The numbers that all terms together may add. */
  sum(terms: readonly MaskTerm[], region: Region): ReadonlySet<number> | undefined {
    let total: ReadonlySet<number> | undefined = new Set([0]);
    for (const term of terms) {
      let own: ReadonlySet<number> | undefined;
      if (term.kind === "add") {
        own = combined(this.numbers(term.name, region), new Set([term.scale]), (a, b) => Math.fround(a * b));
      } else {
        const truth = this.truth(term.condition, region);
        own = truth === undefined ? new Set([0, term.hidden]) : new Set([truth === term.shows ? 0 : term.hidden]);
      }
      total = combined(total, own, (a, b) => Math.fround(a + b));
    }
    return total;
  }

  /** The numbers that a float tensor may hold; undefined where that is not known. */
  numbers(name: string, of: Region): ReadonlySet<number> | undefined {
    const region = this.#regionOf(name, of), key = `${region} ${name}`;
    if (!this.#numbers.has(key)) this.#numbers.set(key, this.#readNumbers(name, region));
    return this.#numbers.get(key);
  }

  /** What a bool tensor holds; undefined where it may hold both. */
  truth(name: string, of: Region): boolean | undefined {
    const region = this.#regionOf(name, of), key = `${region} ${name}`;
    if (!this.#truths.has(key)) this.#truths.set(key, this.#readTruth(name, region));
    return this.#truths.get(key);
  }

  /** What does not have a value for each token and key has no part that is before or after. */
  #regionOf(name: string, region: Region): Region {
    return this.#isMatrix(name) ? region : "all";
  }

  #readNumbers(name: string, region: Region): ReadonlySet<number> | undefined {
    const m = this.#m, constant = m.scalar(name);
    if (constant !== undefined) return new Set([constant]);
    const call = m.call(name, "Where", "Mul", "Add", "Trilu", "Cast", "ConstantOfShape", ...REORDERS);
    if (!call) return undefined;
    const [a = "", b = "", c = ""] = call.inputs;
    switch (call.op) {
      case "Where": {
        const truth = this.truth(a, region);
        if (truth !== undefined) return this.numbers(truth ? b : c, region);
        return union(this.numbers(b, region), this.numbers(c, region));
      }
      case "Mul":
      case "Add": {
        const op = call.op === "Mul" ? (x: number, y: number) => x * y : (x: number, y: number) => x + y;
        return combined(this.numbers(a, region), this.numbers(b, region), (x, y) => Math.fround(op(x, y)));
      }
      case "Trilu": {
        const inner = this.numbers(a, region), keeps = this.#keeps(call, region);
        return keeps === true ? inner : keeps === false ? new Set([0]) : union(inner, new Set([0]));
      }
      case "Cast": {
        if (m.value(a).type.dtype !== "bool") {
          return isFused(m.value(a).type.dtype) ? this.numbers(a, region) : undefined;
        }
        const truth = this.truth(a, region);
        return new Set(truth === undefined ? [0, 1] : [Number(truth)]);
      }
      case "ConstantOfShape": {
        const value = call.attributes.value;
        const number = value?.kind === "tensor" ? m.numberOf(value.value) : 0;
        return number === undefined ? undefined : new Set([number]);
      }
      default:
        return this.#isKept(call, region) ? this.numbers(a, region) : this.numbers(a, "all");
    }
  }

  #readTruth(name: string, region: Region): boolean | undefined {
    const m = this.#m, constant = m.constant(name)?.data;
    if (m.value(name).type.dtype !== "bool") return undefined;
    if (constant) {
      const bytes = constant.bytes();
      return bytes.every((x) => x !== 0) ? true : bytes.every((x) => x === 0) ? false : undefined;
    }
    const call = m.call(name, "And", "Or", "Not", "Cast", ...Object.keys(COMPARISONS), ...REORDERS);
    if (!call) return undefined;
    const [a = "", b = ""] = call.inputs;
    switch (call.op) {
      case "And":
      case "Or": {
        const decides = call.op === "Or", [x, y] = [this.truth(a, region), this.truth(b, region)];
        return x === decides || y === decides ? decides : x === undefined || y === undefined ? undefined : !decides;
      }
      case "Not": {
        const truth = this.truth(a, region);
        return truth === undefined ? undefined : !truth;
      }
      case "Cast": {
        if (m.value(a).type.dtype === "bool") return this.truth(a, region);
        const numbers = isFused(m.value(a).type.dtype) ? this.numbers(a, region) : undefined;
        if (!numbers) return undefined;
        return [...numbers].every((x) => x !== 0) ? true : [...numbers].every((x) => x === 0) ? false : undefined;
      }
      default: {
        const compared = COMPARISONS[call.op];
        if (call.op === "Slice" && region !== "all") {
          const cut = this.#readTriangle(name, region);
          if (cut !== undefined) return cut;
        }
        if (!compared) return this.truth(a, this.#isKept(call, region) ? region : "all");
        if (region === "all") return undefined;
        if (this.#isIndex(a, 1) && this.#isIndex(b, 2)) return compared.keyFirst[region];
        return this.#isIndex(a, 2) && this.#isIndex(b, 1) ? compared.tokenFirst[region] : undefined;
      }
    }
  }

  /** What is true of a square of constants of which the rows from `past` on and the first columns are cut out. */
  #readTriangle(name: string, region: "after" | "before"): boolean | undefined {
    const m = this.#m, from: (Dim | undefined)[] = [];
    let source = name;
    for (let slice = m.slice(source); slice; slice = m.slice(source)) {
      const fromRight = (m.shape(slice.input)?.length ?? 0) - slice.dim;
      if (fromRight > 2 || from[fromRight] !== undefined) return undefined;
      from[fromRight] = slice.from;
      source = slice.input;
    }
    const data = m.constant(source)?.data, [, columns = 0, rows = 0] = from;
    const size = data?.shape.at(-1) ?? 0;
    if (!data || data.dtype !== "bool" || data.shape.at(-2) !== size || !dimEquals(rows, this.#sizes.past)) {
      return undefined;
    }
    if (columns !== 0 || data.shape.slice(0, -2).some((d) => d !== 1)) return undefined;
    const bytes = data.bytes(), found = new Set<boolean>();
    for (let i = 0; i < size && found.size < 2; i++) {
      const [start, end] = region === "after" ? [i + 1, size] : [0, i + 1];
      for (let j = start; j < end; j++) found.add(bytes[i * size + j] !== 0);
    }
    return found.size === 1 ? [...found][0] : undefined;
  }

  /** Whether a call that moves or repeats elements leaves each at its token and key. */
  #isKept(call: Call, region: Region): boolean {
    if (region === "all") return false;
    const input = call.inputs[0]!;
    // Reshape and Expand keep the order of the elements, or repeat them along the dims before the last two.
    if (call.op !== "Slice") return this.#isMatrix(input);
    const slice = this.#m.slice(call.outputs[0]!), ndim = this.#m.shape(input)?.length ?? 0;
    return slice !== undefined && this.#isMatrix(input) && (slice.from === 0 || slice.dim < ndim - 2);
  }

  /** Whether Trilu keeps the elements of a region: true or false where it keeps all or none of them. */
  #keeps(call: Call, region: Region): boolean | undefined {
    const m = this.#m, [input = "", k = ""] = call.inputs;
    const offset = k === "" ? 0 : m.sizes(k)?.[0], isUpper = (intOf(call.attributes, "upper") ?? 1) === 1;
    if (region === "all" || offset === undefined || !this.#isMatrix(input)) return undefined;
    // A key after token `s` is at least `past + s + 1`, so it is on or above the diagonal 1 whatever the past.
    if (isUpper && region === "after" && typeof offset === "number" && offset <= 1) return true;
    if (dimEquals(offset, this.#sizes.past) && !isUpper) return region === "before";
    return dimEquals(offset, dimAdd(this.#sizes.past, 1)) && isUpper ? region === "after" : undefined;
  }

  /** Whether the last two dims are this step's tokens and all keys. */
  #isMatrix(name: string): boolean {
    const { past, sequence } = this.#sizes, shape = this.#m.shape(name);
    return shape !== undefined && this.#m.sameDim(shape.at(-2), sequence) &&
      this.#m.sameDim(shape.at(-1), dimAdd(past, sequence));
  }

  /** Whether the tensor counts the keys (the first dim from the right) or this step's tokens (the second), and has no other dim. */
  #isIndex(name: string, fromRight: 1 | 2): boolean {
    const { past, sequence } = this.#sizes;
    return fromRight === 1
      ? this.#m.counts(name, { fromRight, start: 0, length: dimAdd(past, sequence) })
      : this.#m.counts(name, { fromRight, start: past, length: sequence });
  }
}

/** Ops that hold what their first input does, elsewhere. */
const REORDERS = ["Expand", "Slice", "Unsqueeze", "Reshape", "Identity"];

/** What comparisons of a key's index and a token's are, by which is first. */
const COMPARISONS: Readonly<
  Record<string, Record<"keyFirst" | "tokenFirst", { readonly after?: boolean; readonly before?: boolean }>>
> = {
  LessOrEqual: { keyFirst: { after: false, before: true }, tokenFirst: { after: true } },
  Less: { keyFirst: { after: false }, tokenFirst: { after: true, before: false } },
  GreaterOrEqual: { keyFirst: { after: true }, tokenFirst: { after: false, before: true } },
  Greater: { keyFirst: { after: true, before: false }, tokenFirst: { after: false } },
};

function union(a: ReadonlySet<number> | undefined, b: ReadonlySet<number> | undefined) {
  const all = a && b && a.union(b);
  return all && all.size <= MOST_NUMBERS ? all : undefined;
}

function combined(
  a: ReadonlySet<number> | undefined,
  b: ReadonlySet<number> | undefined,
  op: (a: number, b: number) => number,
): ReadonlySet<number> | undefined {
  if (!a || !b) return undefined;
  // Both zeros add nothing.
  const all = new Set([...a].flatMap((x) => [...b].map((y) => op(x, y) + 0)));
  return all.size <= MOST_NUMBERS && ![...all].some(Number.isNaN) ? all : undefined;
}
