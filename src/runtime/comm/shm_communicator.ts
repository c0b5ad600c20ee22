/** The communicator of ranks on one host: shared memory, a barrier of flags, and nothing else between them. */
import type { Libc } from "../../ffi/libc.ts";
import type { AddressWindow } from "./address_window.ts";
import { Arena, ARENA_CHUNKS, MESSAGE_CHUNKS, STAGING_CHUNKS } from "./arena.ts";
import { requirePlace } from "./arguments.ts";
import type { ReduceOpName, View } from "./buffers.ts";
import { CommunicatorError } from "./errors.ts";
import type { FlightRecorder } from "./flight_recorder.ts";
import { SMALL_BYTES } from "./collectives.ts";
import type { GroupOptions } from "./communicator.ts";
import type { ControlBlock } from "./control_block.ts";
import { Exchange } from "./exchange.ts";
import { type JoinedSegment, joinSegment } from "./join.ts";
import type { MailboxPeers } from "./mailbox.ts";
import { type ChannelOf, channelsIn } from "./message_channels.ts";
import { allowedCores } from "./process_identity.ts";
import { ProgressThread } from "./progress_thread.ts";
import type { Reducers } from "./reduce_wasm.ts";
import { MeetingCommunicator } from "./verbs.ts";
import type { Work } from "./work.ts";

/** What all groups of a process share. */
export interface ShmHost {
  readonly libc: Libc;
  readonly window: AddressWindow;
  /** The loops over the window's memory. */
  readonly reducers: Reducers;
  /** The job on this host; part of file names. */
  readonly runId: string;
  readonly localRank: number;
  /** Ranks of the job on this host, and the cores that they share. */
  readonly localWorldSize: number;
  readonly cores: number;
  /** Cores of all ranks together, where each may use some only; default `cores`. */
  readonly coresOfAll?: number;
  /** Remembers what all groups did last. */
  readonly flight: FlightRecorder;
  /** Where files are that ranks meet in; default /dev/shm. */
  readonly directory?: string;
}

/** Which group to join, and as whom. */
export interface ShmGroup {
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
  readonly timeoutMs: number;
  /** How long to wait for the members to come; default as long as collectives wait. */
  readonly joinTimeoutMs?: number;
  /** Why one of the members will never come, if that is known. */
  readonly lost?: () => CommunicatorError | undefined;
}

/** Ranks of one host. */
export class ShmCommunicator extends MeetingCommunicator {
  readonly backend = "shm";
  readonly arena: Arena;
  #host: ShmHost;
  #segment: JoinedSegment;
  #staging: Arena;
  #messages: Arena;
  #channels: ChannelOf;
  #exchange: Exchange;
  #progress: ProgressThread | undefined;
  #splits = 0;
  #subgroups = new Map<string, number>();

  private constructor(host: ShmHost, group: ShmGroup, segment: JoinedSegment) {
    const { control } = segment;
    const arena = (chunks: { first: number; count: number }) =>
      new Arena({ ...host, control, rank: group.rank, label: group.name, chunks, check: () => exchange.checkAll() });
    const staging = arena(STAGING_CHUNKS);
    // The exchange begins before the communicator that it serves.
    const pending = { queued: () => this.queue.queued, messages: () => this.messages };
    const spin = host.localWorldSize <= (host.coresOfAll ?? host.cores);
    const exchange = new Exchange({ ...host, ...group, control, staging, spin, pending });
    super(exchange, { ...group, ...host });
    this.arena = arena(ARENA_CHUNKS);
    this.#host = host;
    this.#segment = segment;
    this.#staging = staging;
    this.#messages = arena(MESSAGE_CHUNKS);
    this.#channels = channelsIn(this.#messages, group.ranks.length);
    this.#exchange = exchange;
  }

  /** Joins a group; returns when all members have. @throws {RendezvousError} If they do not in time. */
  static async join(host: ShmHost, group: ShmGroup): Promise<ShmCommunicator> {
    const segment = await joinSegment({
      ...host,
      name: group.name,
      rank: group.rank,
      size: group.ranks.length,
      timeoutMs: group.joinTimeoutMs ?? group.timeoutMs,
      ...group.lost === undefined ? {} : { lost: group.lost },
    });
    return new ShmCommunicator({ ...host, coresOfAll: coresOfAll(host, segment.control) }, group, segment);
  }

  async split(color: number | null, key = 0, options: GroupOptions = {}): Promise<ShmCommunicator | null> {
    this.requireOpen();
    requirePlace(color, key);
    const place = this.#splits++;
    const all = await this.shareValues("split", { color, key });
    if (color === null) return null;
    const members = all.map((m, rank) => ({ ...m, rank })).filter((m) => m.color === color);
    members.sort((a, b) => a.key - b.key || a.rank - b.rank);
    return await this.#child(members.map((m) => m.rank), `${this.name}.${place}.${color}`, options);
  }

  async subgroup(ranks: readonly number[], options: GroupOptions = {}): Promise<ShmCommunicator> {
    this.requireOpen();
    this.requireMembers(ranks);
    const members = ranks.join("-");
    const nth = this.#subgroups.get(members) ?? 0;
    this.#subgroups.set(members, nth + 1);
    const hash = encodeURIComponent(members).length > 60 ? hashText(members) : members;
    return await this.#child(ranks, `${this.name}.s${hash}.${nth}`, options);
  }

  protected override channel(from: number, to: number): Uint8Array {
    return this.#channels(from, to);
  }

  protected override get peers(): MailboxPeers {
    const exchange = this.#exchange;
    return { wake: () => exchange.barrier.wake(), check: (...args) => exchange.checkPeers(...args) };
  }

  protected override stop(error: CommunicatorError): void {
    super.stop(error);
    this.#progress?.stop(error);
  }

  protected override inBackground(
    send: View,
    recv: View,
    o: { op: ReduceOpName; timeoutMs: number },
  ): Work | undefined {
    // The threads' group hears of a stop a moment later than this one, whose own collectives tell of it.
    if (this.size === 1 || send.bytes.length <= SMALL_BYTES || this.#exchange.stopped) return undefined;
    const { runId, localRank, localWorldSize, cores, directory, flight } = this.#host;
    this.#progress ??= new ProgressThread(
      {
        ...{ runId, localRank, localWorldSize, cores, directory, name: `${this.name}.background` },
        ...{ rank: this.rank, ranks: this.ranks, timeoutMs: this.timeoutMs },
      },
      (error) => flight.dump(error),
    );
    return this.#progress.allReduce(send, recv, o);
  }

  protected override endBackground(): Promise<void> {
    return this.#progress?.close() ?? Promise.resolve();
  }

  protected override release(): void {
    this.#progress?.stop(new CommunicatorError(`Group "${this.name}" was closed`));
    this.#segment.control.leave(this.rank);
    this.#exchange.barrier.ring();
    this.#exchange[Symbol.dispose]();
    this.arena[Symbol.dispose]();
    this.#staging[Symbol.dispose]();
    this.#messages[Symbol.dispose]();
    this.#segment[Symbol.dispose]();
  }

  #child(members: readonly number[], name: string, options: GroupOptions): Promise<ShmCommunicator> {
    return ShmCommunicator.join(this.#host, {
      name: options.name === undefined ? name : `${name}.${options.name.replace(/[^\w-]/g, "_")}`,
      rank: members.indexOf(this.rank),
      ranks: members.map((r) => this.ranks[r]!),
      timeoutMs: options.timeoutMs ?? this.timeoutMs,
      lost: () => this.#exchange.lostAmong(members),
    });
  }
}

/** Ranks that are bound to a core each see one core, and yet each has its own: what counts is how many they have together. */
function coresOfAll(host: ShmHost, control: ControlBlock): number {
  const known = host.coresOfAll ?? host.cores;
  // Fewer than the affinity allows is a quota, which all share.
  if (known >= host.localWorldSize || host.cores < allowedCores(Deno.pid).size) return known;
  let all: ReadonlySet<number> = new Set();
  for (let rank = 0; rank < control.size; rank++) all = all.union(allowedCores(control.identity(rank)!.pid));
  return Math.max(known, all.size);
}

function hashText(text: string): string {
  let hash = 0xcbf29ce484222325n;
  for (const c of text) hash = BigInt.asUintN(64, (hash ^ BigInt(c.codePointAt(0)!)) * 0x100000001b3n);
  return hash.toString(36);
}
