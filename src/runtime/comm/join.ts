/** How the ranks of a group meet: in a small named segment, whoever comes first, until all are there. */
import type { Libc } from "../../ffi/libc.ts";
import type { AddressWindow } from "./address_window.ts";
import { ControlBlock, controlBlockBytes } from "./control_block.ts";
import { type CommunicatorError, RendezvousError } from "./errors.ts";
import { isAlive, ownIdentity } from "./process_identity.ts";
import { type NamedSegment, openNamedSegment } from "./shared_segment.ts";

/** A group's control block, with all ranks attached. */
export interface JoinedSegment extends Disposable {
  readonly control: ControlBlock;
}

/** Whom to meet, and where. */
export interface JoinOptions {
  readonly libc: Libc;
  readonly window: AddressWindow;
  readonly runId: string;
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly timeoutMs: number;
  readonly directory?: string;
  /** Why one of the others will never come, if that is known; asked between sleeps. */
  readonly lost?: () => CommunicatorError | undefined;
}

const SLICE_MS = 50;

/**
 * Attaches as `rank` and waits for the others. The last one removes the file's name; so does a rank that gives up.
 *
 * @throws {RendezvousError} If ranks are missing after `timeoutMs`, naming them, or if another process is `rank` already.
 * @throws {UnavailableError} If there is no room for the segment.
 */
export async function joinSegment(o: JoinOptions): Promise<JoinedSegment> {
  const segment = openNamedSegment({
    ...o,
    name: `shardwise-${o.runId}-${o.name}`,
    bytes: controlBlockBytes(o.size),
    inspect,
  });
  const control = new ControlBlock(segment.range.buffer, segment.range.byteOffset, o.size);
  try {
    await meet(control, segment, o);
  } catch (error) {
    segment.unlink();
    segment[Symbol.dispose]();
    throw error;
  }
  return { control, [Symbol.dispose]: () => segment[Symbol.dispose]() };

  /** Enters this rank, under the file's lock. */
  function inspect(range: { buffer: ArrayBuffer; byteOffset: number }): "ours" | "stale" {
    const block = new ControlBlock(range.buffer, range.byteOffset, o.size);
    if (!block.claim()) {
      throw new RendezvousError(
        `Cannot meet the other ranks of "${o.name}": the shared file is of another program or version`,
        {
          hint: "change SHARDWISE_RUN_ID, or remove the file",
        },
      );
    }
    for (let rank = 0; rank < o.size; rank++) {
      const who = block.identity(rank);
      if (who === undefined) continue;
      if (!isAlive(who)) return "stale"; // of a job that was killed while its ranks met
      if (rank === o.rank) {
        throw new RendezvousError(`Cannot join "${o.name}" as rank ${rank}: process ${who.pid} is that already`, {
          hint: "give every process a RANK of its own, and every job a SHARDWISE_RUN_ID of its own",
        });
      }
    }
    block.register(o.rank, ownIdentity());
    return "ours";
  }
}

async function meet(control: ControlBlock, segment: NamedSegment, o: JoinOptions): Promise<void> {
  const { libc, size } = o;
  if (control.attach() === size) {
    segment.unlink();
    Atomics.add(control.words, control.bellIndex, 1);
    libc.futexWake(control.bell);
    return;
  }
  const end = performance.now() + o.timeoutMs;
  for (;;) {
    const bell = Atomics.load(control.words, control.bellIndex);
    if (control.attached === size) return;
    await libc.futexWaitAsync(control.bell, bell, SLICE_MS);
    if (control.attached === size) return;
    const lost = o.lost?.();
    if (control.attached === size) return; // it may have come, and gone, meanwhile
    if (lost !== undefined) throw lost;
    if (performance.now() <= end) continue;
    const missing = Array.from({ length: size }, (_, r) => r).filter((r) => control.identity(r) === undefined);
    throw new RendezvousError(
      `Rank ${o.rank} waited ${(o.timeoutMs / 1000).toFixed(1)} s for ${size} ranks to join "${o.name}": missing ${
        missing.join(", ")
      }`,
      {
        hint: o.name.startsWith("world.")
          ? "its ranks must make the same groups, of the same ranks in the same order, in the same order"
          : "see what the missing ranks print, and that all have the same SHARDWISE_RUN_ID and WORLD_SIZE on this host",
      },
    );
  }
}
