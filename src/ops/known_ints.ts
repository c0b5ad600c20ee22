/**
 * Arithmetic on known integer contents: what `Shape → Gather → Concat` chains compute.
 *
 * Contents are small (at most {@linkcode MAX_KNOWN} elements) and hold sizes, so symbols stand for numbers ≥ 0. A result
 * that cannot be told is undefined, never a guess.
 */
import {
  type Dim,
  dimAdd,
  dimEquals,
  dimFloorDiv,
  dimMax,
  dimMin,
  dimMod,
  dimMul,
  dimSub,
  symbolsOf,
} from "../core/dim.ts";
import type { DType } from "../core/dtype.ts";
import type { KnownInts, Shape } from "../graph/types.ts";

/** Contents with more elements are not followed. */
export const MAX_KNOWN = 128;

/** A rank-0 content. */
export function knownScalar(value: Dim): KnownInts {
  return { dims: [], elements: [value] };
}

/** A rank-1 content. */
export function knownVector(elements: readonly Dim[]): KnownInts | undefined {
  return elements.length <= MAX_KNOWN ? { dims: [elements.length], elements } : undefined;
}

/** A content of any shape, or undefined where it is too large. */
export function known(dims: readonly number[], elements: readonly Dim[]): KnownInts | undefined {
  return elements.length <= MAX_KNOWN ? { dims, elements } : undefined;
}

/** The numbers of a content that has no symbols. */
export function constantInts(ints: KnownInts | undefined): readonly number[] | undefined {
  return ints?.elements.every((e) => typeof e === "number") ? ints.elements as readonly number[] : undefined;
}

/** Whether `dtype` can hold a known content. */
export function isIntegral(dtype: DType | undefined): boolean {
  return dtype === "i64" || dtype === "i32" || dtype === "bool" || dtype === "u8" || dtype === "i8" ||
    dtype === "i16" || dtype === "u16" || dtype === "u32" || dtype === "u64";
}

/** Whether a size depends on data (a symbol with `#`), so that it may stand for any integer. */
export function isDataDependent(d: Dim): boolean {
  return typeof d !== "number" && [...symbolsOf(d)].some((s) => s.includes("#"));
}

/** A Reshape target in which the one size that data decides, if there is one, is left to Reshape to infer. */
export function inferredTarget(target: Shape): Shape {
  return target.filter(isDataDependent).length === 1 ? target.map((d) => (isDataDependent(d) ? -1 : d)) : target;
}

/** Applies `f` element by element with broadcasting; undefined where an element is, or where shapes do not fit. */
export function mapKnown(
  operands: readonly (KnownInts | undefined)[],
  f: (...elements: Dim[]) => Dim | undefined,
): KnownInts | undefined {
  if (operands.some((o) => o === undefined)) return undefined;
  const all = operands as readonly KnownInts[];
  const rank = Math.max(...all.map((o) => o.dims.length));
  const dims = Array.from({ length: rank }, (_, i) => {
    const sizes = all.map((o) => o.dims[i - rank + o.dims.length] ?? 1);
    return sizes.find((s) => s !== 1) ?? 1;
  });
  const fits = all.every((o) => o.dims.every((d, i) => d === 1 || d === dims[i + rank - o.dims.length]));
  const count = dims.reduce((a, b) => a * b, 1);
  if (!fits || count > MAX_KNOWN) return undefined;
  const elements: Dim[] = [];
  for (let i = 0; i < count; i++) {
    const value = f(...all.map((o) => o.elements[sourceIndex(i, dims, o.dims)]!));
    if (value === undefined) return undefined;
    elements.push(value);
  }
  return { dims, elements };
}

/** Index into an operand of shape `from` that broadcasts to element `flat` of shape `to`. */
function sourceIndex(flat: number, to: readonly number[], from: readonly number[]): number {
  let rest = flat, index = 0, stride = 1;
  for (let i = to.length - 1; i >= 0; i--) {
    const at = rest % to[i]!;
    rest = Math.floor(rest / to[i]!);
    const size = from[i - to.length + from.length];
    if (size === undefined) continue;
    if (size !== 1) index += at * stride;
    stride *= size;
  }
  return index;
}

/** Whether a size can be told to be ≥ 0 (symbols are). */
function nonNegative(d: Dim): boolean {
  return typeof d === "number" ? d >= 0 : !isDataDependent(d) && d.terms.every((t) => t.coefficient >= 0);
}

/** Integer functions on sizes, as ONNX's ops of the same name compute them. */
export const INT_FUNCTIONS: Readonly<Record<string, (a: Dim, b: Dim) => Dim | undefined>> = {
  Add: dimAdd,
  Sub: dimSub,
  Mul: dimMul,
  Div: (a, b) => {
    if (b === 0) return undefined;
    if (typeof a === "number" && typeof b === "number") return Math.trunc(a / b);
    return dimFloorDiv(a, b);
  },
  Mod: (a, b) => (b === 0 ? undefined : dimMod(a, b)),
  Min: dimMin,
  Max: (a, b) => (a === 0 && nonNegative(b) ? b : b === 0 && nonNegative(a) ? a : dimMax(a, b)),
  Pow: (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a ** b;
    return b === 0 ? 1 : b === 1 ? a : b === 2 ? dimMul(a, a) : undefined;
  },
  And: (a, b) => (a === 0 || b === 0 ? 0 : bothNumbers(a, b, (x, y) => x !== 0 && y !== 0)),
  Or: (a, b) => ((typeof a === "number" && a !== 0) || (typeof b === "number" && b !== 0) ? 1 : bothZero(a, b)),
  Xor: (a, b) => bothNumbers(a, b, (x, y) => (x !== 0) !== (y !== 0)),
  Equal: (a, b) => {
    if (dimEquals(a, b)) return 1;
    const d = dimSub(a, b);
    if (typeof d === "number") return 0;
    // A size is never negative: this dissolves the expand(-1) idiom of exporters.
    const size = typeof a === "number" ? b : a, other = typeof a === "number" ? a : b;
    return typeof other === "number" && other < 0 && !isDataDependent(size) ? 0 : undefined;
  },
  Less: (a, b) => compare(a, b, (d) => d < 0),
  LessOrEqual: (a, b) => compare(a, b, (d) => d <= 0),
  Greater: (a, b) => compare(a, b, (d) => d > 0),
  GreaterOrEqual: (a, b) => compare(a, b, (d) => d >= 0),
};

/** Integer functions of one size. */
export const INT_UNARY: Readonly<Record<string, (a: Dim) => Dim | undefined>> = {
  Neg: (a) => dimMul(a, -1),
  Abs: (a) => (typeof a === "number" ? Math.abs(a) : nonNegative(a) ? a : undefined),
  Not: (a) => (typeof a === "number" ? Number(a === 0) : undefined),
  Sign: (a) => (typeof a === "number" ? Math.sign(a) : undefined),
  Identity: (a) => a,
};

function compare(a: Dim, b: Dim, test: (difference: number) => boolean): Dim | undefined {
  const d = dimSub(a, b);
  return typeof d === "number" ? Number(test(d)) : undefined;
}

function bothNumbers(a: Dim, b: Dim, test: (x: number, y: number) => boolean): Dim | undefined {
  return typeof a === "number" && typeof b === "number" ? Number(test(a, b)) : undefined;
}

function bothZero(a: Dim, b: Dim): Dim | undefined {
  return a === 0 && b === 0 ? 0 : undefined;
}
