/**
 * Blocks that do not lie one after the other: engines know contiguous blocks only, so those with displacements go through memory
 * of their own, packed when the collective begins and laid out when it is done.
 */
import { byteLength, type DType } from "../../core/dtype.ts";
import { InputError } from "../../core/errors.ts";
import type { View } from "./buffers.ts";
import type { Steps } from "./collectives.ts";

/** Where each rank's block begins, in elements, and how long it is. */
export interface Layout {
  readonly counts: readonly number[];
  readonly displs: readonly number[];
}

/** @throws {InputError} Unless all blocks lie in `view`, and, where they are written to, apart from each other. */
export function requireLayout(
  view: View,
  layout: Layout,
  o: { readonly what: string; readonly written: boolean },
): void {
  const { counts, displs } = layout;
  if (displs.length !== counts.length) {
    throw new InputError(`Cannot use ${displs.length} displacements for the blocks of ${counts.length} ranks`);
  }
  const blocks = displs.map((start, rank) => ({ rank, start, end: start + counts[rank]! }));
  const outside = blocks.find((b) => !Number.isSafeInteger(b.start) || b.start < 0 || b.end > view.count);
  if (outside !== undefined) {
    throw new InputError(
      `Cannot place the block of rank ${outside.rank} at ${outside.start}, of ${
        outside.end - outside.start
      } elements: ${o.what} has ${view.count}`,
    );
  }
  if (!o.written) return;
  const inOrder = blocks.filter((b) => b.end > b.start).sort((a, b) => a.start - b.start);
  const clash = inOrder.find((b, i) => i > 0 && b.start < inOrder[i - 1]!.end);
  if (clash !== undefined) {
    throw new InputError(`Cannot place the block of rank ${clash.rank} at ${clash.start}: another rank's lies there`);
  }
}

/** Room for all blocks of `layout`, one after the other. */
export function roomFor(view: View, layout: Layout): View {
  const count = layout.counts.reduce((a, b) => a + b, 0);
  return { ...view, bytes: new Uint8Array(byteLength(view.dtype as DType, count)), count, symmetric: undefined };
}

/** Copies the blocks of `view` to `packed`, or back. */
function copyBlocks(view: View, packed: View, layout: Layout, way: "pack" | "lay out"): void {
  let at = 0;
  layout.counts.forEach((count, rank) => {
    const start = layout.displs[rank]! * view.itemBytes, length = count * view.itemBytes;
    const apart = view.bytes.subarray(start, start + length), together = packed.bytes.subarray(at, at += length);
    if (way === "pack") together.set(apart);
    else apart.set(together);
  });
}

/** `steps` with the blocks of `from` packed before, and those of `to` laid out after. */
export function* withLayouts<T>(
  o: { readonly from?: Placed | undefined; readonly to?: Placed | undefined },
  steps: () => Steps<T>,
): Steps<T> {
  if (o.from !== undefined) copyBlocks(o.from.view, o.from.packed, o.from.layout, "pack");
  const result = yield* steps();
  if (o.to !== undefined) copyBlocks(o.to.view, o.to.packed, o.to.layout, "lay out");
  return result;
}

/** A buffer with blocks apart, and the memory in which they lie together. */
export interface Placed {
  readonly view: View;
  readonly packed: View;
  readonly layout: Layout;
}

/** Checks and makes what `displs` ask for; undefined where there are none, or no buffer. */
export function placed(
  view: View | undefined,
  counts: readonly number[],
  displs: readonly number[] | undefined,
  o: { readonly what: string; readonly written: boolean },
): Placed | undefined {
  if (view === undefined || displs === undefined) return undefined;
  const layout = { counts, displs };
  requireLayout(view, layout, o);
  return { view, layout, packed: roomFor(view, layout) };
}
