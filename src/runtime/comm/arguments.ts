/** Checks of what a caller passes beside buffers, the same for every engine, so that a slip is told where it is made. */
import { InputError } from "../../core/errors.ts";
import type { View } from "./buffers.ts";

/** The largest tag of a message; an engine may have fewer. */
const MOST_TAG = 2 ** 31 - 1;

/** @throws {InputError} Unless `rank` is one of the group's. */
export function requireRank({ size }: { readonly size: number }, rank: number): void {
  if (Number.isInteger(rank) && rank >= 0 && rank < size) return;
  throw new InputError(`Cannot use ${rank} as a rank: expected 0 to ${size - 1}`);
}

/** @throws {InputError} Unless `tag` is a whole number that a message can carry. */
export function requireTag(tag: unknown): void {
  if (typeof tag === "number" && Number.isInteger(tag) && tag >= 0 && tag <= MOST_TAG) return;
  const text = `Cannot use ${Deno.inspect(tag)} as a tag: expected a whole number of 0 to ${MOST_TAG}`;
  throw new InputError(text, tag === "any" ? { hint: "only a receive may ask for any tag" } : {});
}

/** @throws {InputError} Unless `timeoutMs` is a time; `Infinity` is one. */
export function requireTimeout(timeoutMs: unknown): void {
  if (timeoutMs === undefined || (typeof timeoutMs === "number" && timeoutMs >= 0)) return; // not NaN
  throw new InputError(`Cannot wait ${Deno.inspect(timeoutMs)} ms: expected a number from 0 on, or Infinity`);
}

/** @throws {InputError} Unless they can say which new group a rank is in, and where. */
export function requirePlace(color: unknown, key: unknown): void {
  if (color !== null && !Number.isSafeInteger(color)) {
    throw new InputError(`Cannot split by color ${Deno.inspect(color)}: expected a whole number, or null for no group`);
  }
  if (Number.isNaN(key) || typeof key !== "number") {
    throw new InputError(`Cannot order a split by key ${Deno.inspect(key)}: expected a number`);
  }
}

/** Whether two views share bytes. */
export function overlap(a: View, b: View): boolean {
  return a.bytes.buffer === b.bytes.buffer && a.bytes.byteOffset < b.bytes.byteOffset + b.bytes.length &&
    b.bytes.byteOffset < a.bytes.byteOffset + a.bytes.length;
}

/** @throws {InputError} Unless `recv` is `send` itself, or shares nothing with it. */
export function requireApart(send: View, recv: View): void {
  if (!overlap(send, recv) || send.bytes.byteOffset === recv.bytes.byteOffset) return;
  throw new InputError(
    `Cannot reduce into an output that overlaps its input by a part: they begin at bytes ${recv.bytes.byteOffset} and ${send.bytes.byteOffset}`,
    { hint: "pass no recv to replace the input, or memory of its own" },
  );
}
