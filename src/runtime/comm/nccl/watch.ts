/**
 * What NCCL does not tell: who has not come to a collective, who called another one, who has died. Ranks of one host tell each
 * other in shared memory; between hosts the launcher's store tells of ranks that ended.
 */
import type { StoreClient } from "../../../core/store_client.ts";
import { Arena, MESSAGE_CHUNKS, STAGING_CHUNKS } from "../arena.ts";
import { decodeOperation, describeRecord, type OperationCode } from "../control_block.ts";
import { CollectiveTimeout, CommunicatorError, PeerLost } from "../errors.ts";
import { Exchange } from "../exchange.ts";
import type { FlightRing, FlightSource } from "../flight_recorder.ts";
import { type JoinedSegment, joinSegment } from "../join.ts";
import { type ChannelOf, channelsIn } from "../message_channels.ts";
import type { NcclProcess } from "./nccl_process.ts";

/** A watch over the members of one group. */
export interface Watch extends Disposable {
  /** Whether members are seen before they come to a collective. */
  readonly meets: boolean;
  begin(op: OperationCode, timeoutMs: number, calledAt?: number): void;
  /** The operation is done. */
  end(at?: number): void;
  /** What members tell each other when they meet; undefined where they do not. */
  readonly slots: Pick<Exchange, "mine" | "slot" | "flip" | "disagree"> | undefined;
  /** Says that this rank has come. */
  arrive(): void;
  /** Whether all have come, as far as they can be seen, and mean the same. @throws {CommunicatorError} If not. */
  passed(): boolean;
  /** Whether waiting for them to come makes sense. @throws {CommunicatorError} If not. */
  checkComing(): void;
  /**
   * Whether waiting for `ranks` of the group since `started` makes sense; `leftMs`: for how long after they have left, too.
   *
   * @throws {CommunicatorError} If not.
   */
  checkPeers(
    ranks: readonly number[],
    started: number,
    timeoutMs: number,
    what?: () => string,
    leftMs?: number,
  ): void;
  /** Where messages of host arrays travel; undefined where members share no memory. */
  readonly messages: { readonly channel: ChannelOf; readonly wake: () => void } | undefined;
  /** The same, leaving the event loop free. */
  sleep(ready: () => boolean): Promise<void>;
  /** Waits a little for somebody to come, blocking. */
  nap(ready: () => boolean): void;
  /** Looks a short while for all to come. */
  spin(): boolean;
  /** Stops the group for all members. */
  abort(error: CommunicatorError): void;
  /** What this rank does, as messages print it. */
  readonly what: string;
}

/** Which group. */
export interface WatchOptions {
  readonly process: NcclProcess;
  readonly name: string;
  readonly rank: number;
  readonly ranks: readonly number[];
  readonly timeoutMs: number;
  /** What waits for its turn, for the flight recorder. */
  readonly pending: Pick<FlightSource, "queued" | "messages">;
}

/** The watch of a group whose members are all on this host. @throws {RendezvousError} If members do not come. */
export async function watchHost(o: WatchOptions): Promise<Watch> {
  const { libc, window, env } = o.process;
  const segment = await joinSegment({
    ...{ libc, window, runId: env.runId, name: `nccl-${o.name}`, rank: o.rank, size: o.ranks.length },
    timeoutMs: o.timeoutMs,
  });
  return new HostWatch(o, segment);
}

class HostWatch implements Watch {
  readonly meets = true;
  readonly messages: NonNullable<Watch["messages"]>;
  #segment: JoinedSegment;
  #exchange: Exchange;
  #rank: number;
  #staging: Arena;
  #messages: Arena;

  constructor(o: WatchOptions, segment: JoinedSegment) {
    const { libc, window, reducers, flight, env, cores } = o.process, { control } = segment;
    const host = { libc, window, control, rank: o.rank };
    const arena = (chunks: { readonly first: number; readonly count: number }) =>
      new Arena({ ...host, label: o.name, chunks, check: () => exchange.check() });
    this.#staging = arena(STAGING_CHUNKS); // tensors go by NCCL: only counts travel through it
    this.#messages = arena(MESSAGE_CHUNKS);
    const spin = env.localWorldSize <= cores;
    const exchange = new Exchange({ ...host, ...o, reducers, flight, staging: this.#staging, spin });
    this.#exchange = exchange;
    this.#segment = segment;
    this.#rank = o.rank;
    this.messages = { channel: channelsIn(this.#messages, o.ranks.length), wake: () => exchange.barrier.wake() };
  }

  get slots(): Watch["slots"] {
    return this.#exchange;
  }

  get what(): string {
    return describeRecord(this.#segment.control.lastRecord(this.#rank));
  }

  begin(op: OperationCode, timeoutMs: number, calledAt?: number): void {
    this.#exchange.begin(op, timeoutMs, calledAt);
  }
  end(at?: number): void {
    this.#exchange.end(at);
  }
  arrive(): void {
    this.#exchange.arrive();
  }
  passed(): boolean {
    return this.#exchange.passed();
  }
  checkComing(): void {
    this.#exchange.check();
  }
  checkPeers(...wait: Parameters<Watch["checkPeers"]>): void {
    if (wait[0].length > 0) this.#exchange.checkPeers(...wait);
  }
  sleep(ready: () => boolean): Promise<void> {
    return this.#exchange.sleep(ready);
  }
  nap(ready: () => boolean): void {
    this.#exchange.nap(ready);
  }
  spin(): boolean {
    return this.#exchange.spin();
  }
  abort(error: CommunicatorError): void {
    this.#exchange.abort(error);
  }

  [Symbol.dispose](): void {
    this.#segment.control.leave(this.#rank);
    this.#exchange.barrier.ring();
    this.#exchange[Symbol.dispose]();
    this.#staging[Symbol.dispose]();
    this.#messages[Symbol.dispose]();
    this.#segment[Symbol.dispose]();
  }
}

/** The watch of a group over several hosts: what the launcher tells of ranks that ended, and a limit of time. */
export class StoreWatch implements Watch {
  readonly meets = false;
  readonly slots = undefined;
  readonly messages = undefined;
  #o: WatchOptions;
  #seq = 0;
  #op: OperationCode | undefined;
  #failure: CommunicatorError | undefined;
  #stop: () => void;
  #ring: FlightRing;

  constructor(o: WatchOptions, store: Pick<StoreClient, "onAbort" | "onLeft">) {
    this.#o = o;
    this.#ring = o.process.flight.open({ name: o.name, ranks: o.ranks, ...o.pending });
    let open = true;
    store.onAbort((reason) => {
      if (open) this.#failure ??= this.#ended(culpritOf(reason), "ended");
    });
    const stop = store.onLeft((rank) => {
      if (o.ranks.includes(rank)) this.#failure ??= this.#ended(rank, "ended normally");
    });
    this.#stop = () => {
      open = false;
      stop();
    };
  }

  get what(): string {
    return describeRecord(this.#op && { ...decodeOperation(this.#op), seq: this.#seq });
  }

  begin(op: OperationCode, _timeoutMs: number, calledAt = 0): void {
    if (this.#failure !== undefined) throw this.#failure;
    this.#seq++;
    this.#op = op;
    this.#ring.begin(this.#seq, op, calledAt);
  }
  end(at = 0): void {
    this.#ring.end(at);
  }
  arrive(): void {}
  passed(): boolean {
    return true;
  }
  checkComing(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }
  checkPeers(ranks: readonly number[], started: number, timeoutMs: number): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (performance.now() - started < timeoutMs) return;
    this.#failure = new CollectiveTimeout(
      `Rank ${this.#job} in ${this.what} of group "${this.#o.name}" waited ${
        (timeoutMs / 1000).toFixed(1)
      } s for the other ranks, and NCCL does not tell for which`,
      ranks,
      { hint: "look at what each rank is doing, or pass a longer timeoutMs" },
    );
    throw this.#failure;
  }
  sleep(): Promise<void> {
    return Promise.resolve(); // nobody's coming is waited for
  }
  nap(): void {}
  spin(): boolean {
    return true;
  }
  abort(error: CommunicatorError): void {
    this.#failure ??= error;
    this.#o.process.flight.dump(this.#failure);
  }

  [Symbol.dispose](): void {
    this.#stop();
    this.#o.process.flight.close(this.#ring);
  }

  get #job(): number {
    return this.#o.ranks[this.#o.rank]!;
  }

  #ended(rank: number | undefined, how: string): CommunicatorError {
    const at = rank === undefined ? -1 : this.#o.ranks.indexOf(rank);
    const waits = `rank ${this.#job} in ${this.what} waits for the group`;
    if (at < 0) return new CommunicatorError(`The job of group "${this.#o.name}" was aborted; ${waits}`);
    return new PeerLost(`rank ${rank} of group "${this.#o.name}" ${how}; ${waits}`, at, {
      hint: "its own output says why it ended",
    });
  }
}

/** The rank that an abort's reason names. */
function culpritOf(reason: string): number | undefined {
  try {
    const { rank } = JSON.parse(reason) as { rank?: unknown };
    return typeof rank === "number" ? rank : undefined;
  } catch {
    return undefined; // a reason in words
  }
}
