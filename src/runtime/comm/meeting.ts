/** What collectives need of the ranks they run among, whatever joins them. */
import type { OperationCode } from "./control_block.ts";
import type { CommunicatorError } from "./errors.ts";
import type { Reducers } from "./reduce_wasm.ts";

/** One rank's end of a group. */
export interface Meeting {
  readonly rank: number;
  readonly size: number;
  /** The loops that reduce, where shared buffers lie. */
  readonly reducers: Reducers;
  /** This rank's staging slot of the present phase, for writing before a barrier. */
  readonly mine: Uint8Array;
  /** The slot of `rank`, for reading after the barrier. */
  slot(rank: number): Uint8Array;
  /** Which of the two slots it is. */
  readonly parity: 0 | 1;
  /** Ends a phase: the slots change. */
  flip(): void;
  /** The `ASIDE_BYTES` that are seen with the arrival of `rank`, at barriers of even and of odd number. */
  aside(rank: number): readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>];
  /** Which of them is of the next barrier. */
  readonly nextParity: 0 | 1;

  /**
   * Begins the next operation; `calledAt`: when it was called, as `performance.now()`, where that is known.
   *
   * @throws {CommunicatorError} If the group has failed.
   */
  begin(op: OperationCode, timeoutMs: number, calledAt?: number): void;
  /** The operation is over; `at`: when, where that is known. */
  end(at?: number): void;
  /** Arrives at the next barrier of this operation. */
  arrive(): void;
  /** Whether all ranks have arrived, and mean the same operation. @throws {CommunicatorError} If not, or never will. */
  passed(): boolean;
  /** Blocks until all have arrived. @throws {CommunicatorError} If they never will. */
  waitSync(): void;
  /** Arrives, and blocks until all have; the fastest way. @throws {CommunicatorError} If they never will. */
  meetSync(): void;
  /** Looks for a short while; whether all have arrived. */
  spin(): boolean;
  /** How long to look for messages before sleeping, in milliseconds; 0 where ranks outnumber cores. */
  readonly spinMs: number;
  /** Lets other processes run for a moment, between looks. */
  relax(): void;
  /** Sleeps a little, leaving the event loop free; not at all if `ready` says that there is something to do. */
  sleep(ready: () => boolean): Promise<void>;
  /** The same, blocking. */
  nap(ready: () => boolean): void;
  /** Looks whether waiting at the barrier still makes sense. @throws {CommunicatorError} If not. */
  check(): void;
  /** The error of all ranks of the group when each has found that they do not fit together: `text` says how. Stops the group. */
  disagree(text: string): CommunicatorError;
  /** Stops the group for all its ranks, because this one gives up. */
  abort(error: CommunicatorError): void;
}

/** Bytes of one staging slot: large enough that barriers are cheap beside the copying, small enough for the caches. */
export const SLOT_BYTES = 512 * 1024;
