/** Checks of the buffers that a collective is given: whose block is how long, where results go, and what is reduced how. */
import { InputError } from "../../core/errors.ts";
import { requireApart } from "./arguments.ts";
import {
  type Buf,
  type ReduceOp,
  type ReduceOpName,
  requireCount,
  requireSameDType,
  type View,
  viewOf,
} from "./buffers.ts";
import type { Place } from "./collective_steps.ts";
import { isPairOp, premultiplied, requirePairs, requireReducible } from "./operations.ts";

/** What only the root passes; undefined elsewhere. */
export function atRoot(place: Place, buf: Buf | null, root: number, what: string): View | undefined {
  if (place.rank !== root) return undefined;
  if (buf === null) throw new InputError(`Cannot do without ${what} at root ${root}`);
  return viewOf(buf, what);
}

/** Checks a collective of blocks: `own` is one rank's, `all` those of all ranks. */
export function blockCounts(
  place: Place,
  own: View,
  all: View | undefined,
  counts: readonly number[],
  displs?: readonly number[],
): readonly number[] {
  requireCount(own, perRank(place, counts)[place.rank]!, "this rank's block");
  if (all === undefined) return counts;
  requireSameDType(own, all);
  if (displs === undefined) requireCount(all, sum(counts), `the blocks of ${place.size} ranks`);
  return counts;
}

/** `counts`, if it is a list of as many as there are ranks. */
export function perRank(place: Place, counts: readonly number[]): readonly number[] {
  if (counts.length === place.size && counts.every((n) => Number.isSafeInteger(n) && n >= 0)) return counts;
  throw new InputError(`Cannot use [${counts.join(", ")}] as the counts of ${place.size} ranks`);
}

/** The same for each rank. */
export function even(place: Place, count: number): number[] {
  return Array.from({ length: place.size }, () => count);
}

/** The counts of a buffer that all ranks share evenly. */
export function evenBlocks(place: Place, view: View, displs?: readonly number[]): number[] {
  if (displs !== undefined) {
    throw new InputError("Cannot use displacements without counts", { hint: "pass sendCounts and recvCounts too" });
  }
  if (view.count % place.size === 0) return even(place, view.count / place.size);
  throw new InputError(`Cannot cut ${view.count} elements into ${place.size} equal blocks`, {
    hint: "pass sendCounts and recvCounts",
  });
}

/** Where a result goes: `recv`, or `send` itself. */
export function receiver(send: View, recv: Buf | undefined): View {
  if (recv === undefined) return send;
  const view = viewOf(recv, "the output");
  requireSameDType(send, view);
  requireCount(view, send.count, "the output");
  requireApart(send, view);
  return view;
}

/** How `op` reduces, and what of: `own`, or its products. `counts`: of blocks that are reduced for themselves. */
export function reduction(
  own: View,
  op: ReduceOp,
  counts: readonly number[] = [own.count],
): { readonly send: View; readonly by: ReduceOpName } {
  if (typeof op !== "string") return { send: premultiplied(own, op), by: "sum" };
  requireReducible(own.dtype, op);
  if (isPairOp(op)) requirePairs(op, counts);
  return { send: own, by: op };
}

/** The sum of `values`. */
export function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}
