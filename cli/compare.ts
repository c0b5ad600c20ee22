/** How far tensors are from what they should be. */
import { type HostTensor, toNumbers } from "../src/core/host_tensor.ts";
import { type RoundingBound, roundingBound } from "./rounding_bound.ts";

/** The difference of one output. */
export interface OutputDifference {
  readonly name: string;
  /** Largest absolute difference. */
  readonly maxAbs: number;
  /** Largest relative difference, where the expected value is larger than `atol`. */
  readonly maxRel: number;
  /** Whether every element is within the tolerance, and dtype and shape are equal. */
  readonly pass: boolean;
  /** Why there are no differences to give, or which bound is not kept. */
  readonly problem?: string;
  /** Of a model that is held in 16 bits: the root of the mean square of the differences beyond the tolerance, and how large it may be. */
  readonly rms?: number;
  readonly rmsAllowed?: number;
}

/** What comparing two sides of a case finds. */
export interface Difference {
  readonly pass: boolean;
  readonly outputs: readonly OutputDifference[];
  /** Why it failed before there was anything to compare, or which token differs. */
  readonly problem?: string;
}

/** What is allowed. */
export interface Tolerance {
  readonly atol: number;
  readonly rtol: number;
}

/** What rounding does to outputs, where a model is held in 16 bits. */
export interface RoundedRun {
  /** What the model gives unsplit with every value rounded, by output. */
  readonly outputs: ReadonlyMap<string, HostTensor>;
  /** For how many ranks a bound is wanted. */
  readonly ranks: number;
}

/**
 * Compares tensors by name; an output that is missing, or that nobody expects, is a difference. With `rounded`, outputs may differ by what
 * rounding explains besides.
 */
export function compareTensors(
  got: Readonly<Record<string, HostTensor>>,
  expected: ReadonlyMap<string, HostTensor>,
  tolerance: Tolerance,
  rounded?: RoundedRun,
): OutputDifference[] {
  const names = [...expected.keys(), ...Object.keys(got).filter((name) => !expected.has(name))];
  return names.map((name) => {
    const a = Object.hasOwn(got, name) ? got[name] : undefined;
    const b = expected.get(name);
    if (a === undefined || b === undefined) {
      return different(name, a === undefined ? "the output is missing" : "nobody expects this output");
    }
    const other = rounded?.outputs.get(name);
    if (!rounded || !other) return compareTensor(name, a, b, tolerance);
    const bound = roundingBound(b, other, rounded.ranks);
    return typeof bound === "string" ? different(name, bound) : compareTensor(name, a, b, { ...tolerance, bound });
  });
}

function compareTensor(
  name: string,
  a: HostTensor,
  b: HostTensor,
  { atol, rtol, bound }: Tolerance & { readonly bound?: RoundingBound },
): OutputDifference {
  if (a.dtype !== b.dtype || a.shape.length !== b.shape.length || a.shape.some((d, i) => d !== b.shape[i])) {
    return different(name, `is ${a.dtype}[${a.shape}], expected ${b.dtype}[${b.shape}]`);
  }
  const x = toNumbers(a), y = toNumbers(b);
  const most = bound?.max ?? 0;
  let maxAbs = 0, maxRel = 0, pass = true, squares = 0;
  for (let i = 0; i < y.length; i++) {
    const size = Math.abs(y[i]!);
    // Equal infinities differ by NaN, and two NaNs are equal here.
    if (Object.is(x[i], y[i])) continue;
    const d = Math.abs(x[i]! - y[i]!);
    const allowed = atol + rtol * size;
    if (!(d <= allowed + most) || d === Infinity) pass = false;
    if (d > allowed) squares += (d - allowed) ** 2;
    if (!(d <= maxAbs)) maxAbs = d;
    if (size > atol && !(d / size <= maxRel)) maxRel = d / size;
  }
  if (!bound) return { name, maxAbs, maxRel, pass };
  const rms = Math.sqrt(squares / Math.max(1, y.length)), even = rms <= bound.rms;
  const told = { name, maxAbs, maxRel, rms, rmsAllowed: bound.rms };
  if (even && pass) return { ...told, pass };
  const problem = even
    ? `one element is off by more than the ${bound.max.toExponential(1)} that rounding explains`
    : `elements are off by ${rms.toExponential(1)} (root of the mean square), of which rounding explains ${
      bound.rms.toExponential(1)
    }`;
  return { ...told, pass: false, problem };
}

/** Compares token ids: the first that is another. */
export function compareIds(got: readonly number[], expected: readonly number[]): Difference {
  const wrong = expected.findIndex((id, i) => id !== got[i]);
  if (wrong < 0) return { pass: true, outputs: [] };
  const problem = `token ${wrong + 1} of ${expected.length} is ${got[wrong]}, expected ${expected[wrong]}`;
  return { pass: false, outputs: [], problem };
}

function different(name: string, problem: string): OutputDifference {
  return { name, maxAbs: NaN, maxRel: NaN, pass: false, problem };
}
