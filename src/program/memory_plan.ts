/** Which private values of a program may share a buffer: those whose lifetimes do not meet. */
import { printType } from "../graph/types.ts";
import type { Program, Stored } from "./program.ts";

/** For every private value, the number of its buffer. Values that leave the program have buffers of their own. */
export function planBuffers(program: Program): Map<string, number> {
  const slots = new Map<string, number>();
  /** Per slot, the last segment that reads it, and the type that it held: equal types fit without growing. */
  const free: { slot: number; busyUntil: number; type: string }[] = [];
  const values = [...program.stored.values()].filter((v) => !v.shared).toSorted((a, b) => a.writtenBy - b.writtenBy);
  let count = 0;
  for (const value of values) {
    const type = printType(value.type);
    const fits = value.lastRead === Infinity
      ? undefined
      : free.find((f) => f.busyUntil < value.writtenBy && f.type === type);
    const slot = fits?.slot ?? count++;
    slots.set(value.name, slot);
    if (fits) fits.busyUntil = value.lastRead;
    else if (value.lastRead !== Infinity) free.push({ slot, busyUntil: value.lastRead, type });
  }
  return slots;
}

/** The shared values that a segment writes, each with its offset (bytes) in the segment's bank of every rank. */
export function sharedLayout(
  values: readonly Stored[],
  bytesOnRank: (value: Stored, rank: number) => number,
  ranks: number,
): { readonly offsets: ReadonlyMap<string, number>; readonly bytes: number } {
  const offsets = new Map<string, number>();
  let at = 0;
  for (const value of values) {
    offsets.set(value.name, at);
    // Every rank's part has room for the largest, so that offsets are equal everywhere.
    let most = 0;
    for (let r = 0; r < ranks; r++) most = Math.max(most, bytesOnRank(value, r));
    at += Math.ceil(most / 64) * 64;
  }
  return { offsets, bytes: at };
}
