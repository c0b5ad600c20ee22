/** One rank's end of an MPI communicator: the request that is under way, and how to wait for it without being blind. */
import type { Handle } from "../../../ffi/mpi.ts";
import { decodeOperation, describeRecord, type OperationCode } from "../control_block.ts";
import { CollectiveAborted, CollectiveMismatch, CollectiveTimeout, CommunicatorError, PeerLost } from "../errors.ts";
import type { FlightRecorder, FlightRing, FlightSource } from "../flight_recorder.ts";
import { isAlive, type ProcessIdentity } from "../process_identity.ts";
import type { Waiting } from "../work.ts";
import type { MpiRuntime } from "./mpi_runtime.ts";
import type { Listener, Notice, Notices } from "./notices.ts";

/** Which group this is. */
export interface MpiGroupOptions {
  readonly runtime: MpiRuntime;
  readonly notices: Notices;
  readonly comm: Handle;
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
  /** Whether all ranks tell each other what they call before each collective. */
  readonly checked: boolean;
  /** The processes of the ranks of the job, where this one can see them. */
  readonly processes: readonly (ProcessIdentity | undefined)[];
  readonly flight: FlightRecorder;
  /** What waits for its turn, for the recorder. */
  readonly pending: Pick<FlightSource, "queued" | "messages">;
}

/** How long ranks may take to say where they are, in milliseconds. */
const ANSWER_MS = 1000;
/** How often a rank that waits looks whether those that it can see still live, in milliseconds. */
const LOOK_MS = 100;
/** How long waits turn the event loop at full speed before they sleep between looks, in milliseconds. */
const EAGER_MS = 3;

const SAME_CALLS = "all ranks of a group must call the same collectives in the same order with the same arguments";
const ENDED = "its own output says why it ended";
const LATE = "look at what the missing ranks are doing, or pass a longer timeoutMs";

/** Where another rank is, as it told. */
interface Whereabouts {
  readonly seq: number;
  readonly what: string;
}

/** A member's state. */
export class MpiGroup implements Waiting, Listener {
  readonly runtime: MpiRuntime;
  readonly comm: Handle;
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly ranks: readonly number[];
  readonly checked: boolean;
  readonly spinMs: number;
  /** MPI's word for what is under way. */
  readonly request = new Uint8Array(new ArrayBuffer(8));
  #notices: Notices;
  #processes: readonly (ProcessIdentity | undefined)[];
  #lookedAt = 0;
  #flight: FlightRecorder;
  #ring: FlightRing;
  #call: string | undefined;
  #memory: unknown;
  #seq = 0;
  #operation: OperationCode | undefined;
  #timeoutMs = 0;
  #deadline = Infinity;
  /** Since when nothing has moved. */
  #idleSince = 0;
  #failure: CommunicatorError | undefined;
  #asked: { readonly until: number; readonly answers: Map<number, Whereabouts> } | undefined;

  constructor(o: MpiGroupOptions) {
    this.runtime = o.runtime;
    this.comm = o.comm;
    this.name = o.name;
    this.rank = o.rank;
    this.size = o.ranks.length;
    this.ranks = o.ranks;
    this.checked = o.checked;
    this.spinMs = o.runtime.crowded ? 0 : 0.05;
    this.#notices = o.notices;
    this.#processes = o.ranks.map((job, r) => r === o.rank ? undefined : o.processes[job]);
    this.#flight = o.flight;
    this.#ring = o.flight.open({ name: o.name, ranks: o.ranks, ...o.pending });
    o.notices.add(this);
  }

  begin(op: OperationCode, timeoutMs: number, calledAt = 0): void {
    this.#requireHealth();
    this.#seq++;
    this.#ring.begin(this.#seq, op, calledAt);
    this.#operation = op;
    this.#timeoutMs = timeoutMs;
    this.#idleSince = performance.now();
    this.#deadline = this.#idleSince + timeoutMs;
    this.#asked = undefined;
  }

  end(at = 0): void {
    this.#ring.end(at);
  }

  /** What this rank does, as messages print it. */
  get what(): string {
    return describeRecord(this.#operation && { ...decodeOperation(this.#operation), seq: this.#seq });
  }

  /** Begins to wait for `request`, which `call` has just filled; `memory` is what MPI uses until then. @throws {MpiError} */
  start(code: number, call: string, memory: unknown): void {
    if (code !== 0) this.#fail(this.runtime.error(code, call));
    this.#call = call;
    this.#memory = memory;
  }

  passed(): boolean {
    if (this.#call === undefined) return true;
    const { symbols, scratch } = this.runtime;
    const code = symbols.MPI_Test(this.request, scratch.flag, scratch.status);
    if (code !== 0) this.#fail(this.runtime.error(code, this.#call));
    if (scratch.flag[0] === 0) return false;
    this.#call = this.#memory = undefined;
    return true;
  }

  waitSync(): void {
    for (let i = 0; !this.passed(); i++) if (i > (this.runtime.crowded ? 10 : 1000)) this.#pause();
  }

  spin(): boolean {
    for (const end = performance.now() + this.spinMs;;) {
      if (this.passed()) return true;
      if (performance.now() >= end) return false;
    }
  }

  relax(): void {}

  async sleep(ready: () => boolean): Promise<void> {
    const now = performance.now();
    if (ready()) this.#idleSince = now;
    else if (now - this.#idleSince < EAGER_MS && !this.runtime.crowded) await new Promise((go) => setImmediate(go));
    else await new Promise((go) => setTimeout(go, 1));
  }

  nap(ready: () => boolean): void {
    if (!ready()) this.#pause();
  }

  /** Notes that something is under way now, so that it is looked for eagerly. */
  touch(): void {
    this.#idleSince = performance.now();
  }

  check(): void {
    const now = performance.now();
    this.#notices.poll(now);
    this.#requireHealth();
    this.#lookForDead(now);
    if (now >= this.#deadline) this.#late(now);
  }

  /** As {@linkcode check}, where no collective is under way. */
  listen(): void {
    const now = performance.now();
    this.#notices.poll(now);
    this.#requireHealth();
    this.#lookForDead(now);
  }

  abort(error: CommunicatorError): void {
    if (this.#failure !== undefined) return;
    this.#giveUp(error);
  }

  hear(notice: Notice): void {
    if (notice.kind === "abort") {
      this.#failure ??= this.#explain(notice);
      this.#settleFailure();
      return;
    }
    this.#asked?.answers.set(notice.from, notice);
    if (notice.kind === "ask") this.#notices.tell(this.#whereabouts("here"), [this.ranks[notice.from]!]);
  }

  /** Fails the group because messages are late. @throws {CollectiveTimeout} */
  lateMessage(what: string, missing: readonly number[], timeoutMs: number): never {
    const whom = missing.length > 0 ? missing.map((r) => this.#nameOf(r)).join(", ") : "any rank";
    this.#fail(
      new CollectiveTimeout(
        `${this.#nameOf(this.rank)} of group "${this.name}" waited ${seconds(timeoutMs)} to ${what} ${whom}`,
        missing,
        { hint: "look at what that rank is doing, or pass a longer timeoutMs" },
      ),
    );
  }

  /** Leaves. */
  release(): void {
    if (this.#call !== undefined) this.runtime.abandon([this.request, this.#memory]);
    this.#call = undefined;
    this.#notices.remove(this);
    this.#flight.close(this.#ring);
  }

  /** Whether it has failed, so that its ranks are out of step. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Fails the group here and at the others. @throws {CommunicatorError} */
  mismatch(sides: readonly string[]): never {
    this.#fail(
      new CollectiveMismatch(`Ranks of group "${this.name}" called different collectives: ${sides.join("; ")}`, {
        hint: SAME_CALLS,
      }),
    );
  }

  #pause(): void {
    this.check();
    this.runtime.pumpAll();
    if (this.runtime.crowded) this.runtime.nap(0.02);
    else if (performance.now() - this.#idleSince > EAGER_MS) this.runtime.nap(0.2);
  }

  /** MPI never says that a rank has died. Those on its host see it, and tell the others. @throws {PeerLost} */
  #lookForDead(now: number): void {
    if (now - this.#lookedAt < LOOK_MS) return;
    this.#lookedAt = now;
    const dead = this.#processes.findIndex((process) => process !== undefined && !isAlive(process));
    if (dead >= 0) this.#fail(this.#lost(dead, `process ${this.#processes[dead]!.pid}`));
  }

  #lost(rank: number, who: string): PeerLost {
    return new PeerLost(
      `${this.#nameOf(rank)} of group "${this.name}" ended (${who}); ${
        this.#nameOf(this.rank)
      } in ${this.what} waits for the group`,
      rank,
      { hint: ENDED },
    );
  }

  /** The time is over: asks all where they are, and once they had time to answer, says who is missing. */
  #late(now: number): void {
    const others = this.ranks.filter((_, r) => r !== this.rank);
    if (this.#asked === undefined) {
      this.#asked = { until: now + ANSWER_MS, answers: new Map() };
      this.#notices.tell(this.#whereabouts("ask"), others);
    }
    const { until, answers } = this.#asked;
    if (now < until && answers.size < others.length) return;
    const here = [...answers].filter(([, a]) => a.seq === this.#seq);
    if (here.some(([, a]) => a.what !== this.what)) {
      this.mismatch([[this.rank, this] as const, ...here].map(([r, a]) => `${this.#nameOf(r)} ${a.what}`));
    }
    const missing = others.map((r) => this.ranks.indexOf(r)).filter((r) => (answers.get(r)?.seq ?? 0) < this.#seq);
    const last = missing.map((r) => {
      const told = answers.get(r);
      return `${this.#nameOf(r)} ${
        told === undefined ? "does not answer: it computes, or has ended" : `is in ${told.what}`
      }`;
    });
    const whom = missing.length > 0
      ? `for ${missing.map((r) => this.#nameOf(r)).join(", ")}: ${last.join(", ")}`
      : "although all ranks have come: the network may be stuck";
    this.#fail(
      new CollectiveTimeout(
        `${this.#nameOf(this.rank)} in ${this.what} of group "${this.name}" waited ${seconds(this.#timeoutMs)} ${whom}`,
        missing,
        { hint: LATE },
      ),
    );
  }

  /** What another rank's giving up means here: the same to ranks that waited with it, the end to those it waited for. */
  #explain(notice: Extract<Notice, { kind: "abort" }>): CommunicatorError {
    if (notice.cause === "mismatch") return new CollectiveMismatch(notice.why, { hint: SAME_CALLS });
    if (notice.cause === "lost") return this.#lost(notice.missing[0]!, `as rank ${this.ranks[notice.from]} saw`);
    if (notice.cause === "timeout" && !notice.missing.includes(this.rank)) {
      return new CollectiveTimeout(notice.why, notice.missing, { hint: LATE });
    }
    return new CollectiveAborted(
      `${this.#nameOf(notice.from)} of group "${this.name}" gave up; ${
        this.#nameOf(this.rank)
      } in ${this.what} cannot go on: ${notice.why}`,
      notice.from,
      { hint: "the first failing rank's output says why" },
    );
  }

  #whereabouts(kind: "ask" | "here"): Notice {
    return { kind, group: this.name, from: this.rank, seq: this.#seq, what: this.what };
  }

  #fail(error: CommunicatorError): never {
    this.#giveUp(error);
    throw this.#failure!;
  }

  #giveUp(error: CommunicatorError): void {
    if (this.#failure === undefined) {
      this.#failure = error;
      error.lastCollective ??= `${this.name}#${this.what}`;
      const detail = error.cause instanceof Error ? ` (${error.cause.message.split("\n")[0]})` : "";
      const why = `${error.message}${detail}`;
      const cause = error instanceof CollectiveMismatch
        ? "mismatch"
        : error instanceof CollectiveTimeout
        ? "timeout"
        : error instanceof PeerLost
        ? "lost"
        : "own";
      const missing = error instanceof CollectiveTimeout
        ? error.missing
        : error instanceof PeerLost
        ? [error.rank]
        : [];
      const others = this.ranks.filter((_, r) => r !== this.rank && !(cause === "lost" && r === missing[0]));
      this.#notices.tell({ kind: "abort", group: this.name, from: this.rank, cause, missing, why }, others);
    }
    this.#settleFailure();
  }

  #settleFailure(): void {
    this.runtime.fail();
    if (this.#call !== undefined) this.runtime.abandon([this.request.slice(), this.#memory]);
    this.#call = this.#memory = undefined;
    this.#flight.dump(this.#failure!); // after the others know, since it takes a moment
  }

  #requireHealth(): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.runtime.finalized) throw new CommunicatorError(`Cannot use group "${this.name}": MPI has ended`);
  }

  #nameOf(rank: number): string {
    const job = this.ranks[rank]!;
    return job === rank ? `rank ${rank}` : `rank ${rank} (rank ${job} of the job)`;
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
}
