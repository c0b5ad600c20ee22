/** Tensors of the conformance suite: bytes that every rank can compute for every other, and their comparison. */
import { Buffer } from "node:buffer";
import { byteLength } from "../../../src/core/dtype.ts";
import type { CommDType, ReduceOpName, TypedBuffer } from "../../../src/runtime/comm/buffers.ts";
import { decode, encode, inputOf, isFloat, reduceReference, type Values } from "./reference.ts";

/** Elements after which a longer tensor repeats itself; a prime, so that no piece of a collective begins at a period. */
const PERIOD = 1021;

/** Elements of `n`, of a seed; the same at every rank. */
export interface Source {
  readonly dtype: CommDType;
  readonly n: number;
  readonly base: Values;
}

/** What `seed` contributes. Pairs need an even period, so that they stay pairs when it repeats. */
export function source(dtype: CommDType, n: number, seed: number): Source {
  return { dtype, n, base: inputOf(dtype, Math.min(n, PERIOD - PERIOD % 2), seed) };
}

/** The bytes of `sources`, one after the other. */
export function bytesOf(...sources: readonly Source[]): Uint8Array<ArrayBuffer> {
  const parts = sources.map(({ dtype, n, base }) => {
    const once = encode(dtype, base), out = new Uint8Array(byteLength(dtype, n));
    for (let at = 0; at < out.length; at += once.length) {
      out.set(once.subarray(0, Math.min(once.length, out.length - at)), at);
    }
    return out;
  });
  if (parts.length === 1) return parts[0]!;
  const all = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** What reducing `sources` in the order of ranks gives. */
export function reduced(op: ReduceOpName, sources: readonly Source[]): Source {
  const { dtype, n } = sources[0]!;
  return { dtype, n, base: reduceReference(dtype, op, sources.map((s) => s.base)) };
}

/** A buffer that holds `bytes`, at the start of its memory or one element after it. */
export function bufferOf(dtype: CommDType, bytes: Uint8Array, aligned = true): TypedBuffer {
  const offset = aligned ? 0 : byteLength(dtype, 1);
  const data = new Uint8Array(new ArrayBuffer(offset + bytes.length), offset);
  data.set(bytes);
  return { dtype, data };
}

/** A buffer of `n` elements that are no zeros, so that an element left out shows. */
export function garbage(dtype: CommDType, n: number, aligned = true): TypedBuffer {
  return bufferOf(dtype, bytesOf(source(dtype, n, 999)), aligned);
}

/** The bytes of `buffer`. */
export function bytesIn({ data }: TypedBuffer): Uint8Array {
  return new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
}

/** How far a result may be from the reference. */
export interface Tolerance {
  /** Of how many ranks' elements it is the sum; rounding may have happened in any order, at each, in the dtype itself. */
  readonly terms: number;
}

/** Rounding error of one operation, relative. */
const EPSILON: Readonly<Partial<Record<CommDType, number>>> = {
  ...{ f64: 2 ** -52, f32: 2 ** -23, f16: 2 ** -10, bf16: 2 ** -7, f8e4m3fn: 2 ** -3, f8e5m2: 2 ** -2 },
};

/**
 * Where `found` is not `expected`, in words; undefined where it is. Without a tolerance every value must be the same one, 0 unlike
 * -0, NaN like NaN. With one, floats may differ by roundings, and where a NaN met other numbers anything may come out.
 */
export function difference(
  found: TypedBuffer,
  expected: Uint8Array,
  o: { readonly tolerance?: Tolerance | undefined; readonly inputs?: readonly Uint8Array[] } = {},
): string | undefined {
  const bytes = bytesIn(found), { dtype } = found;
  if (bytes.length !== expected.length) return `${bytes.length} bytes, expected ${expected.length}`;
  if (Buffer.compare(bytes, expected) === 0) return undefined;
  const a = decode(dtype, bytes), b = decode(dtype, expected);
  const inputs = o.tolerance === undefined || !isFloat(dtype) ? [] : (o.inputs ?? []).map((x) => decode(dtype, x));
  const same = (i: number) => {
    if (Object.is(a[i], b[i])) return true;
    if (o.tolerance === undefined || !isFloat(dtype)) return false;
    return close(dtype, [a[i] as number, b[i] as number], inputs.map((x) => x[i] as number), o.tolerance);
  };
  const at = a.findIndex((_, i) => !same(i));
  return at < 0 ? undefined : `element ${at} is ${a[at]}, expected ${b[at]}`;
}

function close(dtype: CommDType, [a, b]: readonly [number, number], inputs: readonly number[], t: Tolerance): boolean {
  if (inputs.some((x) => !Number.isFinite(x))) return true; // engines differ in what they make of NaN and infinity
  const scale = Math.abs(b) + inputs.reduce((sum, x) => sum + Math.abs(x), 0);
  return Math.abs(a - b) <= EPSILON[dtype]! * t.terms * scale || !Number.isFinite(b);
}
