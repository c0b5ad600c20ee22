/** Whole tensors and their shards: what goes in and comes out at the border between a caller and the ranks. */
import { byteLength } from "../core/dtype.ts";
import { evalDim } from "../core/dim.ts";
import { type HostTensor, hostTensorBytes, hostTensorFromBytes } from "../core/host_tensor.ts";
import { sliceBytes } from "../graph/builder.ts";
import { assemble, type Layout, localSize, type Range } from "../graph/layout.ts";
import type { Placement } from "../graph/placement.ts";
import type { Communicator } from "./comm/communicator.ts";

/** What gathering needs of a communicator. */
export type GatherGroup = Pick<Communicator, "rank" | "size" | "backend" | "arena" | "barrierSync" | "allGather">;

/** This rank's part of a whole tensor. */
export function shardTensor(tensor: HostTensor, placement: Placement, rank: number): HostTensor {
  if (placement.kind !== "S") return tensor;
  const { dim, layout } = placement;
  const repeats = repetitions(layout, tensor.shape[dim]!);
  const ranges = Array.from({ length: repeats }, (_, o) => o).flatMap((o) =>
    layout.parts[rank]!.map(([a, b]): Range => [o * layout.size + a, o * layout.size + b])
  );
  const shape = tensor.shape.with(dim, repeats * localSize(layout, rank));
  return hostTensorFromBytes(
    tensor.dtype,
    shape,
    sliceBytes(hostTensorBytes(tensor), tensor.dtype, tensor.shape, { dim, ranges }),
  );
}

/** The whole tensor from all ranks' parts; all ranks call it together, and all get it. */
export function gatherTensor(local: HostTensor, placement: Placement, group: GatherGroup): HostTensor {
  if (placement.kind !== "S" || group.size === 1) return copyTensor(local);
  const { dim, layout } = placement;
  const own = localSize(layout, group.rank);
  const repeats = own > 0 ? local.shape[dim]! / own : evalDim(layout.outer, new Map()) ?? 1;
  const whole = local.shape.with(dim, repeats * layout.size);
  const inner = byteLength(local.dtype, whole.slice(dim + 1).reduce((a, b) => a * b, 1));
  const outer = whole.slice(0, dim).reduce((a, b) => a * b, 1) * repeats;
  const bytesOf = (r: number) => outer * localSize(layout, r) * inner;
  const parts = partsOfAll(hostTensorBytes(local), layout.parts.map((_, r) => bytesOf(r)), group);
  const out = new Uint8Array(outer * layout.size * inner);
  let at = 0;
  for (let o = 0; o < outer; o++) {
    for (const { rank, start, end } of assemble(layout)) {
      const row = o * localSize(layout, rank) * inner;
      out.set(parts.bytes[rank]!.subarray(row + start * inner, row + end * inner), at);
      at += (end - start) * inner;
    }
  }
  parts.release();
  return hostTensorFromBytes(local.dtype, whole, out);
}

/** All ranks' bytes, of which rank r has `sizes[r]`; in place where ranks share memory, else copied. */
function partsOfAll(
  own: Uint8Array,
  sizes: readonly number[],
  group: GatherGroup,
): { readonly bytes: readonly Uint8Array[]; readonly release: () => void } {
  if (group.backend !== "shm") {
    const all = new Uint8Array(sizes.reduce((a, b) => a + b, 0));
    group.allGather(own, all, { counts: sizes }).waitSync();
    let at = 0;
    return { bytes: sizes.map((size) => all.subarray(at, at += size)), release: () => {} };
  }
  const mark = group.arena.mark(), buffer = group.arena.alloc(Math.max(...sizes));
  buffer.local.set(own);
  group.barrierSync();
  const bytes = sizes.map((_, r) => (r === group.rank ? buffer.local : buffer.peer(r)));
  return {
    bytes,
    release: () => {
      group.barrierSync();
      group.arena.reset(mark);
    },
  };
}

/** A copy that outlives the executor's buffers. */
export function copyTensor(tensor: HostTensor): HostTensor {
  return { ...tensor, data: tensor.data.slice() };
}

function repetitions(layout: Layout, size: number): number {
  return size / layout.size;
}
