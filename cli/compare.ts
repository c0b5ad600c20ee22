/** How far tensors are from what they should be. */
import { type HostTensor, toNumbers } from "../src/core/host_tensor.ts";

/** The difference of one output. */
export interface OutputDifference {
  readonly name: string;
  /** Largest absolute difference. */
  readonly maxAbs: number;
  /** Largest relative difference, where the expected value is larger than `atol`. */
  readonly maxRel: number;
  /** Whether every element is within the tolerance, and dtype and shape are equal. */
  readonly pass: boolean;
  /** Why there are no differences to give. */
  readonly problem?: string;
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
  /** Besides, this much of the largest finite element that is expected of an output; 0 by default. */
  readonly ofLargest?: number;
}

/** Compares tensors by name; an output that is missing, or that nobody expects, is a difference. */
export function compareTensors(
  got: Readonly<Record<string, HostTensor>>,
  expected: ReadonlyMap<string, HostTensor>,
  tolerance: Tolerance,
): OutputDifference[] {
  const names = [...expected.keys(), ...Object.keys(got).filter((name) => !expected.has(name))];
  return names.map((name) => {
    const a = Object.hasOwn(got, name) ? got[name] : undefined;
    const b = expected.get(name);
    if (a === undefined || b === undefined) {
      return different(name, a === undefined ? "the output is missing" : "nobody expects this output");
    }
    return compareTensor(name, a, b, tolerance);
  });
}

function compareTensor(
  name: string,
  a: HostTensor,
  b: HostTensor,
  { atol, rtol, ofLargest = 0 }: Tolerance,
): OutputDifference {
  if (a.dtype !== b.dtype || a.shape.length !== b.shape.length || a.shape.some((d, i) => d !== b.shape[i])) {
    return different(name, `is ${a.dtype}[${a.shape}], expected ${b.dtype}[${b.shape}]`);
  }
  const x = toNumbers(a), y = toNumbers(b);
  let largest = 0;
  for (let i = 0; i < y.length && ofLargest > 0; i++) {
    const size = Math.abs(y[i]!);
    if (size < Infinity && size > largest) largest = size;
  }
  let maxAbs = 0, maxRel = 0, pass = true;
  for (let i = 0; i < y.length; i++) {
    const size = Math.abs(y[i]!);
    // Equal infinities differ by NaN, and two NaNs are equal here.
    if (Object.is(x[i], y[i])) continue;
    const d = Math.abs(x[i]! - y[i]!);
    if (!(d <= atol + rtol * size + ofLargest * largest) || d === Infinity) pass = false;
    if (!(d <= maxAbs)) maxAbs = d;
    if (size > atol && !(d / size <= maxRel)) maxRel = d / size;
  }
  return { name, maxAbs, maxRel, pass };
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
