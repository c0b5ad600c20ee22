/**
 * What a collective works with: the barrier, the records by which ranks find out that they disagree, and staging memory
 * through which plain arrays travel.
 *
 * Staging has two slots per rank, used by turns. A phase is: write your slot, meet at the barrier, read the others' slots,
 * `flip()`. A slot is written again two phases later, and by then every rank has passed the barrier of the phase between,
 * which each reaches only when it has finished reading; so one barrier a phase is enough.
 */
import type { Libc } from "../../ffi/libc.ts";
import type { Arena, SymmetricBuffer } from "./arena.ts";
import { FlagBarrier, SLICE_MS } from "./barrier.ts";
import {
  type AbortKind,
  type ControlBlock,
  describeRecord,
  fingerprint,
  LEFT,
  type OperationCode,
} from "./control_block.ts";
import {
  CollectiveAborted,
  CollectiveMismatch,
  CollectiveTimeout,
  type CommunicatorError,
  PeerLost,
} from "./errors.ts";
import type { FlightRecorder, FlightRing, FlightSource } from "./flight_recorder.ts";
import { type Meeting, SLOT_BYTES } from "./meeting.ts";
import type { Reducers } from "./reduce_wasm.ts";
import { isAlive } from "./process_identity.ts";

/**
 * Where slots begin in a page. A large plain array begins 16 bytes after a page's start, and when it is written a little ahead
 * of what is read, modulo the page size, the processor takes each read for one of the bytes just written, and waits: copying
 * out of slots at a page's start ran at 3 GB/s instead of 40.
 */
const SLOT_OFFSET = 2048;

/** What an exchange stands on. */
export interface ExchangeOptions {
  readonly libc: Libc;
  readonly reducers: Reducers;
  readonly control: ControlBlock;
  /** Memory for staging; touched at the first collective that needs it. */
  readonly staging: Arena;
  readonly rank: number;
  /** The group's name, for messages. */
  readonly name: string;
  /** The group's members as ranks of the job, for messages. */
  readonly ranks: readonly number[];
  /** Whether ranks on this host have a core each. */
  readonly spin: boolean;
  /** Remembers the last operations. */
  readonly flight: FlightRecorder;
  /** What waits for its turn, for the recorder. */
  readonly pending: Pick<FlightSource, "queued" | "messages">;
}

/** One rank's end of a group in shared memory. */
export class Exchange implements Meeting, Disposable {
  readonly rank: number;
  readonly size: number;
  readonly reducers: Reducers;
  /** The barrier beneath; to wake waiters when this rank leaves. */
  readonly barrier: FlagBarrier;
  #o: ExchangeOptions;
  #control: ControlBlock;
  #flight: FlightRing;
  #seq = 0;
  #fingerprint = 0;
  #slots: [Uint8Array[], Uint8Array[]] | undefined;
  #staging: SymmetricBuffer | undefined;
  #parity: 0 | 1 = 0;
  #started = 0;
  #timeoutMs = Infinity;
  #checked = 0;
  #checkedPeers = 0;
  /** Since when all peers that a wait is for have left. */
  #leftSince: number | undefined;
  #failure: CommunicatorError | undefined;
  readonly #onSlice = () => this.check();

  constructor(options: ExchangeOptions) {
    this.#o = options;
    this.#control = options.control;
    this.rank = options.rank;
    this.size = options.control.size;
    this.reducers = options.reducers;
    const { name, ranks, pending } = options;
    this.#flight = options.flight.open({
      ...{ name, ranks, ...pending },
      seen: () => ranks.map((_, rank) => options.control.lastRecord(rank)),
    });
    this.barrier = new FlagBarrier(options.control, options.libc, { rank: options.rank, spin: options.spin });
  }

  /** How many operations this rank has begun. */
  get seq(): number {
    return this.#seq;
  }

  /** Why the group can do nothing more. */
  get failure(): CommunicatorError | undefined {
    return this.#failure;
  }

  /** Begins the next operation. @throws {CommunicatorError} If the group has failed. */
  begin(op: OperationCode, timeoutMs: number, calledAt = 0): void {
    if (this.#failure !== undefined) throw this.#failure;
    const seq = this.#seq = (this.#seq + 1) | 0;
    this.#flight.begin(seq, op, calledAt);
    this.#control.record(this.rank, seq, op);
    this.#fingerprint = fingerprint(seq, op);
    this.#started = 0; // the clock is read when the operation has to wait
    this.#timeoutMs = timeoutMs;
    // Those who gave up have arrived already: what takes one barrier would pass, although it has failed there.
    if (this.#control.stopped) this.check();
  }

  end(at = 0): void {
    this.#flight.end(at);
  }

  /** Arrives at the next barrier of this operation. */
  arrive(): void {
    this.barrier.arrive(this.#fingerprint);
  }

  /** Whether all ranks have arrived, and mean the same operation. @throws {CommunicatorError} If not, or never will. */
  passed(): boolean {
    if (this.barrier.passed()) {
      if (!this.barrier.agreed()) throw this.#mismatch();
      return true;
    }
    if (this.#control.aborted !== undefined) this.check();
    return false;
  }

  /** Arrives, and blocks until all have. */
  meetSync(): void {
    this.barrier.arriveToStay(this.#fingerprint);
    this.waitSync();
  }

  /** Blocks until all have arrived. */
  waitSync(): void {
    this.barrier.waitSync(this.#onSlice);
    if (!this.barrier.agreed()) throw this.#mismatch();
  }

  /** Looks for a short while; whether all have arrived. */
  spin(): boolean {
    return this.barrier.spin();
  }

  sleep(ready: () => boolean): Promise<void> {
    return this.barrier.sleep(ready);
  }

  nap(ready: () => boolean): void {
    this.barrier.nap(ready);
  }

  /** This rank's slot of the present phase, for writing before the barrier. */
  get mine(): Uint8Array {
    return this.#slotsNow()[this.rank]!;
  }

  /** The slot of `rank`, for reading after the barrier. */
  slot(rank: number): Uint8Array {
    return this.#slotsNow()[rank]!;
  }

  aside(rank: number): readonly [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>] {
    return this.#control.aside(rank);
  }

  get nextParity(): 0 | 1 {
    return this.barrier.nextParity;
  }

  relax(): void {
    this.#o.libc.yieldNow();
  }

  get spinMs(): number {
    return this.#o.spin ? 0.2 : 0;
  }

  /** Which of the two slots it is. */
  get parity(): 0 | 1 {
    return this.#parity;
  }

  /** Ends a phase. */
  flip(): void {
    this.#parity = this.#parity === 0 ? 1 : 0;
  }

  /**
   * Looks whether waiting still makes sense: for an abort at once, for dead peers and the deadline once a `SLICE_MS`.
   *
   * @throws {CommunicatorError} If it does not.
   */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
    const now = performance.now();
    if (this.#started === 0) this.#started = this.#checked = now;
    const aborted = this.#control.aborted;
    if (aborted !== undefined) throw this.#fail(this.#explainAbort(aborted.kind, aborted.culprit));
    if (now - this.#checked < SLICE_MS) return;
    this.#checked = now;
    this.#checkAlive(this.barrier.missing(), now - this.#started > this.#timeoutMs, this.#timeoutMs);
  }

  /**
   * The same for a rank that waits for a message of one of `ranks` since `started`; `what`: doing what, for the error. `leftMs`: for how
   * long what they did before they left may still be on its way.
   *
   * @throws {CommunicatorError} If it waits in vain.
   */
  checkPeers(ranks: readonly number[], started: number, timeoutMs: number, what?: () => string, leftMs = 0): void {
    if (this.#failure !== undefined) throw this.#failure;
    const now = performance.now(), aborted = this.#control.aborted;
    if (aborted !== undefined) throw this.#fail(this.#explainAbort(aborted.kind, aborted.culprit));
    if (now - Math.max(started, this.#checkedPeers) < SLICE_MS) return;
    this.#checkedPeers = now;
    // Of several that may send, some may leave.
    const here = ranks.filter((rank) => this.#control.presence(rank) !== LEFT);
    if (here.length > 0) this.#leftSince = undefined;
    else if (now - (this.#leftSince ??= now) < leftMs) return;
    this.#checkAlive(here.length > 0 ? here : ranks, now - started > timeoutMs, timeoutMs, what);
  }

  /** Looks at all ranks at once, whoever is waited for. @throws {CommunicatorError} If one has died, or the group has failed. */
  checkAll(): void {
    this.check();
    for (let rank = 0; rank < this.size; rank++) {
      const lost = this.lostAmong([rank]);
      if (lost !== undefined) throw this.#fail(lost, "lost", rank);
    }
  }

  /** Which of `ranks` has died, as an error that does not stop this group; for who waits elsewhere. */
  lostAmong(ranks: readonly number[]): PeerLost | undefined {
    const dead = ranks.find((rank) => {
      const who = this.#control.identity(rank);
      return who !== undefined && !isAlive(who);
    });
    return dead === undefined ? undefined : this.#lost("lost", dead);
  }

  #checkAlive(missing: readonly number[], late: boolean, timeoutMs: number, what?: () => string): void {
    for (const rank of missing) {
      const who = this.#control.identity(rank);
      if (this.#control.presence(rank) === LEFT) throw this.#fail(this.#lost("left", rank, what), "left", rank);
      if (who !== undefined && !isAlive(who)) throw this.#fail(this.#lost("lost", rank, what), "lost", rank);
    }
    if (late) throw this.#fail(this.#timeout(missing, timeoutMs, what), "timeout", this.rank);
  }

  /** This group is closed. */
  [Symbol.dispose](): void {
    this.barrier[Symbol.dispose]();
    this.#o.flight.close(this.#flight);
  }

  /** Whether a rank has stopped the group, so that nothing more can be done in it. */
  get stopped(): boolean {
    return this.#failure !== undefined || this.#control.aborted !== undefined;
  }

  disagree(text: string): CommunicatorError {
    const hint = "what one rank sends another must be as much as that one expects";
    return this.#fail(
      new CollectiveMismatch(`Ranks of group "${this.#o.name}" disagree: ${text}`, { hint }),
      "mismatch",
    );
  }

  /** Stops the group for all its ranks, because this one gives up. */
  abort(error: CommunicatorError): void {
    if (this.#failure === undefined) this.#fail(error, "user", this.rank);
  }

  #slotsNow(): Uint8Array[] {
    return (this.#slots ?? this.#makeSlots())[this.#parity]!;
  }

  #makeSlots(): [Uint8Array[], Uint8Array[]] {
    const staging = this.#staging = this.#o.staging.alloc(2 * SLOT_BYTES + SLOT_OFFSET);
    const slots = (at: number) =>
      Array.from(
        { length: this.size },
        (_, r) => staging.peer(r).subarray(SLOT_OFFSET + at * SLOT_BYTES, SLOT_OFFSET + (at + 1) * SLOT_BYTES),
      );
    return this.#slots = [slots(0), slots(1)];
  }

  #fail(error: CommunicatorError, kind?: AbortKind, culprit = this.rank): CommunicatorError {
    this.#failure ??= error;
    error.lastCollective ??= `${this.#o.name}#${describeRecord(this.#control.lastRecord(this.rank))}`;
    const reason = culprit === this.rank ? { rank: culprit, text: error.message } : undefined;
    if (kind !== undefined) this.#control.abort(kind, culprit, reason);
    this.barrier.ring(); // whoever sleeps looks at once
    this.#o.flight.dump(this.#failure); // after the others know, since it takes a moment
    return this.#failure;
  }

  #mismatch(): CommunicatorError {
    const groups = new Map<string, number[]>();
    for (let rank = 0; rank < this.size; rank++) {
      const found = this.#control.recordOf(rank, this.#seq) ?? this.#control.lastRecord(rank);
      const text = describeRecord(found);
      groups.set(text, [...groups.get(text) ?? [], rank]);
    }
    const sides = [...groups].map(([text, ranks]) => `${this.#name(ranks)}: ${text}`);
    const told = this.#control.aborted;
    // The same call with counts that do not fit: whoever saw it said how.
    const text = groups.size === 1 && told?.kind === "mismatch" ? this.#control.reason(told.culprit) : "";
    return this.#fail(
      new CollectiveMismatch(
        text || `Ranks of group "${this.#o.name}" called different collectives: ${sides.join("; ")}`,
        {
          hint: "all ranks of a group must call the same collectives in the same order with the same arguments",
        },
      ),
      "mismatch",
    );
  }

  #timeout(missing: readonly number[], timeoutMs: number, what?: () => string): CommunicatorError {
    const last = missing.map((rank) =>
      `${this.#name([rank])} last did ${describeRecord(this.#control.lastRecord(rank))}`
    );
    const seconds = (timeoutMs / 1000).toFixed(timeoutMs < 10000 ? 1 : 0);
    return new CollectiveTimeout(
      `${this.#waiting(what)} waited ${seconds} s for ${this.#name(missing)}: ${last.join(", ")}`,
      missing,
      { hint: "look at what the missing ranks are doing, or pass a longer timeoutMs" },
    );
  }

  #lost(kind: "left" | "lost", rank: number, doing?: () => string): PeerLost {
    const last = describeRecord(this.#control.lastRecord(rank));
    const what = kind === "left"
      ? "left the group normally"
      : `ended (process ${this.#control.identity(rank)?.pid ?? "?"})`;
    return new PeerLost(
      `${this.#name([rank])} of group "${this.#o.name}" ${what} after ${last}; ${this.#waiting(doing)} waits for it`,
      rank,
      {
        hint: kind === "left"
          ? "all ranks must call the same collectives before they close"
          : "its own output says why it ended",
      },
    );
  }

  #explainAbort(kind: AbortKind, culprit: number): CommunicatorError {
    if (kind === "left" || kind === "lost") return this.#lost(kind, culprit);
    if (kind === "mismatch") return this.#mismatch();
    const did = kind === "timeout" ? "gave up waiting" : "aborted the group", why = this.#control.reason(culprit);
    return new CollectiveAborted(
      `${this.#name([culprit])} of group "${this.#o.name}" ${did} in ${
        describeRecord(this.#control.lastRecord(culprit))
      }; ` +
        `${this.#waiting()} cannot go on${why === "" ? "" : `: ${why}`}`,
      culprit,
      { hint: "the first failing rank's output says why" },
    );
  }

  /** This rank, and what it does: the message that it waits for, or its last collective. */
  #waiting(what?: () => string): string {
    if (what !== undefined) return `${this.#name([this.rank])} ${what()}`;
    return `${this.#name([this.rank])} in ${describeRecord(this.#control.lastRecord(this.rank))}`;
  }

  /** Ranks as people know them: those of the job, and those of the group where they differ. */
  #name(ranks: readonly number[]): string {
    const global = ranks.map((r) => this.#o.ranks[r] ?? r);
    const text = `rank${ranks.length === 1 ? "" : "s"} ${global.join(", ")}`;
    return ranks.every((r, i) => r === global[i]) ? text : `${text} (${ranks.join(", ")} of the group)`;
  }
}
