/** One rank's end of a NCCL communicator: what it waits for, and how it gives up. */
import { CudaError } from "../../../ffi/cuda_error.ts";
import { CudaEvent, CudaStream } from "../../../ffi/cuda_handles.ts";
import { NCCL_ENUM } from "../../../ffi/nccl.ts";
import { countsThatDiffer, type Steps } from "../collectives.ts";
import type { OperationCode } from "../control_block.ts";
import { CommunicatorError } from "../errors.ts";
import type { Waiting } from "../work.ts";
import type { NcclProcess } from "./nccl_process.ts";
import { turn } from "./turn.ts";
import type { Watch } from "./watch.ts";

/** Which group this is. */
export interface NcclGroupOptions {
  readonly process: NcclProcess;
  /** The `ncclComm_t`, ready. */
  readonly comm: bigint;
  readonly watch: Watch;
  readonly name: string;
  readonly rank: number;
  /** The members as ranks of the job. */
  readonly ranks: readonly number[];
}

/** How long waits turn the event loop at full speed before they sleep between looks, in milliseconds. */
const EAGER_MS = 3;
/** How often to look for what can go wrong while NCCL works, in milliseconds. */
const CHECK_MS = 5;
/** How long a communicator may take to end, in milliseconds; then it is aborted. */
const END_MS = 5000;

/** A member's state. */
export class NcclGroup implements Waiting, Disposable {
  readonly process: NcclProcess;
  readonly watch: Watch;
  readonly name: string;
  readonly rank: number;
  readonly size: number;
  readonly ranks: readonly number[];
  /** All members but this one. */
  readonly others: readonly number[];
  /** Where collectives of host memory run. */
  readonly stream: CudaStream;
  readonly spinMs = 0.05;
  #comm: bigint;
  #event: CudaEvent;
  /** What the present collective waits for; its members' coming, or NCCL. */
  #until: (() => boolean) | undefined;
  #meeting = false;
  #idleSince = 0;
  #checked = 0;
  #started = 0;
  #timeoutMs = Infinity;
  #failure: CommunicatorError | undefined;
  #losses: (() => void)[] = [];

  constructor(o: NcclGroupOptions) {
    this.process = o.process;
    this.watch = o.watch;
    this.name = o.name;
    this.rank = o.rank;
    this.size = o.ranks.length;
    this.ranks = o.ranks;
    this.others = o.ranks.map((_, r) => r).filter((r) => r !== o.rank);
    this.#comm = o.comm;
    this.stream = new CudaStream(o.process.driver);
    this.#event = new CudaEvent(o.process.driver);
  }

  /** The `ncclComm_t`. @throws {CommunicatorError} If the group has failed. */
  get comm(): bigint {
    this.requireHealth();
    return this.#comm;
  }

  /** Whether it has failed, so that its ranks are out of step. */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** `call` is told when the group fails, before NCCL ends. */
  whenLost(call: () => void): void {
    this.#losses.push(call);
  }

  /** @throws {CommunicatorError} If the group has failed. */
  requireHealth(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  begin(op: OperationCode, timeoutMs: number, calledAt?: number): void {
    this.requireHealth();
    this.watch.begin(op, timeoutMs, calledAt);
    this.#started = this.#idleSince = performance.now();
    this.#timeoutMs = timeoutMs;
  }

  end(at?: number): void {
    this.watch.end(at);
  }

  /** Waits until all members have come to this collective, as far as they can be seen, and mean the same. */
  *meet(): Steps {
    if (this.size === 1 || !this.watch.meets) return;
    this.watch.arrive();
    this.#meeting = true;
    yield* this.#wait(() => this.watch.passed());
    this.#meeting = false;
  }

  /**
   * The same before an exchange of all with all, whose counts each rank knows for itself only: NCCL would wait for ever for what is
   * not sent.
   */
  *meetWithCounts(sendCounts: readonly number[], recvCounts: readonly number[]): Steps {
    const { slots } = this.watch;
    if (this.size === 1 || slots === undefined) return yield* this.meet();
    const counts = (slot: Uint8Array) => new Float64Array(slot.buffer, slot.byteOffset, 2 * this.size);
    this.guard(() => counts(slots.mine).set([...sendCounts, ...recvCounts]));
    yield* this.meet();
    const text = countsThatDiffer(Array.from({ length: this.size }, (_, r) => counts(slots.slot(r))));
    slots.flip();
    if (text !== undefined) throw this.#giveUp(slots.disagree(text));
  }

  /** Calls NCCL by `enqueue`, which returns its status, and waits until it has taken the call. */
  *call(name: string, enqueue: () => number): Steps {
    if (!this.connected()) yield* this.#wait(() => this.connected()); // another call of this communicator comes first
    const status = this.guard(enqueue);
    if (status !== NCCL_ENUM.ncclSuccess) this.guard(() => this.process.nccl.check(status, name));
    if (status === NCCL_ENUM.ncclInProgress) yield* this.#wait(() => this.connected());
  }

  /** Waits until the stream has done all that it was given. */
  *settle(): Steps {
    this.guard(() => this.#event.record(this.stream.value));
    yield* this.#wait(() => this.guard(() => this.#event.done()));
  }

  /** Whether NCCL has taken the last call. @throws {CommunicatorError} If it has failed. */
  connected(): boolean {
    const state = this.process.nccl.asyncError(this.comm);
    if (state === NCCL_ENUM.ncclInProgress) return false;
    if (state !== NCCL_ENUM.ncclSuccess) this.#ncclFailed(state);
    return true;
  }

  passed(): boolean {
    this.requireHealth();
    if (this.#until === undefined) return true;
    let done;
    try {
      done = this.#until();
    } catch (error) {
      throw this.#giveUp(error);
    }
    if (!done) return false;
    this.#until = undefined;
    this.#idleSince = performance.now();
    return true;
  }

  waitSync(): void {
    while (!this.passed()) {
      if (this.#meeting) this.watch.nap(() => this.#peek());
      else if (performance.now() - this.#idleSince > EAGER_MS) this.#rest();
      else this.process.libc.yieldNow();
      this.check();
    }
  }

  spin(): boolean {
    if (this.#meeting && !this.watch.spin()) return false;
    for (const end = performance.now() + this.spinMs;;) {
      if (this.passed()) return true;
      if (performance.now() >= end) return false;
    }
  }

  relax(): void {
    this.process.libc.yieldNow();
  }

  async sleep(ready: () => boolean): Promise<void> {
    if (this.#waitsForMembers) await this.watch.sleep(ready);
    else if (ready()) this.#idleSince = performance.now();
    else if (performance.now() - this.#idleSince < EAGER_MS) {
      this.process.libc.yieldNow(); // where cores are few, NCCL's own threads need this one
      await turn();
    } else await new Promise((go) => setTimeout(go, 1));
  }

  nap(ready: () => boolean): void {
    if (this.#waitsForMembers) this.watch.nap(ready);
    else if (!ready()) this.#rest();
  }

  check(): void {
    this.requireHealth();
    try {
      if (this.#meeting) return this.watch.checkComing();
      const now = performance.now();
      if (now - this.#checked < CHECK_MS) return;
      this.#checked = now;
      this.watch.checkPeers(this.others, this.#started, this.#timeoutMs);
    } catch (error) {
      throw this.#giveUp(error);
    }
    const state = this.process.nccl.asyncError(this.#comm);
    if (state !== NCCL_ENUM.ncclSuccess && state !== NCCL_ENUM.ncclInProgress) this.#ncclFailed(state);
  }

  abort(error: CommunicatorError): void {
    if (this.#failure !== undefined) return;
    this.#giveUp(error);
  }

  /** Calls what may fail for the GPU's or NCCL's reasons; such a failure ends the group. */
  guard<T>(call: () => T): T {
    this.requireHealth();
    try {
      return call();
    } catch (error) {
      if (error instanceof CudaError) throw this.#giveUp(this.#lostPeer() ?? error);
      throw error instanceof CommunicatorError ? this.#giveUp(error) : error;
    }
  }

  /** Leaves. `clean`: nothing is under way, so that NCCL can end in order. */
  leave(clean: boolean): void {
    const { nccl } = this.process;
    if (this.#failure === undefined) {
      if (!clean || !this.#finalized()) nccl.raw.ncclCommAbort(this.#comm);
      else nccl.raw.ncclCommDestroy(this.#comm);
      this.#failure = new CommunicatorError(`Cannot use group "${this.name}": it is closed`);
    }
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#event[Symbol.dispose]();
    this.stream[Symbol.dispose]();
    this.watch[Symbol.dispose]();
  }

  /** Whether nothing is waited for but what members do: their coming, or their messages. */
  get #waitsForMembers(): boolean {
    return this.watch.meets && (this.#meeting || this.#until === undefined);
  }

  *#wait(until: () => boolean): Steps {
    this.#until = until;
    while (!this.passed()) yield;
  }

  #peek(): boolean {
    return this.#until === undefined || this.#until();
  }

  #rest(): void {
    Atomics.wait(NEVER, 0, 0, 0.2);
  }

  #finalized(): boolean {
    const { nccl } = this.process;
    if (nccl.raw.ncclCommFinalize(this.#comm) > NCCL_ENUM.ncclInProgress) return false;
    for (const end = performance.now() + END_MS; performance.now() < end;) {
      const state = nccl.asyncError(this.#comm);
      if (state === NCCL_ENUM.ncclSuccess) return true;
      if (state !== NCCL_ENUM.ncclInProgress) return false;
      this.#rest();
    }
    return false;
  }

  /** @throws {CommunicatorError} */
  #ncclFailed(state: number): never {
    throw this.#giveUp(this.#lostPeer() ?? this.process.nccl.error(state, "NCCL"));
  }

  /** A dead or disagreeing peer explains more than the code of a library does. */
  #lostPeer(): unknown {
    try {
      this.watch.checkPeers(this.others, performance.now(), Infinity);
    } catch (error) {
      return error;
    }
  }

  /** Ends the group here and at the others, once. */
  #giveUp(error: unknown): CommunicatorError {
    if (this.#failure !== undefined) return this.#failure;
    const failure = error instanceof CommunicatorError
      ? error
      : new CommunicatorError(`Rank ${this.ranks[this.rank]} of group "${this.name}" failed in ${this.watch.what}`, {
        cause: error,
        ...(error instanceof CudaError && error.hint !== undefined ? { hint: error.hint } : {}),
      });
    this.#failure = failure;
    this.#until = undefined;
    for (const call of this.#losses) call();
    this.watch.abort(failure);
    failure.lastCollective ??= `${this.name}#${this.watch.what}`;
    this.process.nccl.raw.ncclCommAbort(this.#comm); // whatever it says: there is nothing more to do
    return failure;
  }
}

const NEVER = new Int32Array(new SharedArrayBuffer(4));
