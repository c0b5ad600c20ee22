/** What every communicator can do, whatever carries it: MPI's surface in TypeScript. */
import type { SymmetricArena } from "./arena.ts";
import type { Buf, CommDType, ReduceOp, SymmetricTensor } from "./buffers.ts";
import type { Probed, Received } from "./mailbox.ts";
import type { Mesh, MeshOptions } from "./mesh.ts";
import type { Work } from "./work.ts";

/** Options of one collective. */
export interface OpOptions {
  /** How long to wait for the other ranks, in milliseconds, instead of the communicator's own limit. */
  readonly timeoutMs?: number;
  /**
   * Gives up when aborted: a receive that no message has met is taken back, and fails with the signal's reason; anything else
   * stops the group for all its ranks, as `abort` does, because they are out of step then: a `CommunicatorError` whose `cause` is
   * the reason.
   */
  readonly signal?: AbortSignal;
}

/** The verbs of a communicator, as `supports` asks for them. */
export type Verb =
  | "barrier"
  | "broadcast"
  | "allReduce"
  | "reduce"
  | "allGather"
  | "reduceScatter"
  | "gather"
  | "scatter"
  | "allToAll"
  | "scan"
  | "send"
  | "recv"
  | "probe";

/** What carries a communicator: one rank alone, shared memory, libmpi, NCCL, or shared memory within hosts and MPI between. */
export type Backend = "local" | "shm" | "mpi" | "nccl" | "shm+mpi";

/** Options of a collective that may write elsewhere than into its input. */
export interface RecvOptions extends OpOptions {
  /** Where the result goes; without it, it replaces the input. */
  readonly recv?: Buf;
}

/** Options of an all-reduce. */
export interface AllReduceOptions extends RecvOptions {
  /**
   * Lets it go on while JavaScript computes, on a thread of its own where the engine has none; the same on all ranks. The buffers
   * must not be touched until the work is done. Those in the background run in order, beside all other collectives. Small ones
   * (16 KB) and engines that cannot do it run as usual.
   */
  readonly background?: boolean;
}

/** Options of a collective whose ranks may contribute different amounts. */
export interface CountOptions extends OpOptions {
  /** Elements of each rank, the same list on all ranks; without it, all contribute the same. */
  readonly counts?: readonly number[];
  /**
   * Where each rank's block begins in the buffer of all blocks, in elements, for blocks that do not lie one after the other; they
   * go through a copy. What lies between blocks stays as it is. Blocks to be written to must not overlap.
   */
  readonly displs?: readonly number[];
}

/** Options of an exchange of all with all; counts and displacements are each rank's own. */
export interface AllToAllOptions extends OpOptions {
  /** Elements for each rank; default: equal blocks. */
  readonly sendCounts?: readonly number[];
  /** Elements of each rank; default: equal blocks. */
  readonly recvCounts?: readonly number[];
  /** Where the block for each rank begins in `send`, in elements; default: one after the other. */
  readonly sendDispls?: readonly number[];
  /** Where the block of each rank begins in `recv`, in elements; default: one after the other. */
  readonly recvDispls?: readonly number[];
}

/** Options of a message. */
export interface MessageOptions extends OpOptions {
  /** A number that the receiver asks for; default 0. */
  readonly tag?: number;
}

/** Options of receiving. */
export interface ReceiveOptions extends OpOptions {
  /** Which messages to take; default 0. */
  readonly tag?: number | "any";
}

/** Options of a new group. */
export interface GroupOptions {
  /** For messages. */
  readonly name?: string;
  /** How long its collectives wait, in milliseconds. */
  readonly timeoutMs?: number;
}

/** Collectives and messages of values that structured clone can copy. */
export interface ObjectCollectives {
  /** The `value` of `root`. */
  broadcast<T>(value: T | undefined, root: number, options?: OpOptions): Promise<T>;
  /** The values of all ranks, in their order. */
  allGather<T>(value: T, options?: OpOptions): Promise<T[]>;
  /** The values of all ranks at `root`; null elsewhere. */
  gather<T>(value: T, root: number, options?: OpOptions): Promise<T[] | null>;
  /** `values[rank]` of `root`. */
  scatter<T>(values: readonly T[] | null, root: number, options?: OpOptions): Promise<T>;
  /** Sends `value` to `dest`. */
  send(value: unknown, dest: number, options?: MessageOptions): Promise<void>;
  /**
   * Receives the value of the next message of `source`, which `send` of these must have sent. Of calls that could take the same
   * message, a later one waits until the earlier is done.
   */
  recv<T>(source: number | "any", options?: ReceiveOptions): Promise<T>;
}

/**
 * A group of ranks that can act together.
 *
 * All ranks of the group call the same collectives in the same order, with the same dtype, operation, root and counts.
 * Disposing a communicator leaves the group without waiting for anybody, so that a rank that failed does not wait; `close`
 * waits for all.
 */
export interface Communicator extends AsyncDisposable {
  /** This rank in the group, and how many there are. */
  readonly rank: number;
  /** Ranks in the group. */
  readonly size: number;
  /** The group's name. */
  readonly name: string;
  /** The members as ranks of the job; the position is the rank in the group. */
  readonly ranks: readonly number[];
  /** What carries it. */
  readonly backend: Backend;
  /** This rank among those of its host. */
  readonly localRank: number;
  /** Cores that this process may use. */
  readonly cores: number;
  /** Memory of which each rank has an equal part that all can read. */
  readonly arena: SymmetricArena;

  /**
   * A tensor of `shape` in symmetric memory: collectives reduce it where it lies, peers can read it, ONNX Runtime can write into
   * it. All ranks call it in the same order with the same arguments. @throws {CommunicatorError} If the system has no more.
   */
  allocate(shape: readonly number[], dtype: CommDType): SymmetricTensor;
  /** Whether the verbs take `dtype`, and reduce it by `op`; of `verb`, or of all that may. */
  supports(dtype: CommDType, op?: ReduceOp, verb?: Verb): boolean;

  /** Waits for all ranks. */
  barrier(options?: OpOptions): Work;
  /** Waits for all ranks, blocking JavaScript; the fastest way to meet. */
  barrierSync(options?: OpOptions): void;
  /** Copies `buf` of `root` to all. */
  broadcast(buf: Buf, root: number, options?: OpOptions): Work;
  /** Reduces all ranks' `send`, in place or into `recv`, at all ranks. */
  allReduce(send: Buf, op?: ReduceOp, options?: AllReduceOptions): Work;
  /** Reduces all ranks' `buf` in place, blocking JavaScript; the fastest way for a few numbers. */
  allReduceSync(buf: Buf, op?: ReduceOp, options?: OpOptions): void;
  /** Reduces all ranks' `send` at `root`, in place or into its `recv`. */
  reduce(send: Buf, root: number, op?: ReduceOp, options?: RecvOptions): Work;
  /** All ranks' `send`, one after the other, into `recv` of all. `send` may be this rank's part of `recv`. */
  allGather(send: Buf, recv: Buf, options?: CountOptions): Work;
  /** Block `r` of all ranks' `send`, reduced, into `recv` of rank `r`. */
  reduceScatter(send: Buf, recv: Buf, op?: ReduceOp, options?: CountOptions): Work;
  /** All ranks' `send`, one after the other, into `recv` of `root`. */
  gather(send: Buf, recv: Buf | null, root: number, options?: CountOptions): Work;
  /** Block `r` of `send` of `root` into `recv` of rank `r`. */
  scatter(send: Buf | null, recv: Buf, root: number, options?: CountOptions): Work;
  /** Block `r` of `send` to rank `r`; what comes from rank `r` becomes block `r` of `recv`. Counts are each rank's own. */
  allToAll(send: Buf, recv: Buf, options?: AllToAllOptions): Work;
  /** Reduces `send` of ranks 0 to this one; `exclusive`: to the one before, and rank 0 keeps its `recv`. */
  scan(send: Buf, op?: ReduceOp, options?: RecvOptions & { readonly exclusive?: boolean }): Work;
  /**
   * Sends a message to `dest`; done when the buffer may change, which for long messages is when the receiver has come.
   *
   * @throws {UnavailableError} Over NCCL between hosts, which has no messages of host arrays.
   */
  send(buf: Buf, dest: number, options?: MessageOptions): Work;
  /** Receives a message of at most as many elements as `buf` holds. */
  recv(buf: Buf, source: number | "any", options?: ReceiveOptions): Work<Received>;
  /**
   * Waits for a message as `recv` would take it, and leaves it: how long it is, and of what type, for a receive that is called
   * before any other. Where the tag or the source may be any, that receive names those that were found.
   *
   * @throws {UnavailableError} Over NCCL between hosts, as `send` and `recv` do.
   */
  probe(source: number | "any", options?: ReceiveOptions): Work<Probed>;
  /** Sends and receives at once, so that ranks may do it in a ring; both may be of one buffer, which is replaced then. */
  sendRecv(
    message: { readonly send: Buf; readonly dest: number },
    reply: { readonly recv: Buf; readonly source: number | "any" },
    options?: MessageOptions,
  ): Promise<Received>;
  /** The same for values instead of buffers. */
  readonly objects: ObjectCollectives;
  /**
   * Calls `calls`, and what it issues on this communicator belongs together: the work is done when all of it is. Sends and
   * receives inside may come in any order, and no call waits for another (NCCL's group start and end; MPI's wait for all).
   */
  group(calls: () => void): Work;

  /** New groups of the ranks that give the same `color`, ordered by `key`, then rank; null for those that give null. */
  split(color: number | null, key?: number, options?: GroupOptions): Promise<Communicator | null>;
  /** New groups, each of the ranks of one host, in this group's order. */
  splitByHost(options?: GroupOptions): Promise<Communicator>;
  /** A new group of `ranks` (ranks of this group); only they call it, in the same order as other subgroups of the same ranks. */
  subgroup(ranks: readonly number[], options?: GroupOptions): Promise<Communicator>;
  /**
   * The ranks as a grid of named axes, outermost first, with a communicator along each axis; all ranks call it. Sizes multiply
   * to `size`; one may be -1, which is what remains. @throws {InputError} If they do not.
   */
  mesh(axes: Readonly<Record<string, number>>, options?: MeshOptions): Promise<Mesh>;

  /** Tells all ranks of the group to stop waiting; for errors that only this rank knows of. */
  abort(reason: string): void;
  /** Waits until all ranks have closed, then leaves. @throws {CommunicatorError} If one is lost or does not come in time. */
  close(options?: OpOptions): Promise<void>;
}
