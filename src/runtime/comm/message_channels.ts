/** Where messages between ranks lie: a ring of bytes for every pair, in memory that all ranks of a group can reach. */
import type { SymmetricArena, SymmetricBuffer } from "./arena.ts";

/** Bytes of a channel: two words on lines of their own, then the ring. */
export const RING_BYTES = 32 * 1024, CHANNEL_BYTES = 256 + RING_BYTES;

/** The `CHANNEL_BYTES` of messages from one rank to another, zeros at first. */
export type ChannelOf = (from: number, to: number) => Uint8Array;

/** The channels of `size` ranks, in memory of `arena` that is taken when the first of them is needed. */
export function channelsIn(arena: Pick<SymmetricArena, "alloc">, size: number): ChannelOf {
  let inboxes: SymmetricBuffer | undefined;
  return (from, to) => {
    inboxes ??= arena.alloc(size * CHANNEL_BYTES);
    return inboxes.peer(to).subarray(from * CHANNEL_BYTES, (from + 1) * CHANNEL_BYTES);
  };
}
